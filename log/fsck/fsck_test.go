package fsck_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// options are those of a check of the log in d.
func options(d *logtest.Dir) fsck.Options {
	o := fsck.Options{Origin: logtest.Origin, CheckpointCell: log.CheckpointCell}
	for _, k := range d.Signers {
		o.Keys = append(o.Keys, k.VerifierKey())
	}
	return o
}

// fill lets a log write n events on eleven keys and none, and stops it.
func fill(t testing.TB, d *logtest.Dir, s storage.Store, n int) {
	t.Helper()
	l := logtest.Open(t, d, s)
	var events []log.Event
	for i := range n {
		key := fmt.Sprint(i % 12)
		if i%12 == 0 {
			key = ""
		}
		events = append(events, logtest.Prepare(t, logtest.Event(i, key)))
	}
	for len(events) > 0 {
		k := min(len(events), log.MaxEvents)
		if _, err := l.Append(t.Context(), "tester", events[:k]); err != nil {
			t.Fatal(err)
		}
		events = events[k:]
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
}

// reference is the tree as golang.org/x/mod/sumdb/tlog makes it of a store's leaves.
type reference struct {
	hashes []tlog.Hash
	size   int64
}

func (r *reference) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		hashes[i] = r.hashes[at]
	}
	return hashes, nil
}

func newReference(t testing.TB, s storage.Store) *reference {
	t.Helper()
	r := &reference{}
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Leaves(t.Context(), 0, head.Size, func(_ uint64, leaf []byte) error {
		more, err := tlog.StoredHashesForRecordHash(r.size, tlog.RecordHash(leaf), r)
		r.hashes = append(r.hashes, more...)
		r.size++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reference) root(t testing.TB) tlog.Hash {
	t.Helper()
	if r.size == 0 {
		return tlog.Hash(storage.EmptyHead().Root)
	}
	h, err := tlog.TreeHash(r.size, r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// compareNodes compares every stored node with the reference.
func (r *reference) compareNodes(t testing.TB, s storage.Store) {
	t.Helper()
	for level := uint8(0); storage.Complete(uint64(r.size), level) > 0; level++ {
		n := storage.Complete(uint64(r.size), level)
		for at := uint64(0); at < n; at += storage.TileWidth {
			tile, err := s.Tile(t.Context(), level, at/storage.TileWidth, int(min(storage.TileWidth, n-at)))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(tile); i += storage.HashSize {
				number := int64(at) + int64(i/storage.HashSize)
				if tlog.Hash(tile[i:]) != r.hashes[tlog.StoredHashIndex(8*int(level), number)] {
					t.Fatalf("node %d of level %d differs from the reference tree", number, level)
				}
			}
		}
	}
}

func TestCleanLogs(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 257, 700, 66_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			d, s := logtest.NewDir(t), memstore.New()
			fill(t, d, s, n)
			opts := options(d)
			var done uint64
			opts.Progress = func(n, total uint64) {
				if n <= done || n > total {
					t.Errorf("progress went from %d to %d of %d", done, n, total)
				}
				done = n
			}
			got, err := fsck.Check(t.Context(), s, opts)
			if err != nil {
				t.Fatal(err)
			}
			ref := newReference(t, s)
			root := ref.root(t)
			want := &fsck.Report{
				Size: uint64(n), Root: fmt.Sprintf("%x", root[:]), Entries: uint64(n), Keys: uint64(min(11, max(0, n-1))),
				Published: uint64(n), Signatures: 2, Problems: []fsck.Problem{},
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("report (-want +got):\n%s", d)
			}
			if done != uint64(n) {
				t.Errorf("progress ended at %d of %d", done, n)
			}
			ref.compareNodes(t, s)
		})
	}
}

func TestReadOnlyStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	w, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := logtest.NewDir(t)
	fill(t, d, w, 300)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := pebblestore.Open(dir, pebblestore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r := logtest.Check(t, d, s); r.Entries != 300 || r.Published != 300 {
		t.Errorf("report %+v", r)
	}
}

func TestErasedPayloadsAreTolerated(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 700)
	var gone []uint64
	for i := uint64(0); i < 700; i += 3 {
		gone = append(gone, i)
	}
	for _, indexes := range [][]uint64{{1}, {699}, gone} {
		if err := s.ErasePayloads(t.Context(), indexes); err != nil {
			t.Fatal(err)
		}
		logtest.Check(t, d, s)
	}
	if r := logtest.Check(t, d, s); r.Erased != uint64(len(gone)+1) {
		t.Errorf("%d erased, want %d", r.Erased, len(gone)+1)
	}
	// The log goes on.
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(700, "1"))
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
}

// cancelStore cancels a check in the middle of its reading.
type cancelStore struct {
	storage.Store
	cancel context.CancelFunc
	at     uint64
}

func (c *cancelStore) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	if start <= c.at && c.at < end {
		c.cancel()
	}
	return c.Store.Payloads(ctx, start, end, fn)
}

func TestCancelledCheckReportsNoDamage(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 3000)
	for _, at := range []uint64{0, 1500, 2999} {
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := fsck.Check(ctx, &cancelStore{Store: s, cancel: cancel, at: at}, options(d))
			if !errors.Is(err, context.Canceled) || r != nil {
				t.Fatalf("cancelled at %d: %+v, %v", at, r, err)
			}
		}
	}
}
