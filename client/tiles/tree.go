package tiles

import (
	"context"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/tile"
)

// cachedTiles is how many full tiles a Tree keeps, 8 KiB each.
const cachedTiles = 128

const tileHeight = 8

// Tree is the tree of a verified checkpoint. What it returns follows from the checkpoint's
// root: a full tile is held against the hash in the tile above it, and the tiles that still
// grow together give the root. What does not fit is a *ContradictionError. Only tiles that
// have been verified are kept.
type Tree struct {
	log   *Log
	size  uint64
	edge  edge
	cache *lru.Cache[tileID, []Hash]
}

type tileID struct {
	level uint8
	index uint64
}

// Tree opens the tree of a checkpoint that the caller has verified, and reads its right
// edge: at most one tile a level.
func (l *Log) Tree(ctx context.Context, size uint64, root Hash) (*Tree, error) {
	t := &Tree{log: l, size: size}
	var err error
	t.edge, err = readEdge(size, root, func(level uint8, index uint64, width int) ([]byte, error) {
		return l.Tile(ctx, level, index, width)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the right edge of the tree of %d entries: %w", size, err)
	}
	// The only error is a size that is not positive.
	t.cache, _ = lru.New[tileID, []Hash](cachedTiles)
	return t, nil
}

// Size returns the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// Inclusion returns the proof that the leaf at index is in the tree of size, at most that
// of t; leaf's sibling first (RFC 6962 section 2.1.1).
func (t *Tree) Inclusion(ctx context.Context, index, size uint64) ([]Hash, error) {
	if size > t.size || index >= size {
		return nil, fmt.Errorf("%w: index %d of size %d in a tree of %d", ErrRange, index, size, t.size)
	}
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("planning an inclusion proof: %w", err)
	}
	return t.proof(ctx, nodes)
}

// Consistency returns the proof that the tree of size to, at most that of t, extends that
// of size from (RFC 6962 section 2.1.2); it is empty when from is 0 or equals to.
func (t *Tree) Consistency(ctx context.Context, from, to uint64) ([]Hash, error) {
	if to > t.size || from > to {
		return nil, fmt.Errorf("%w: from size %d to size %d in a tree of %d", ErrRange, from, to, t.size)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	nodes, err := proof.Consistency(from, to)
	if err != nil {
		return nil, fmt.Errorf("planning a consistency proof: %w", err)
	}
	return t.proof(ctx, nodes)
}

// Root returns the root of the tree of size, at most that of t. An earlier checkpoint of
// the log is consistent with t's if and only if its root is this one.
func (t *Tree) Root(ctx context.Context, size uint64) (Hash, error) {
	if size > t.size {
		return Hash{}, fmt.Errorf("%w: size %d in a tree of %d", ErrRange, size, t.size)
	}
	if size == 0 {
		return new(edge).root(), nil
	}
	ids := compact.RangeNodes(0, size, nil)
	var root Hash
	for i := len(ids) - 1; i >= 0; i-- {
		h, err := t.node(ctx, ids[i])
		if err != nil {
			return Hash{}, err
		}
		if i == len(ids)-1 {
			root = h
		} else {
			root = hashChildren(&h, &root)
		}
	}
	return root, nil
}

// LeafHash returns the RFC 6962 hash of the leaf at index.
func (t *Tree) LeafHash(ctx context.Context, index uint64) (Hash, error) {
	if index >= t.size {
		return Hash{}, fmt.Errorf("%w: index %d in a tree of %d", ErrRange, index, t.size)
	}
	return t.node(ctx, compact.NodeID{Index: index})
}

// Leaves calls fn with the leaves from start up to end, at most t's size, in order. Each
// has been verified; it is good during the call. Full bundles are held against the hash
// over them, so that no tile of level 0 is read.
func (t *Tree) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	if start > end || end > t.size {
		return fmt.Errorf("%w: leaves %d to %d in a tree of %d", ErrRange, start, end, t.size)
	}
	return bundles(ctx, start, end, fn, t.bundle)
}

// bundle reads and verifies a bundle. Its width is that of t, for which the server has it.
func (t *Tree) bundle(ctx context.Context, index uint64) ([][]byte, error) {
	leaves, err := t.log.Entries(ctx, index, tile.WidthAt(0, index, t.size))
	if err != nil {
		return nil, err
	}
	hashes := make([]Hash, len(leaves))
	for i, leaf := range leaves {
		hashes[i] = HashLeaf(leaf)
	}
	if len(leaves) == tile.Width {
		over, err := t.row(ctx, tileID{1, index / tile.Width})
		if err != nil {
			return nil, err
		}
		if subtree(hashes) == over[index%tile.Width] {
			return leaves, nil
		}
	}
	row, err := t.row(ctx, tileID{0, index})
	if err != nil {
		return nil, err
	}
	for i, got := range hashes {
		if got != row[i] {
			return nil, &ContradictionError{
				Where: fmt.Sprintf("entry %d", index*tile.Width+uint64(i)), Size: t.size,
				Detail: fmt.Sprintf("it hashes to %x, the tree has %x", got, row[i]),
			}
		}
	}
	return leaves, nil
}

func (t *Tree) proof(ctx context.Context, nodes proof.Nodes) ([]Hash, error) {
	raw := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h, err := t.node(ctx, id)
		if err != nil {
			return nil, err
		}
		raw[i] = h[:]
	}
	raw, err := nodes.Rehash(raw, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, fmt.Errorf("folding a proof: %w", err)
	}
	hashes := make([]Hash, len(raw))
	for i := range raw {
		copy(hashes[i][:], raw[i])
	}
	return hashes, nil
}

// node returns the hash of a complete subtree of t.
func (t *Tree) node(ctx context.Context, id compact.NodeID) (Hash, error) {
	height := id.Level % tileHeight
	first := id.Index << height // first hash of the tile's level under the node
	row, err := t.row(ctx, tileID{uint8(id.Level / tileHeight), first / tile.Width})
	if err != nil {
		return Hash{}, err
	}
	at := first % tile.Width
	return subtree(row[at : at+1<<height]), nil
}

// row returns the verified hashes of a tile of t.
func (t *Tree) row(ctx context.Context, id tileID) ([]Hash, error) {
	if id.index == t.size>>(tileHeight*id.level)/tile.Width {
		return t.edge[id.level], nil
	}
	if row, ok := t.cache.Get(id); ok {
		return row, nil
	}
	// A full tile has its hash in the tile above. The highest tile is never full.
	above, err := t.row(ctx, tileID{id.level + 1, id.index / tile.Width})
	if err != nil {
		return nil, err
	}
	b, err := t.log.Tile(ctx, id.level, id.index, tile.Width)
	if err != nil {
		return nil, err
	}
	row, err := parseHashes(b, tile.Width)
	if err != nil {
		return nil, err
	}
	if got, want := subtree(row), above[id.index%tile.Width]; got != want {
		return nil, &ContradictionError{
			Where: fmt.Sprintf("tile %d/%d", id.level, id.index), Size: t.size,
			Detail: fmt.Sprintf("it hashes to %x, the tile above it has %x", got, want),
		}
	}
	t.cache.Add(id, row)
	return row, nil
}
