package logtest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
)

// History is what the world has seen of a log, over all its restarts: every checkpoint
// that was ever published. It may be used concurrently.
type History struct {
	mu    sync.Mutex
	roots map[uint64][32]byte
	sizes []uint64 // in the order of publication
	wrong []string
}

// NewHistory returns the history of a log that was never seen.
func NewHistory() *History { return &History{roots: make(map[uint64][32]byte)} }

// saw notes a published checkpoint.
func (h *History) saw(note []byte) {
	cp, _, err := checkpoint.ParseNote(note)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.wrong = append(h.wrong, fmt.Sprintf("published what is no checkpoint: %v", err))
		return
	}
	if n := len(h.sizes); n > 0 && cp.Size < h.sizes[n-1] {
		h.wrong = append(h.wrong, fmt.Sprintf("published size %d after size %d", cp.Size, h.sizes[n-1]))
	}
	if root, seen := h.roots[cp.Size]; seen && root != cp.Root {
		h.wrong = append(h.wrong, fmt.Sprintf("published two roots for size %d", cp.Size))
	}
	h.roots[cp.Size] = cp.Root
	h.sizes = append(h.sizes, cp.Size)
}

// Check sees that all that was published is one history, and that it is what s holds: no
// size had two roots, no size came after a larger one, every root is that of the leaves
// (by golang.org/x/mod/sumdb/tlog), and consistency proofs hold between neighbours and
// from the first to the last.
func (h *History) Check(t testing.TB, s storage.Store) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.wrong {
		t.Error(w)
	}
	tree := readTree(t, s)
	for size, root := range h.roots {
		if size > uint64(tree.size) {
			t.Errorf("size %d was published, the store has %d", size, tree.size)
		} else if got := tree.root(t, int64(size)); got != root {
			t.Errorf("root %x was published for size %d, the store's leaves give %x", root, size, got)
		}
	}
	if t.Failed() || len(h.sizes) == 0 {
		return
	}
	p := prove.New(s, 0)
	h.consistent(t, p, h.sizes[0], h.sizes[len(h.sizes)-1])
	for i := 1; i < len(h.sizes); i++ {
		h.consistent(t, p, h.sizes[i-1], h.sizes[i])
	}
}

func (h *History) consistent(t testing.TB, p *prove.Prover, from, to uint64) {
	t.Helper()
	if from == 0 {
		return // every tree extends the empty one
	}
	hashes, err := p.Consistency(context.Background(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	path := make([][]byte, len(hashes))
	for i := range hashes {
		path[i] = hashes[i][:]
	}
	before, after := h.roots[from], h.roots[to]
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, to, path, before[:], after[:]); err != nil {
		t.Errorf("published size %d does not extend published size %d: %v", to, from, err)
	}
}

// tree is the tree of a store's leaves, by x/mod/sumdb/tlog.
type tree struct {
	hashes []tlog.Hash
	size   int64
}

func (r *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		hashes[i] = r.hashes[at]
	}
	return hashes, nil
}

func (r *tree) root(t testing.TB, size int64) [32]byte {
	t.Helper()
	if size == 0 {
		return storage.EmptyHead().Root
	}
	h, err := tlog.TreeHash(size, r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func readTree(t testing.TB, s storage.Store) *tree {
	t.Helper()
	r := &tree{}
	head, err := s.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Leaves(context.Background(), 0, head.Size, func(_ uint64, leaf []byte) error {
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

// Watched is a store whose published checkpoints go into a History, until it crashes. Its
// Close closes the store under it.
type Watched struct {
	storage.Store
	history *History

	mu     sync.Mutex
	thaw   sync.Cond
	frozen bool
	dead   bool
}

// Watch returns s, watched from now on. What is published already counts as seen.
func (h *History) Watch(t testing.TB, s storage.Store) *Watched {
	t.Helper()
	if note, err := s.Cell(context.Background(), log.CheckpointCell); err == nil {
		h.saw(note)
	}
	w := &Watched{Store: s, history: h}
	w.thaw.L = &w.mu
	return w
}

// Crash calls fn at a moment at which no call of the store begins or returns: writes may
// be half done, but nobody has heard of their end. What happens later happens in a world
// that does not count.
func (w *Watched) Crash(fn func()) {
	w.mu.Lock()
	w.frozen, w.dead = true, true
	w.mu.Unlock()
	fn()
	w.mu.Lock()
	w.frozen = false
	w.thaw.Broadcast()
	w.mu.Unlock()
}

// gate waits while the store is frozen.
func (w *Watched) gate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.frozen {
		w.thaw.Wait()
	}
}

// Head implements storage.Store.
func (w *Watched) Head(ctx context.Context) (storage.Head, error) {
	w.gate()
	h, err := w.Store.Head(ctx)
	w.gate()
	return h, err
}

// Commit implements storage.Store.
func (w *Watched) Commit(ctx context.Context, b *storage.Batch) error {
	w.gate()
	err := w.Store.Commit(ctx, b)
	w.gate()
	return err
}

// SwapCell implements storage.Store.
func (w *Watched) SwapCell(ctx context.Context, name string, old, new []byte) error {
	w.gate()
	err := w.Store.SwapCell(ctx, name, old, new)
	w.gate()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && name == log.CheckpointCell && !w.dead {
		w.history.saw(bytes.Clone(new))
	}
	return err
}
