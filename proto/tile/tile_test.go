package tile_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/proto/tile"
)

// TestPathAgainstSumDB compares with the paths of golang.org/x/mod/sumdb/tlog, which have
// the height of a tile as one more element and call entry bundles "data".
func TestPathAgainstSumDB(t *testing.T) {
	check := func(level int, index int64, width int) {
		t.Helper()
		sumdb := tlog.Tile{H: 8, L: level, N: index, W: width}.Path()
		want := "tile/" + strings.TrimPrefix(sumdb, "tile/8/")
		ref := tile.Ref{Level: uint8(max(level, 0)), Index: uint64(index), Width: width}
		got := tile.Path(ref.Level, ref.Index, width)
		if level < 0 {
			want = strings.Replace(want, "tile/data/", "tile/entries/", 1)
			ref.Entries = true
			got = tile.EntriesPath(ref.Index, width)
		}
		if got != want {
			t.Fatalf("path of level %d, index %d, width %d is %q, want %q", level, index, width, got, want)
		}
		if back, err := tile.ParsePath(got); err != nil || back != ref {
			t.Fatalf("ParsePath(%q) = %+v, %v; want %+v", got, back, err, ref)
		}
	}
	for level := -1; level <= 8; level++ {
		for _, width := range []int{1, 9, 10, 99, 100, 255, 256} {
			for index := range int64(2500) {
				check(level, index, width)
			}
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		index := rnd.Int64() >> rnd.IntN(63)
		check(rnd.IntN(tile.MaxLevel+2)-1, index, 1+rnd.IntN(256))
	}
}

func TestParsePathRefuses(t *testing.T) {
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "/tile/0/000", "tile/0/000/", "tile//000",
		"tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/1234", "tile/00/000", "tile/+1/000", "tile/-1/000",
		"tile/64/000", "tile/256/000", "tile/0/x000/001", "tile/0/x001", "tile/0/001/234", "tile/0/x001x234/567",
		"tile/0/001x", "tile/0/X001/234", "tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0", "tile/0/000.p/256",
		"tile/0/000.p/01", "tile/0/000.p/1/", "tile/0/000.p/1.p/1", "tile/0/000.P/1", "tile/0/00a", "tile/0/٠٠٠",
		"tile/data/000", "tile/entries", "tile/entries/0", "tile/8/0/000", "tile/0/000?x", "tile/0/000\x00",
		"tile/0/x018/x446/x744/x073/x709/x551/616", "tile/0/x999/x999/x999/x999/x999/x999/999",
		strings.Repeat("tile/0/x001", 1000),
	} {
		if ref, err := tile.ParsePath(path); !errors.Is(err, tile.ErrPath) {
			t.Errorf("ParsePath(%.60q) = %+v, %v; want ErrPath", path, ref, err)
		}
	}
}

func TestPathPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"width 0":       func() { tile.Path(0, 0, 0) },
		"width 257":     func() { tile.Path(0, 0, 257) },
		"level 64":      func() { tile.Path(64, 0, 1) },
		"entries level": func() { tile.Ref{Entries: true, Level: 1, Width: 1}.Path() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestWidthAt compares with the example of tlog-tiles and with plain counting.
func TestWidthAt(t *testing.T) {
	for _, tt := range []struct {
		level uint8
		index uint64
		size  uint64
		want  int
	}{
		{0, 0, 0, 0},
		{0, 272, 70000, 256}, {0, 273, 70000, 112}, {0, 274, 70000, 0},
		{1, 0, 70000, 256}, {1, 1, 70000, 17}, {1, 2, 70000, 0},
		{2, 0, 70000, 1}, {3, 0, 70000, 0},
		{0, 0, 256, 256}, {0, 1, 256, 0}, {1, 0, 256, 1}, {1, 0, 255, 0},
		{7, 0, math.MaxUint64, 255}, {8, 0, math.MaxUint64, 0}, {63, 0, math.MaxUint64, 0},
		{0, math.MaxUint64 / 256, math.MaxUint64, 255}, {0, math.MaxUint64, math.MaxUint64, 0},
	} {
		if got := tile.WidthAt(tt.level, tt.index, tt.size); got != tt.want {
			t.Errorf("WidthAt(%d, %d, %d) = %d, want %d", tt.level, tt.index, tt.size, got, tt.want)
		}
	}
	for size := range uint64(70000) {
		if size%97 != 0 && size%256 != 0 {
			continue
		}
		total := 0
		for index := uint64(0); ; index++ {
			w := tile.WidthAt(0, index, size)
			if w == 0 {
				break
			}
			total += w
		}
		if total != int(size) {
			t.Fatalf("tiles of level 0 at size %d hold %d hashes", size, total)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, path := range []string{"tile/0/000", "tile/63/x001/234.p/56", "tile/entries/x018/x446/x744/x073/x709/x551/615.p/255", "tile/0/x000/001"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		ref, err := tile.ParsePath(path)
		if err != nil {
			return
		}
		if ref.Path() != path {
			t.Errorf("ParsePath(%q) = %+v, whose path is %q", path, ref, ref.Path())
		}
	})
}
