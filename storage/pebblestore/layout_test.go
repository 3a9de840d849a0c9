package pebblestore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// roomyFS has much free space, which would let Pebble widen its merges.
type roomyFS struct{ vfs.FS }

func (roomyFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 1 << 40}, nil
}

// TestTablesAreMoved sees that what a commit adds is written twice, to a log and to a
// table, and that the table is not merged with others afterwards.
func TestTablesAreMoved(t *testing.T) {
	s := create(t, "store", small(roomyFS{vfs.NewMem()}))
	b := storagetest.NewBuilder()
	random := rand.NewChaCha8([32]byte{})
	for i := range 900 {
		entries := make([]storage.Entry, i%100+1)
		for j := range entries {
			content := make([]byte, 600)
			_, _ = random.Read(content)
			entries[j] = storage.Entry{Leaf: content[:33], Payload: content[33:]}
		}
		if err := s.Commit(context.Background(), b.BatchOf(t, entries)); err != nil {
			t.Fatal(err)
		}
	}
	tree, _ := s.Metrics()
	var flushed, merged, moved uint64
	for _, l := range tree.Levels {
		flushed += l.TableBytesFlushed
		merged += l.TableBytesCompacted
		moved += l.TableBytesMoved
	}
	t.Logf("%d flushes of %d bytes, %d moved, %d merged", tree.Flush.Count, flushed, moved, merged)
	if tree.Flush.Count < 50 || moved == 0 {
		t.Errorf("%d flushes, %d bytes moved: too little for this test", tree.Flush.Count, moved)
	}
	if merged > flushed/20 {
		t.Errorf("%d bytes were flushed and %d written again by merges", flushed, merged)
	}
	storagetest.Check(t, s, b, nil)
	closeStore(t, s)
}

// TestOldFormat sees that a store of the first format is refused by name. Its files were
// Pebble's own, where now there are two directories.
func TestOldFormat(t *testing.T) {
	mem := vfs.NewMem()
	closeStore(t, create(t, "store", small(mem)))
	if err := mem.Rename("store/db", "store/both"); err != nil {
		t.Fatal(err)
	}
	if err := mem.Rename("store/both/tree", "store/db"); err != nil {
		t.Fatal(err)
	}
	_, err := pebblestore.Open("store", small(mem))
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), `"keytrail store 1"`) {
		t.Errorf("opening a store of the first format: %v, want ErrUnsupported", err)
	}
}

// heldFS holds up the syncs of logs of one database.
type heldFS struct {
	vfs.FS
	dir  string
	gate sync.RWMutex
}

func (f *heldFS) Unwrap() vfs.FS { return f.FS }

func (f *heldFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	if err != nil || !strings.Contains(name, f.dir) {
		return file, err
	}
	return heldFile{file, f}, nil
}

type heldFile struct {
	vfs.File
	fs *heldFS
}

func (f heldFile) Sync() error     { return f.sync(f.File.Sync) }
func (f heldFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f heldFile) sync(do func() error) error {
	f.fs.gate.RLock()
	defer f.fs.gate.RUnlock()
	return do()
}

// TestSwapsPassCommits swaps cells while the sync of a commit does not end.
func TestSwapsPassCommits(t *testing.T) {
	ctx := context.Background()
	fsys := &heldFS{FS: vfs.NewMem(), dir: "/tree/"}
	s := create(t, "store", small(fsys))
	b := storagetest.NewBuilder()
	fsys.gate.Lock()
	done := make(chan error, 1)
	batch := b.Batch(t, 3)
	go func() { done <- s.Commit(ctx, batch) }()
	for i := range 3 {
		if err := s.SwapCell(ctx, "cell", [][]byte{nil, {0}, {1}}[i], []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("the commit ended without its sync: %v", err)
	default:
	}
	fsys.gate.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	storagetest.Check(t, s, b, nil)
	closeStore(t, s)
}

// TestEraseWhileCommitting erases payloads while commits go on.
func TestEraseWhileCommitting(t *testing.T) {
	ctx := context.Background()
	s := create(t, "store", small(vfs.NewMem()))
	b := storagetest.NewBuilder()
	for range 20 {
		if err := s.Commit(ctx, b.Batch(t, 50)); err != nil {
			t.Fatal(err)
		}
	}
	erased := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := uint64(0); i < 1000; i += 100 {
			if err := s.ErasePayloads(ctx, []uint64{i, i + 1, 990}); err != nil {
				erased <- err
				return
			}
		}
		erased <- nil
	}()
	for more := true; more; {
		select {
		case <-stop:
			more = false
		default:
		}
		if err := s.Commit(ctx, b.Batch(t, 7)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-erased; err != nil {
		t.Fatal(err)
	}
	gone := func(i uint64) bool { return i < 1000 && i%100 < 2 || i == 990 }
	storagetest.Check(t, s, b, gone)
	closeStore(t, s)
}

// TestRowsAndHead changes rows behind the store's back: what lies beyond the head is found
// when it is opened, and what is missing or ends early when it is read.
func TestRowsAndHead(t *testing.T) {
	ctx := context.Background()
	x := [][]byte{make([]byte, storage.HashSize)}
	for _, c := range []struct {
		what  string
		kind  byte
		last  uint64
		items [][]byte
	}{
		{"a leaf beyond the head", 'l', 600, x},
		{"a payload beyond the head", 'p', 600, x},
		{"a node beyond the head", 'A', 2, x},
		{"a node of level 2 beyond the head", 'B', 0, x},
		{"missing leaves", 'l', 255, nil},
		{"missing payloads", 'p', 255, nil},
		{"a missing node", 'A', 0, nil},
		{"a row of leaves that begins too late", 'l', 255, x},
		{"a row of payloads that begins too late", 'p', 255, x},
		{"rows of leaves that overlap", 'l', 100, slices.Repeat(x, 101)},
		{"an erased leaf", 'l', 299, [][]byte{nil}},
	} {
		opts := small(vfs.NewMem())
		s := create(t, "store", opts)
		b := storagetest.NewBuilder()
		for range 2 {
			if err := s.Commit(ctx, b.Batch(t, 300)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.ChangeRow(c.kind, c.last, c.items); err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		s, err := pebblestore.Open("store", opts)
		if err == nil {
			nothing := func(uint64, []byte) error { return nil }
			_, tileErr := s.Tile(ctx, 1, 0, 1)
			err = errors.Join(s.Leaves(ctx, 0, 600, nothing), s.Payloads(ctx, 0, 600, nothing), tileErr)
			closeStore(t, s)
		}
		if !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", c.what, err)
		}
	}
}
