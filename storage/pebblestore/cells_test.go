package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// slowFS counts the syncs of its files and makes each of them long.
type slowFS struct {
	vfs.FS
	syncs atomic.Int64
}

func (f *slowFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return slowFile{file, f}, err
}

type slowFile struct {
	vfs.File
	fs *slowFS
}

func (f slowFile) Sync() error     { return f.sync(f.File.Sync) }
func (f slowFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f slowFile) sync(do func() error) error {
	f.fs.syncs.Add(1)
	time.Sleep(5 * time.Millisecond)
	return do()
}

// TestSwapsShareSyncs swaps many cells at once, each twice over: one of the two wins, and
// the syncs are far fewer than the swaps.
func TestSwapsShareSyncs(t *testing.T) {
	const cells = 100
	ctx := context.Background()
	fsys := &slowFS{FS: vfs.NewMem()}
	s := create(t, "store", pebblestore.Options{FS: fsys})
	before := fsys.syncs.Load()
	var won [cells]atomic.Int64
	var wg sync.WaitGroup
	for i := range 2 * cells {
		wg.Go(func() {
			err := s.SwapCell(ctx, fmt.Sprint(i%cells), nil, fmt.Append(nil, i))
			if err == nil {
				won[i%cells].Add(1)
			} else if !errors.Is(err, storage.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range won {
		if n := won[i].Load(); n != 1 {
			t.Errorf("%d swaps of cell %d won, want 1", n, i)
		}
		if got, err := s.Cell(ctx, fmt.Sprint(i)); err != nil || (string(got) != fmt.Sprint(i) && string(got) != fmt.Sprint(i+cells)) {
			t.Errorf("cell %d holds %q, %v", i, got, err)
		}
	}
	if n := fsys.syncs.Load() - before; n < 1 || n > cells/2 {
		t.Errorf("%d swaps took %d syncs", cells, n)
	}
}
