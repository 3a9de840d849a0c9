package index_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/log/index"
)

// largest returns the largest file of dir with a name that matches.
func largest(t *testing.T, dir, pattern string) (path string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size {
			path, size = name, info.Size()
		}
	}
	if path == "" {
		t.Fatalf("no file %s", pattern)
	}
	return path
}

func flip(t *testing.T, path string, fromEnd int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-fromEnd] ^= 8
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedFilter flips a bit of a run's filter: nothing that is there is said not to be.
// A run that is still to be merged is found out at the start, one of the last level when it
// is asked; the next start is empty.
func TestFlippedFilter(t *testing.T) {
	for name, records := range map[string]int{"a run that is still to be merged": 4, "of the last level": 4 * 64} {
		t.Run(name, func(t *testing.T) {
			for _, fromEnd := range []int{1, 30, 64, 64*11 - 10} {
				dir := filepath.Join(t.TempDir(), "index")
				opts := index.Options{RoundRecords: 4}
				x := open(t, dir, opts)
				b := newBuilder()
				for range records {
					b.apply(t, x, 1)
				}
				x.WaitMerged(t)
				closeIndex(t, x)
				flip(t, largest(t, dir, "events-*"), fromEnd)
				x = open(t, dir, opts)
				var noticed bool
				for n := range x.Cursor().Size {
					id := eventID(n)
					at, ok, err := x.Event(&id, entries{})
					if errors.Is(err, index.ErrDamaged) {
						noticed = true
					} else if err != nil || !ok || at != n || noticed {
						t.Fatalf("event %d: %d, %v, %v", n, at, ok, err)
					}
				}
				if wantAtStart := records == 4; (x.Cursor().Size == 0) != wantAtStart || noticed == wantAtStart {
					t.Errorf("cursor is %d, damage noticed later: %v", x.Cursor().Size, noticed)
				}
				closeIndex(t, x)
				x = open(t, dir, opts)
				if got := x.Cursor().Size; got != 0 {
					t.Errorf("cursor is %d after damage", got)
				}
				closeIndex(t, x)
			}
		})
	}
}

// TestRunSaysWhatItHas looks up ids in the filters of runs alone: all that are there are
// found, and few others.
func TestRunSaysWhatItHas(t *testing.T) {
	for _, rows := range []int{1, 2, 11 * 48, 11*48 + 1, 20_000} {
		missing, perhaps, err := index.PerhapsInRun(vfs.NewMem(), rows, 20_000)
		if err != nil {
			t.Fatal(err)
		}
		if missing > 0 || perhaps > 20_000/40 {
			t.Errorf("a run of %d rows lacks %d of them and may have %d of 20000 others", rows, missing, perhaps)
		}
	}
}
