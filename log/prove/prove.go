// Package prove computes inclusion proofs, consistency proofs and roots from the tiles
// that a store holds.
//
// It reads at most one tile a level and keeps tiles with their inner nodes, which never
// change, in a bounded cache; of a tile that grows, the widest that was needed. A Prover may be used concurrently and makes nothing durable.
// It is trusted for nothing: every proof can be checked against a signed checkpoint, and
// the signer checks what it signs with a Prover that caches nothing.
package prove

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// Hash is a node of the tree (SHA-256).
type Hash = [storage.HashSize]byte

// ErrRange means that an index or size lies outside the tree that was asked for.
var ErrRange = errors.New("prove: index or size out of range")

const tileHeight = 8

// Tiles is what a Prover reads; storage.Store and a remote tile reader satisfy it.
type Tiles interface {
	// Tile as storage.Store.Tile.
	Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error)
}

// Prover computes proofs.
type Prover struct {
	tiles Tiles
	cache *lru.Cache[tileID, *nodes]
}

type tileID struct {
	level uint8
	index uint64
}

// nodes are those of a tile: nodes[h] holds the complete ones of height h, up to 2^(8-h),
// 16 KiB in all.
type nodes [tileHeight + 1][]Hash

// New returns a Prover that keeps up to cacheTiles tiles of 16 KiB each; 0 keeps none.
func New(tiles Tiles, cacheTiles int) *Prover {
	p := &Prover{tiles: tiles}
	if cacheTiles > 0 {
		// The only error is a size that is not positive.
		p.cache, _ = lru.New[tileID, *nodes](cacheTiles)
	}
	return p
}

// Inclusion returns the proof that the leaf at index is in the tree of size, leaf's
// sibling first (RFC 6962 section 2.1.1).
func (p *Prover) Inclusion(ctx context.Context, index, size uint64) ([]Hash, error) {
	if index >= size {
		return nil, fmt.Errorf("%w: index %d in a tree of %d", ErrRange, index, size)
	}
	plan, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("planning an inclusion proof: %w", err)
	}
	return p.proof(ctx, plan, size)
}

// Consistency returns the proof that the tree of size to extends that of size from (RFC
// 6962 section 2.1.2); it is empty when from is 0 or equals to.
func (p *Prover) Consistency(ctx context.Context, from, to uint64) ([]Hash, error) {
	if from > to {
		return nil, fmt.Errorf("%w: from size %d to size %d", ErrRange, from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	plan, err := proof.Consistency(from, to)
	if err != nil {
		return nil, fmt.Errorf("planning a consistency proof: %w", err)
	}
	return p.proof(ctx, plan, to)
}

// Root returns the root of the tree of size.
func (p *Prover) Root(ctx context.Context, size uint64) (Hash, error) {
	if size == 0 {
		return sha256.Sum256(nil), nil
	}
	ids := compact.RangeNodes(0, size, nil)
	w := p.walk(size)
	root, err := w.node(ctx, ids[len(ids)-1])
	if err != nil {
		return Hash{}, err
	}
	for i := len(ids) - 2; i >= 0; i-- {
		left, err := w.node(ctx, ids[i])
		if err != nil {
			return Hash{}, err
		}
		root = HashChildren(&left, &root)
	}
	return root, nil
}

// LeafHash returns the hash of the leaf at index of the tree of size.
func (p *Prover) LeafHash(ctx context.Context, index, size uint64) (Hash, error) {
	if index >= size {
		return Hash{}, fmt.Errorf("%w: index %d in a tree of %d", ErrRange, index, size)
	}
	return p.walk(size).node(ctx, compact.NodeID{Index: index})
}

func (p *Prover) proof(ctx context.Context, plan proof.Nodes, size uint64) ([]Hash, error) {
	raw := make([][]byte, len(plan.IDs))
	w := p.walk(size)
	for i, id := range plan.IDs {
		h, err := w.node(ctx, id)
		if err != nil {
			return nil, err
		}
		raw[i] = h[:]
	}
	raw, err := plan.Rehash(raw, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, fmt.Errorf("folding a proof: %w", err)
	}
	hashes := make([]Hash, len(raw))
	for i := range raw {
		copy(hashes[i][:], raw[i])
	}
	return hashes, nil
}

// walk answers the questions of one proof and reads each tile once.
type walk struct {
	p     *Prover
	size  uint64
	tiles map[tileID]*nodes
}

func (p *Prover) walk(size uint64) *walk {
	return &walk{p: p, size: size, tiles: make(map[tileID]*nodes)}
}

// node returns the hash of a complete subtree of the tree.
func (w *walk) node(ctx context.Context, id compact.NodeID) (Hash, error) {
	tile := tileID{level: uint8(id.Level / tileHeight)}
	height := id.Level % tileHeight
	first := id.Index << height // first entry of the tile's level under the node
	tile.index = first / 256
	t := w.tiles[tile]
	if t == nil {
		width := min(w.size>>(uint(tile.level)*tileHeight)-tile.index*256, 256)
		var err error
		if t, err = w.p.tile(ctx, tile, int(width)); err != nil {
			return Hash{}, err
		}
		w.tiles[tile] = t
	}
	return t[height][first%256>>height], nil
}

// tile returns the nodes of a tile that is at least as wide as asked for.
func (p *Prover) tile(ctx context.Context, id tileID, width int) (*nodes, error) {
	if p.cache != nil {
		if t, ok := p.cache.Get(id); ok && len(t[0]) >= width {
			return t, nil
		}
	}
	b, err := p.tiles.Tile(ctx, id.level, id.index, width)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", id.level, id.index, err)
	}
	if len(b) != width*storage.HashSize {
		return nil, fmt.Errorf("reading tile %d/%d: %w: %d bytes", id.level, id.index, storage.ErrCorrupt, len(b))
	}
	var t nodes
	t[0] = make([]Hash, width)
	for i := range t[0] {
		copy(t[0][i][:], b[i*storage.HashSize:])
	}
	for h := range tileHeight {
		t[h+1] = parents(t[h])
	}
	if p.cache != nil {
		p.cache.Add(id, &t)
	}
	return &t, nil
}

// parents returns the complete nodes above a row.
func parents(row []Hash) []Hash {
	up := make([]Hash, len(row)/2)
	for i := range up {
		up[i] = HashChildren(&row[2*i], &row[2*i+1])
	}
	return up
}

// HashChildren is the RFC 6962 hash of an inner node.
func HashChildren(left, right *Hash) Hash {
	var b [1 + 2*storage.HashSize]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], left[:])
	copy(b[1+storage.HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// HashLeaf is the RFC 6962 hash of a leaf.
func HashLeaf(leaf []byte) Hash {
	var small [64]byte
	b := append(small[:0], rfc6962.RFC6962LeafHashPrefix)
	return sha256.Sum256(append(b, leaf...))
}
