// Package storagetest tests storage engines: a conformance suite that each must pass
// (Test), batches as the log makes them (Builder), and a wrapper that lets operations
// fail (Faults) for the tests of those who use a store.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// Open makes an empty store for one test and closes it when the test ends. Reopen closes
// the store that it gave last and opens it again with the same content.
type Open func(t testing.TB) (s storage.Store, reopen func() storage.Store)

// Test checks that an engine keeps the contract of storage.Store.
func Test(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"Empty", testEmpty},
		{"Commits", testCommits},
		{"EverySize", testEverySize},
		{"Levels", testLevels},
		{"LeafSizes", testLeafSizes},
		{"Conflicts", testConflicts},
		{"InvalidBatches", testInvalidBatches},
		{"RacingCommits", testRacingCommits},
		{"ReadWhileCommitting", testReadWhileCommitting},
		{"Ranges", testRanges},
		{"Ownership", testOwnership},
		{"Cells", testCells},
		{"RacingSwaps", testRacingSwaps},
		{"Erase", testErase},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

// Check compares everything that s holds with what b has built: the head, every leaf,
// payload and tile. Erased says which payloads are gone; nil means none.
func Check(t testing.TB, s storage.Store, b *Builder, erased func(index uint64) bool) {
	t.Helper()
	ctx := context.Background()
	head, err := s.Head(ctx)
	if err != nil {
		t.Fatalf("reading the head: %v", err)
	}
	if !head.Equal(b.Head) {
		t.Fatalf("head is %v of %v, want %v of %v", head, head.Time, b.Head, b.Head.Time)
	}
	if err := storage.Verify(ctx, s); err != nil {
		t.Error(err)
	}
	next := uint64(0)
	err = s.Leaves(ctx, 0, head.Size, func(i uint64, leaf []byte) error {
		if i != next || !bytes.Equal(leaf, b.entries[i].Leaf) {
			t.Fatalf("leaf %d is %.40q, want leaf %d %.40q", i, leaf, next, b.entries[next].Leaf)
		}
		next++
		return nil
	})
	if err != nil || next != head.Size {
		t.Errorf("reading leaves: %v after %d of %d", err, next, head.Size)
	}
	next = 0
	err = s.Payloads(ctx, 0, head.Size, func(i uint64, payload []byte) error {
		want := b.entries[i].Payload
		gone := erased != nil && erased(i)
		if i != next || gone != (payload == nil) || !gone && !bytes.Equal(payload, want) {
			t.Fatalf("payload %d is %.40q, want payload %d %.40q, erased %v", i, payload, next, want, gone)
		}
		next++
		return nil
	})
	if err != nil || next != head.Size {
		t.Errorf("reading payloads: %v after %d of %d", err, next, head.Size)
	}
	for level := uint8(0); level <= storage.MaxLevel; level++ {
		checkLevel(t, s, b, level)
	}
}

// checkLevel compares every tile of a level, as wide as it is, and sees that none is
// wider and that no further one exists.
func checkLevel(t testing.TB, s storage.Store, b *Builder, level uint8) {
	t.Helper()
	ctx := context.Background()
	n := storage.Complete(b.Head.Size, level)
	index := uint64(0)
	for ; index*storage.TileWidth < n; index++ {
		width := int(min(storage.TileWidth, n-index*storage.TileWidth))
		checkTile(t, s, b, level, index, width)
		if width < storage.TileWidth {
			if _, err := s.Tile(ctx, level, index, width+1); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("tile %d/%d of width %d at size %d: %v, want fs.ErrNotExist", level, index, width+1, b.Head.Size, err)
			}
		}
	}
	if n%storage.TileWidth == 0 {
		if _, err := s.Tile(ctx, level, index, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("tile %d/%d at size %d: %v, want fs.ErrNotExist", level, index, b.Head.Size, err)
		}
	}
}

// checkTile compares one tile with the reference tree.
func checkTile(t testing.TB, s storage.Store, b *Builder, level uint8, index uint64, width int) {
	t.Helper()
	tile, err := s.Tile(context.Background(), level, index, width)
	if err != nil {
		t.Fatalf("tile %d/%d of width %d at size %d: %v", level, index, width, b.Head.Size, err)
	}
	var want []byte
	for i := range uint64(width) {
		want = append(want, b.node(level, index*storage.TileWidth+i)...)
	}
	if !bytes.Equal(tile, want) {
		t.Fatalf("tile %d/%d of width %d at size %d differs from the reference tree", level, index, width, b.Head.Size)
	}
}

// node is the hash of a complete subtree, computed from the leaves alone.
func (b *Builder) node(level uint8, index uint64) []byte {
	if level == 0 {
		return rfc6962.DefaultHasher.HashLeaf(b.entries[index].Leaf)
	}
	key := [2]uint64{uint64(level), index}
	if b.nodes[key] == nil {
		hashes := make([][]byte, storage.TileWidth)
		for i := range hashes {
			hashes[i] = b.node(level-1, index*storage.TileWidth+uint64(i))
		}
		b.nodes[key] = treeHash(hashes)
	}
	return b.nodes[key]
}

// treeHash is MTH of RFC 6962 section 2.1 over hashed leaves.
func treeHash(hashes [][]byte) []byte {
	if len(hashes) == 1 {
		return hashes[0]
	}
	k := 1
	for 2*k < len(hashes) {
		k *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(treeHash(hashes[:k]), treeHash(hashes[k:]))
}

// commit commits the next n entries.
func commit(t testing.TB, s storage.Store, b *Builder, n int) {
	t.Helper()
	if err := s.Commit(context.Background(), b.Batch(t, n)); err != nil {
		t.Fatal(err)
	}
}
