package storagetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// Builder makes batches as the log does, and keeps what they add. It assumes that each
// batch is committed.
type Builder struct {
	// Head is the head after the batches made so far.
	Head  storage.Head
	tree  *compact.Range
	clock time.Time
	// heads are those after each batch, EmptyHead first.
	heads []storage.Head
	// entries are all that the batches added; nodes holds hashes computed from them.
	entries []storage.Entry
	nodes   map[[2]uint64][]byte
}

// NewBuilder returns a Builder for an empty store.
func NewBuilder() *Builder {
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	return &Builder{
		Head:  storage.EmptyHead(),
		tree:  f.NewEmptyRange(0),
		clock: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		heads: []storage.Head{storage.EmptyHead()},
		nodes: make(map[[2]uint64][]byte),
	}
}

// Heads returns the head after each batch made so far, and EmptyHead before them.
func (b *Builder) Heads() []storage.Head { return slices.Clone(b.heads) }

// At returns what b was when it had made n batches, to be compared with a store. It makes
// no further batches.
func (b *Builder) At(n int) *Builder {
	return &Builder{Head: b.heads[n], heads: b.heads[:n+1], entries: b.entries[:b.heads[n].Size], nodes: b.nodes}
}

// Forget drops the entries made so far, to save memory in a benchmark. What it has built
// cannot be compared with a store any more.
func (b *Builder) Forget() { b.entries, b.heads = nil, nil }

// Entry returns the entry that Batch makes for an index: both parts differ from those of
// any other index, and have sizes that vary.
func Entry(index uint64) storage.Entry {
	leaf := fmt.Appendf(nil, "leaf %d", index)
	payload := fmt.Appendf(nil, "payload %d of an entry", index)
	for range index % 7 {
		payload = append(payload, payload...)
	}
	return storage.Entry{Leaf: leaf, Payload: payload}
}

// Batch returns the next batch, of n entries as Entry makes them.
func (b *Builder) Batch(t testing.TB, n int) *storage.Batch {
	t.Helper()
	entries := make([]storage.Entry, n)
	for i := range entries {
		entries[i] = Entry(b.Head.Size + uint64(i))
	}
	return b.BatchOf(t, entries)
}

// BatchOf returns the next batch with the given entries.
func (b *Builder) BatchOf(t testing.TB, entries []storage.Entry) *storage.Batch {
	t.Helper()
	batch := &storage.Batch{Old: b.Head, Entries: entries}
	visit := func(id compact.NodeID, hash []byte) {
		if id.Level > 0 && id.Level%8 == 0 {
			batch.Nodes = append(batch.Nodes, storage.Node{Level: uint8(id.Level / 8), Index: id.Index, Hash: [storage.HashSize]byte(hash)})
		}
	}
	for i := range entries {
		if err := b.tree.Append(rfc6962.DefaultHasher.HashLeaf(entries[i].Leaf), visit); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.tree.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.entries = append(b.entries, entries...)
	b.clock = b.clock.Add(time.Millisecond + time.Nanosecond)
	b.Head = storage.Head{Size: b.tree.End(), Root: [storage.HashSize]byte(root), Time: b.clock}
	b.heads = append(b.heads, b.Head)
	batch.New = b.Head
	return batch
}
