package storage

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// EmptyHead returns the head of a store without a commit: size 0 and the root of the
// empty tree, SHA-256 of nothing (RFC 6962 section 2.1).
func EmptyHead() Head {
	return Head{Root: sha256.Sum256(nil)}
}

// Equal says whether two heads are the same, whatever the location of their times.
func (h Head) Equal(o Head) bool {
	return h.Size == o.Size && h.Root == o.Root && h.Time.Equal(o.Time)
}

// String returns the head for messages to people: size and the root's first bytes.
func (h Head) String() string {
	return fmt.Sprintf("size %d root %x…", h.Size, h.Root[:6])
}

// Frontier reads the right edge of the tree of h: the hashes of the compact range
// [0, h.Size), the largest subtree first, as compact.RangeFactory.NewRange takes them.
// It returns ErrCorrupt when they do not give h.Root. H may be an older head of s; one
// beyond the committed tree is fs.ErrNotExist.
func Frontier(ctx context.Context, s Store, h Head) ([][]byte, error) {
	hashes := make([][]byte, 0, bits.OnesCount64(h.Size))
	for l := MaxLevel; l >= 0; l-- {
		level := uint8(l)
		n := Complete(h.Size, level)
		width := int(n % TileWidth)
		if width == 0 {
			continue
		}
		tile, err := readTile(ctx, s, level, n/TileWidth, width)
		if err != nil {
			return nil, fmt.Errorf("reading the right edge of %v: %w", h, err)
		}
		// The tile's part of the edge: one perfect subtree for each bit of the width.
		for len(tile) > 0 {
			n := 1 << (bits.Len(uint(len(tile)/HashSize)) - 1)
			hashes = append(hashes, subtree(tile[:n*HashSize]))
			tile = tile[n*HashSize:]
		}
	}
	root, err := rootOf(h.Size, hashes)
	if err != nil {
		return nil, fmt.Errorf("reading the right edge of %v: %w", h, err)
	}
	if root != h.Root {
		return nil, fmt.Errorf("%w: the stored right edge of size %d has root %x, the head says %x", ErrCorrupt, h.Size, root, h.Root)
	}
	return hashes, nil
}

// Verify checks what can be checked of a store without reading all of it: the right edge
// gives the head's root, the last complete node of each level is the root of the tile
// under it, and the leaves and payloads of the last entries can be read. It returns
// ErrCorrupt naming what differs. Engines call it when a store is opened.
func Verify(ctx context.Context, s Store) error {
	h, err := s.Head(ctx)
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	if _, err := Frontier(ctx, s, h); err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	for level := uint8(1); Complete(h.Size, level) > 0; level++ {
		if err := verifyLast(ctx, s, level, Complete(h.Size, level)-1); err != nil {
			return fmt.Errorf("verifying: %w", err)
		}
	}
	if err := verifyEntries(ctx, s, h); err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	return nil
}

// verifyLast checks the node of a level with number n, the last in its tile, against the
// tile under it.
func verifyLast(ctx context.Context, s Store, level uint8, n uint64) error {
	width := int(n%TileWidth) + 1
	upper, err := readTile(ctx, s, level, n/TileWidth, width)
	if err != nil {
		return err
	}
	lower, err := readTile(ctx, s, level-1, n, TileWidth)
	if err != nil {
		return err
	}
	want, got := subtree(lower), upper[(width-1)*HashSize:]
	if [HashSize]byte(want) != [HashSize]byte(got) {
		return fmt.Errorf("%w: node %d/%d is stored as %x, the tile under it gives %x", ErrCorrupt, level, n, got, want)
	}
	return nil
}

// verifyEntries checks that the leaves of the last tile hash to what the tile says and
// that the last payload can be read.
func verifyEntries(ctx context.Context, s Store, h Head) error {
	if h.Size == 0 {
		return nil
	}
	tile := (h.Size - 1) / TileWidth
	start := tile * TileWidth
	hashes, err := readTile(ctx, s, 0, tile, int(h.Size-start))
	if err != nil {
		return err
	}
	next := start
	err = s.Leaves(ctx, start, h.Size, func(i uint64, leaf []byte) error {
		if i != next {
			return fmt.Errorf("%w: leaf %d stands where leaf %d should", ErrCorrupt, i, next)
		}
		at := (i - start) * HashSize
		if got := rfc6962.DefaultHasher.HashLeaf(leaf); [HashSize]byte(got) != [HashSize]byte(hashes[at:]) {
			return fmt.Errorf("%w: leaf %d hashes to %x, its tile says %x", ErrCorrupt, i, got, hashes[at:at+HashSize])
		}
		next++
		return nil
	})
	if err != nil {
		return err
	}
	if next != h.Size {
		return fmt.Errorf("%w: leaves end at %d, the head says %d", ErrCorrupt, next, h.Size)
	}
	return s.Payloads(ctx, h.Size-1, h.Size, func(uint64, []byte) error { return nil })
}

// readTile reads a tile and checks that it has the size that was asked for.
func readTile(ctx context.Context, s Store, level uint8, index uint64, width int) ([]byte, error) {
	tile, err := s.Tile(ctx, level, index, width)
	if err != nil {
		return nil, err
	}
	if len(tile) != width*HashSize {
		return nil, fmt.Errorf("%w: tile %d/%d has %d bytes, want %d hashes", ErrCorrupt, level, index, len(tile), width)
	}
	return tile, nil
}

// subtree returns the root over a power of two of hashes. It overwrites them.
func subtree(hashes []byte) []byte {
	for n := len(hashes) / HashSize; n > 1; n /= 2 {
		for i := range n / 2 {
			left, right := hashes[2*i*HashSize:][:HashSize], hashes[(2*i+1)*HashSize:][:HashSize]
			copy(hashes[i*HashSize:], rfc6962.DefaultHasher.HashChildren(left, right))
		}
	}
	return hashes[:HashSize:HashSize]
}

// rootOf returns the root of the tree whose compact range is hashes.
func rootOf(size uint64, hashes [][]byte) ([HashSize]byte, error) {
	if size == 0 {
		return EmptyHead().Root, nil
	}
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := f.NewRange(0, size, hashes)
	if err != nil {
		return [HashSize]byte{}, err
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return [HashSize]byte{}, err
	}
	return [HashSize]byte(root), nil
}
