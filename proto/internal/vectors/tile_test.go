package vectors_test

import (
	"testing"

	"github.com/keytrail/keytrail/proto/tile"
)

// tileVector is one path, and what it names when it is valid.
type tileVector struct {
	Description string   `json:"description"`
	Path        string   `json:"path"`
	Valid       bool     `json:"valid"`
	Tile        *tileRef `json:"tile,omitempty"`
}

type tileRef struct {
	Entries bool   `json:"entries"`
	Level   uint8  `json:"level"`
	Index   uint64 `json:"index,string"`
	Width   int    `json:"width"`
}

var tiles = map[string]tileVector{
	"first":             {"The first full tile of leaf hashes.", "tile/0/000", true, &tileRef{false, 0, 0, 256}},
	"partial":           {"A partial tile.", "tile/1/001.p/17", true, &tileRef{false, 1, 1, 17}},
	"spec-example":      {"The example of tlog-tiles.", "tile/0/x001/x234/067", true, &tileRef{false, 0, 1234067, 256}},
	"four-digits":       {"An index of four digits takes two groups.", "tile/0/x001/000.p/255", true, &tileRef{false, 0, 1000, 255}},
	"highest-level":     {"The highest level that the format has.", "tile/63/000.p/1", true, &tileRef{false, 63, 0, 1}},
	"largest-index":     {"The largest number that fits 64 bits.", "tile/0/x018/x446/x744/x073/x709/x551/615", true, &tileRef{false, 0, 1<<64 - 1, 256}},
	"entries":           {"A full entry bundle.", "tile/entries/x001/x234/067", true, &tileRef{true, 0, 1234067, 256}},
	"entries-partial":   {"A partial entry bundle.", "tile/entries/000.p/9", true, &tileRef{true, 0, 0, 9}},
	"short-group":       {"Groups have three digits.", "tile/0/0", false, nil},
	"long-group":        {"Groups have three digits.", "tile/0/1000", false, nil},
	"leading-group":     {"No leading group of zeros.", "tile/0/x000/001", false, nil},
	"group-without-x":   {"All groups but the last begin with x.", "tile/0/001/000", false, nil},
	"last-group-with-x": {"The last group does not begin with x.", "tile/0/x001", false, nil},
	"level-64":          {"Levels end at 63.", "tile/64/000", false, nil},
	"level-zeros":       {"No leading zeros in a level.", "tile/00/000", false, nil},
	"width-0":           {"There is no empty tile.", "tile/0/000.p/0", false, nil},
	"width-256":         {"A full tile has no width in its path.", "tile/0/000.p/256", false, nil},
	"width-zeros":       {"No leading zeros in a width.", "tile/0/000.p/01", false, nil},
	"index-too-large":   {"An index of more than 64 bits.", "tile/0/x018/x446/x744/x073/x709/x551/616", false, nil},
	"leading-slash":     {"Paths are relative to the log's URL.", "/tile/0/000", false, nil},
	"trailing-slash":    {"Nothing follows the index.", "tile/0/000/", false, nil},
	"data":              {"The name of entry bundles in the Go checksum database.", "tile/data/000", false, nil},
}

func TestTileVectors(t *testing.T) {
	run(t, "tile", tiles, func(t *testing.T, v tileVector) {
		got, err := tile.ParsePath(v.Path)
		if (err == nil) != v.Valid {
			t.Fatalf("ParsePath: %+v, %v", got, err)
		}
		if !v.Valid {
			return
		}
		want := tile.Ref{Entries: v.Tile.Entries, Level: v.Tile.Level, Index: v.Tile.Index, Width: v.Tile.Width}
		if got != want {
			t.Errorf("ParsePath: %+v, want %+v", got, want)
		}
		if path := want.Path(); path != v.Path {
			t.Errorf("Path: %q", path)
		}
	})
}
