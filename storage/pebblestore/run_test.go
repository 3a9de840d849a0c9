package pebblestore_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

func TestRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(0, 300)
		if rapid.Bool().Draw(t, "same") {
			length = rapid.Just(length.Draw(t, "length"))
		}
		items := make([][]byte, rapid.IntRange(1, 256).Draw(t, "items"))
		erased := rapid.Bool().Draw(t, "erased")
		for i := range items {
			if !erased || rapid.IntRange(0, 9).Draw(t, "keep") > 0 {
				items[i] = make([]byte, length.Draw(t, "length"))
				for j := range items[i] {
					items[i][j] = byte(i + j)
				}
			}
		}
		row := pebblestore.AppendRun(nil, items)
		from := rapid.IntRange(0, len(items)).Draw(t, "from")
		got, err := pebblestore.ParseRun(row, from)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(items[from:], got); diff != "" {
			t.Errorf("items from %d differ: %s", from, diff)
		}
	})
}

// FuzzRun reads rows that nobody has written: an error or the items, never a panic.
func FuzzRun(f *testing.F) {
	for _, items := range [][][]byte{{{}}, {nil}, {{1}, {2}}, {{1, 2, 3}, nil, {}, {4}}} {
		row := pebblestore.AppendRun(nil, items)
		f.Add(row, 0)
		f.Add(row[:len(row)-1], 1)
		f.Add(append(row, 0), 2)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1}, 0)
	f.Fuzz(func(t *testing.T, row []byte, from int) {
		items, err := pebblestore.ParseRun(row, max(from, 0))
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("parsing %x: %v, want ErrCorrupt", row, err)
			}
			return
		}
		if from > 0 || len(items) == 0 {
			return
		}
		again, err := pebblestore.ParseRun(pebblestore.AppendRun(nil, items), 0)
		if diff := cmp.Diff(items, again); err != nil || diff != "" {
			t.Errorf("row %x written again: %v, %s", row, err, diff)
		}
	})
}
