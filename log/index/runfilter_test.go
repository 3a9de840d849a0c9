package index_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/log/index"
)

// largest returns the largest file of dir whose name begins with a prefix.
func largest(t *testing.T, fs vfs.FS, dir, prefix string) (path string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, prefix) && info.Size() > size {
			path, size = fs.PathJoin(dir, name), info.Size()
		}
	}
	if path == "" {
		t.Fatalf("no file %s", prefix)
	}
	return path
}

// flip changes a bit of a file, which may be open.
func flip(t *testing.T, fs vfs.FS, path string, fromEnd int64) {
	t.Helper()
	info, err := fs.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], info.Size()-fromEnd); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 8
	if _, err := f.WriteAt(b[:], info.Size()-fromEnd); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedFilter flips a bit of a run's filter: nothing that is there is said not to be.
// A run that is still to be merged is found out at the start, one of the last level when it
// is asked; the next start is empty.
func TestFlippedFilter(t *testing.T) {
	for name, records := range map[string]int{"a run that is still to be merged": 40, "of the last level": 40 * 80} {
		t.Run(name, func(t *testing.T) {
			for _, fromEnd := range []int64{1, 30, 64, 64*11 - 10} {
				const dir = "index"
				opts := index.Options{FS: vfs.NewMem(), RoundRecords: 40}
				x := open(t, dir, opts)
				applyInStep(t, x, uint64(records))
				closeIndex(t, x)
				flip(t, opts.FS, largest(t, opts.FS, dir, "events-"), fromEnd)
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
				if wantAtStart := records == 40; (x.Cursor().Size == 0) != wantAtStart || noticed == wantAtStart {
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
