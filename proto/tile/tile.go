// Package tile names the parts in which a log's tree is served (C2SP tlog-tiles): tiles
// of 256 hashes and bundles of 256 entries.
//
// Pure functions; safe for concurrent use. They are trusted to accept one spelling of a
// path only, so that a cache can never hold one tile under two names.
package tile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Width is the number of hashes in a full tile, and of entries in a full bundle.
const Width = 256

// MaxLevel is the highest level that tlog-tiles can name. A tree of 2^64 entries ends at
// level 7.
const MaxLevel = 63

// maxPathLength is the length of the longest path: entries, seven groups of digits and a
// partial width, in bytes.
const maxPathLength = len("tile/entries/x018/x446/x744/x073/x709/x551/615.p/255")

// ErrPath means that a path is not the name of a tile or an entry bundle.
var ErrPath = errors.New("tile: not a tlog-tiles path")

// Ref names one tile or one entry bundle.
type Ref struct {
	// Entries is true for an entry bundle; its Level is 0.
	Entries bool
	// Level is 0 to MaxLevel.
	Level uint8
	// Index is the number of the tile on its level, from 0.
	Index uint64
	// Width is 1 to 256; less than 256 is a partial tile.
	Width int
}

// Path returns the path of a tile below the log's URL prefix, as "tile/0/x001/234.p/56".
// It panics when level is above MaxLevel or width is not 1 to 256: a tile outside those
// bounds has no name.
func Path(level uint8, index uint64, width int) string {
	return Ref{Level: level, Index: index, Width: width}.Path()
}

// EntriesPath returns the path of an entry bundle, as "tile/entries/x001/234.p/56". It
// panics when width is not 1 to 256.
func EntriesPath(index uint64, width int) string {
	return Ref{Entries: true, Index: index, Width: width}.Path()
}

// Path returns the path that ParsePath reads. It panics as the function Path does.
func (r Ref) Path() string {
	if r.Level > MaxLevel || r.Width < 1 || r.Width > Width || (r.Entries && r.Level != 0) {
		panic(fmt.Sprintf("tile: no path for %+v", r))
	}
	b := make([]byte, 0, maxPathLength)
	b = append(b, "tile/"...)
	if r.Entries {
		b = append(b, "entries"...)
	} else {
		b = strconv.AppendUint(b, uint64(r.Level), 10)
	}
	b = appendIndex(b, r.Index)
	if r.Width < Width {
		b = append(b, ".p/"...)
		b = strconv.AppendInt(b, int64(r.Width), 10)
	}
	return string(b)
}

// appendIndex appends "/" and groups of three digits, each but the last with an x.
func appendIndex(b []byte, n uint64) []byte {
	digits := fmt.Sprintf("%03d", n)
	if pad := len(digits) % 3; pad != 0 {
		digits = "000"[pad:] + digits
	}
	for len(digits) > 3 {
		b = append(b, "/x"...)
		b = append(b, digits[:3]...)
		digits = digits[3:]
	}
	b = append(b, '/')
	return append(b, digits...)
}

// ParsePath reads a path below the log's URL prefix. It accepts exactly what Path and
// EntriesPath write; anything else is ErrPath.
func ParsePath(path string) (Ref, error) {
	if len(path) > maxPathLength {
		return Ref{}, ErrPath
	}
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return Ref{}, ErrPath
	}
	level, rest, _ := strings.Cut(rest, "/")
	r := Ref{Width: Width}
	if level == "entries" {
		r.Entries = true
	} else if l, err := strconv.ParseUint(level, 10, 8); err != nil || l > MaxLevel {
		return Ref{}, ErrPath
	} else {
		r.Level = uint8(l)
	}
	groups, width, partial := strings.Cut(rest, ".p/")
	if partial {
		w, err := strconv.ParseUint(width, 10, 8)
		if err != nil || w == 0 {
			return Ref{}, ErrPath
		}
		r.Width = int(w)
	}
	index, err := strconv.ParseUint(strings.NewReplacer("/", "", "x", "").Replace(groups), 10, 64)
	if err != nil {
		return Ref{}, ErrPath
	}
	r.Index = index
	// Numbers that were read from another spelling write the canonical one.
	if r.Path() != path {
		return Ref{}, ErrPath
	}
	return r, nil
}

// WidthAt returns how many hashes the tile holds in a tree of size entries: 0 (there is
// no such tile) to 256. An entry bundle is as wide as the tile of level 0 with its index.
func WidthAt(level uint8, index, size uint64) int {
	if level >= 8 {
		return 0
	}
	nodes := size >> (8 * level)
	if index > nodes/Width {
		return 0
	}
	return int(min(nodes-index*Width, Width))
}
