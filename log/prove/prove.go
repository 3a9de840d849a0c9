// Package prove computes inclusion proofs, consistency proofs and roots from the leaves
// and tiles that a store holds.
//
// A proof reads the 32 leaves around its index, or their hashes from Nodes, and at most one
// tile a level; a bounded cache has most of those above level 0. It holds nodes that never
// change: of a tile that grows, the widest that was needed. A Prover may be used concurrently
// and makes nothing durable. It is trusted for nothing: every proof can be checked against a
// signed checkpoint, and the signer checks what it signs with a Prover that has neither cache
// nor Nodes.
package prove

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// Hash is a node of the tree (SHA-256).
type Hash = [storage.HashSize]byte

// ErrRange means that an index or size lies outside the tree that was asked for.
var ErrRange = errors.New("prove: index or size out of range")

// Source is what a Prover reads; every storage.Store is one.
type Source interface {
	// Tile as storage.Store.Tile.
	Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error)
	// Leaves as storage.Store.Leaves.
	Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error
}

// Prover computes proofs.
type Prover struct {
	source Source
	cache  *cache // nil keeps nothing
	nodes  *Nodes // nil without WithNodes
	// edge is that of the size that was asked for last; kept with a cache only.
	edge  atomic.Pointer[edge]
	walks sync.Pool
}

// New returns a Prover that keeps up to so many tiles of level 1 in memory, each the nodes over
// 65,536 entries in 16 KiB; 0 keeps nothing.
func New(source Source, tiles int) *Prover {
	p := &Prover{source: source}
	if tiles > 0 {
		p.cache = newCache(tiles)
	}
	p.walks.New = func() any {
		w := &walk{p: p}
		w.take = w.takeLeaf
		return w
	}
	return p
}

// WithNodes lets a Prover that keeps tiles in memory read what is kept in n, and keep there what is
// missing; n may be nil. It is to be called before the first question.
func (p *Prover) WithNodes(n *Nodes) *Prover {
	p.nodes = n
	return p
}

// Inclusion returns the hash of the leaf at index, and the proof that it is in the tree of
// size, leaf's sibling first (RFC 6962 section 2.1.1).
func (p *Prover) Inclusion(ctx context.Context, index, size uint64) (leaf Hash, hashes []Hash, err error) {
	err = p.Inclusions(ctx, []uint64{index}, size, func(_ int, l Hash, hs []Hash) error {
		leaf, hashes = l, append(make([]Hash, 0, len(hs)), hs...)
		return nil
	})
	return leaf, hashes, err
}

// Inclusions calls fn with what Inclusion returns for each of the indexes, in their order;
// i is the place in indexes, and hashes is valid only during the call. What neighbours
// share is read and hashed once. An error of fn ends it and is returned as it is.
func (p *Prover) Inclusions(ctx context.Context, indexes []uint64, size uint64, fn func(i int, leaf Hash, hashes []Hash) error) error {
	w := p.walk(size)
	defer p.walks.Put(w)
	for i, index := range indexes {
		if index >= size {
			return fmt.Errorf("%w: index %d in a tree of %d", ErrRange, index, size)
		}
		leaf, err := w.node(ctx, 0, index)
		if err != nil {
			return err
		}
		w.proof = w.proof[:0]
		if err := w.path(ctx, 0, index); err != nil {
			return err
		}
		if err := fn(i, leaf, w.proof); err != nil {
			return err
		}
	}
	return nil
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
	w := p.walk(to)
	defer p.walks.Put(w)
	// The last complete subtree of the old tree, and its path in the new one. When it is
	// all of the old tree, whoever checks has its hash.
	level := bits.TrailingZeros64(from)
	index := (from - 1) >> level
	w.proof = w.proof[:0]
	if index > 0 {
		h, err := w.node(ctx, level, index)
		if err != nil {
			return nil, err
		}
		w.proof = append(w.proof, h)
	}
	if err := w.path(ctx, level, index); err != nil {
		return nil, err
	}
	return append(make([]Hash, 0, len(w.proof)), w.proof...), nil
}

// Root returns the root of the tree of size.
func (p *Prover) Root(ctx context.Context, size uint64) (Hash, error) {
	if size == 0 {
		return sha256.Sum256(nil), nil
	}
	w := p.walk(size)
	defer p.walks.Put(w)
	e, err := w.rightEdge(ctx, 64)
	if err != nil {
		return Hash{}, err
	}
	return e.tails[64], nil
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
