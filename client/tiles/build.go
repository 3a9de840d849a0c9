package tiles

import (
	"crypto/sha256"
	"fmt"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/tile"
)

// levels is how many levels of tiles a tree of up to 2^64 entries has.
const levels = 8

// HashLeaf is the RFC 6962 hash of a leaf.
func HashLeaf(leaf []byte) Hash {
	var small [64]byte // a keytrail leaf has 33 bytes
	b := append(small[:0], rfc6962.RFC6962LeafHashPrefix)
	return sha256.Sum256(append(b, leaf...))
}

// hashChildren is the RFC 6962 hash of an inner node.
func hashChildren(left, right *Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// subtree returns the root over a row of hashes, whose number is a power of two.
func subtree(row []Hash) Hash {
	if len(row) == 1 {
		return row[0]
	}
	var buf [tile.Width / 2]Hash
	up := buf[:len(row)/2]
	for i := range up {
		up[i] = hashChildren(&row[2*i], &row[2*i+1])
	}
	for len(up) > 1 {
		for i := range len(up) / 2 {
			up[i] = hashChildren(&up[2*i], &up[2*i+1])
		}
		up = up[:len(up)/2]
	}
	return up[0]
}

// edge is the right edge of a tree: of each level the tile that still grows, empty where
// the last one is full. It tells the root.
type edge [levels][]Hash

// root returns the RFC 6962 root of the tree with this edge.
func (e *edge) root() Hash {
	root, found := Hash{}, false
	for l := range e {
		row := e[l]
		for len(row) > 0 {
			n := len(row) & -len(row) // the smallest complete subtree stands last
			h := subtree(row[len(row)-n:])
			if found {
				root = hashChildren(&h, &root)
			} else {
				root, found = h, true
			}
			row = row[:len(row)-n]
		}
	}
	if !found {
		return checkpoint.EmptyRoot()
	}
	return root
}

// A Builder computes the tiles and the root of a tree from its leaves. The zero value is
// the empty tree. It keeps one tile a level, and is for one goroutine at a time.
type Builder struct {
	size uint64
	edge edge
	// Full, when set, is called with each tile that Add completes, lower levels first. The
	// bytes are good during the call. An error ends the building.
	Full func(level uint8, index uint64, hashes []byte) error
}

// Add appends a leaf, given by its hash. After an error the builder is of no more use.
func (b *Builder) Add(leaf Hash) error {
	b.size++
	h := leaf
	for l := range b.edge {
		b.edge[l] = append(b.edge[l], h)
		if len(b.edge[l]) < tile.Width {
			return nil
		}
		if b.Full != nil {
			index := b.size>>(8*(l+1)) - 1
			if err := b.Full(uint8(l), index, Bytes(b.edge[l])); err != nil {
				return err
			}
		}
		h = subtree(b.edge[l])
		b.edge[l] = b.edge[l][:0]
	}
	return nil
}

// Size returns the number of leaves.
func (b *Builder) Size() uint64 { return b.size }

// Root returns the RFC 6962 root.
func (b *Builder) Root() Hash { return b.edge.root() }

// Partial returns the hashes of the tile of a level that still grows; none when there is no
// such tile. They are good until the next Add.
func (b *Builder) Partial(level uint8) []Hash {
	if int(level) >= levels {
		return nil
	}
	return b.edge[level]
}

// Resume makes b the tree of size entries, given the hashes of the partial tiles at its
// right edge, for which it calls partial, and checks them against the root: an edge that
// does not give it is a *ContradictionError, and leaves b as it was.
func (b *Builder) Resume(size uint64, root Hash, partial func(level uint8, index uint64, width int) ([]byte, error)) error {
	e, err := readEdge(size, root, partial)
	if err != nil {
		return err
	}
	b.size, b.edge = size, e
	return nil
}

func readEdge(size uint64, root Hash, partial func(level uint8, index uint64, width int) ([]byte, error)) (e edge, err error) {
	for l := range e {
		nodes := size >> (8 * l)
		width := int(nodes % tile.Width)
		if width == 0 {
			continue
		}
		b, err := partial(uint8(l), nodes/tile.Width, width)
		if err != nil {
			return edge{}, err
		}
		if e[l], err = parseHashes(b, width); err != nil {
			return edge{}, fmt.Errorf("tile %d/%d: %w", l, nodes/tile.Width, err)
		}
	}
	if got := e.root(); got != root {
		return edge{}, &ContradictionError{
			Where: "right edge", Size: size,
			Detail: fmt.Sprintf("its tiles give the root %x, signed is %x", got, root),
		}
	}
	return e, nil
}

// Bytes writes hashes as they stand in a tile.
func Bytes(row []Hash) []byte {
	b := make([]byte, 0, len(row)*sha256.Size)
	for i := range row {
		b = append(b, row[i][:]...)
	}
	return b
}

// parseHashes reads the hashes of a tile, exactly width.
func parseHashes(b []byte, width int) ([]Hash, error) {
	if len(b) != width*sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrMalformed, len(b), width*sha256.Size)
	}
	row := make([]Hash, width)
	for i := range row {
		copy(row[i][:], b[i*sha256.Size:])
	}
	return row, nil
}
