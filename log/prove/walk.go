package prove

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/keytrail/keytrail/storage"
)

const (
	// tileHeight is the height of a tile, and tileWidth how many nodes its lowest row has.
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	// groupHeight is the height of the subtrees that are read as leaves. Nodes of this
	// height are cached, lower ones are hashed for each proof.
	groupHeight = 5
	groupWidth  = 1 << groupHeight
	// groups is the number of groups in a tile.
	groups = tileWidth / groupWidth
)

// walk answers the questions of one tree size and keeps what it has read last, so that the
// nodes of one path, and of the paths of neighbours, are read and hashed once.
type walk struct {
	p     *Prover
	size  uint64
	proof []Hash

	// group holds the complete nodes of heights 0 to 4 over the leaves of one group.
	group subtree[[2 * groupWidth]Hash]
	// tile holds the complete nodes of heights 5 to 7 of one tile of level 0.
	tile subtree[[2 * groups]Hash]
	// row holds the leaf hashes of the tile of level 0 that was read last.
	row subtree[[tileWidth]Hash]
	// upper holds the tiles of level 1 and above, by level.
	upper [tileHeight]struct {
		index uint64
		nodes *nodes
	}
	edge *edge

	// take is takeLeaf, which fills taken.
	take  func(uint64, []byte) error
	taken int
}

// subtree holds rows of nodes, the lowest first and the others behind it.
type subtree[A any] struct {
	// number is that of the subtree among those of its height, and n how many nodes its
	// lowest row has; there is none when n is 0.
	number uint64
	n      int
	nodes  A
}

func (p *Prover) walk(size uint64) *walk {
	w := p.walks.Get().(*walk)
	w.size, w.edge = size, nil
	w.group.n, w.tile.n, w.row.n = 0, 0, 0
	for i := range w.upper {
		w.upper[i].nodes = nil
	}
	return w
}

// path appends to the proof the siblings on the way from a complete node to the root.
func (w *walk) path(ctx context.Context, level int, index uint64) error {
	// Up to the node that is on the right edge but for what the edge has below it, all
	// siblings are complete.
	top := level + bits.Len64(index^w.size>>level) - 1
	for ; level < top; level, index = level+1, index>>1 {
		h, err := w.node(ctx, level, index^1)
		if err != nil {
			return err
		}
		w.proof = append(w.proof, h)
	}
	below := w.size&(1<<top-1) != 0
	above := w.size >> (top + 1)
	if !below && above == 0 {
		return nil
	}
	need := top
	if above != 0 {
		need = 64
	}
	e, err := w.rightEdge(ctx, need)
	if err != nil {
		return err
	}
	if below {
		w.proof = append(w.proof, e.tails[top])
	}
	for ; above != 0; above &= above - 1 {
		w.proof = append(w.proof, e.nodes[top+1+bits.TrailingZeros64(above)])
	}
	return nil
}

// edge is the right edge of a tree: the complete subtrees that it is made of, one for each
// bit of its size.
type edge struct {
	size, known uint64 // bits of size whose nodes are there
	nodes       [64]Hash
	// tails[h] is the hash over what the edge has below height h.
	tails [65]Hash
}

// rightEdge returns the edge of the tree, at least what it has below a height.
func (w *walk) rightEdge(ctx context.Context, height int) (*edge, error) {
	if w.edge == nil && w.p.cache != nil {
		if e := w.p.edge.Load(); e != nil && e.size == w.size {
			w.edge = e
		}
	}
	if w.p.cache != nil {
		height = 64 // it will be asked for again
	}
	want := w.size
	if height < 64 {
		want &= 1<<height - 1
	}
	if e := w.edge; e != nil && e.known&want == want {
		return e, nil
	}
	e := &edge{size: w.size, known: want}
	for h, found := 0, false; h < height; h++ {
		if found {
			e.tails[h+1] = e.tails[h]
		}
		if want>>h&1 == 0 {
			continue
		}
		n, err := w.node(ctx, h, w.size>>h-1)
		if err != nil {
			return nil, err
		}
		e.nodes[h], e.tails[h+1] = n, n
		if found {
			e.tails[h+1] = HashChildren(&n, &e.tails[h])
		}
		found = true
	}
	w.edge = e
	if w.p.cache != nil {
		w.p.edge.Store(e)
	}
	return e, nil
}

// node returns the hash of a complete subtree of the tree.
func (w *walk) node(ctx context.Context, level int, index uint64) (Hash, error) {
	switch {
	case level < tileHeight && w.p.cache == nil:
		number := index >> (tileHeight - level)
		if err := w.loadRow(ctx, number); err != nil {
			return Hash{}, err
		}
		return root(w.row.nodes[(index<<level)%tileWidth:][:1<<level]), nil
	case level < groupHeight:
		number := index >> (groupHeight - level)
		if err := w.loadGroup(ctx, number); err != nil {
			return Hash{}, err
		}
		return w.group.nodes[rowAt(groupWidth, level)+int(index-number<<(groupHeight-level))], nil
	case level < tileHeight:
		number := index >> (tileHeight - level)
		if err := w.loadTile(ctx, number); err != nil {
			return Hash{}, err
		}
		return w.tile.nodes[rowAt(groups, level-groupHeight)+int(index-number<<(tileHeight-level))], nil
	}
	t, err := w.loadUpper(ctx, level/tileHeight, index<<(level%tileHeight)/tileWidth)
	if err != nil {
		return Hash{}, err
	}
	return t.node(level%tileHeight, index), nil
}

// rowAt is where the row of a height begins in a subtree of a width.
func rowAt(width, height int) int { return 2*width - 2*width>>height }

// fold fills the rows above the lowest, which has n nodes.
func fold(nodes []Hash, n int) {
	for width, at := len(nodes)/2, 0; n > 1; width, n = width/2, n/2 {
		for i := range n / 2 {
			nodes[at+width+i] = HashChildren(&nodes[at+2*i], &nodes[at+2*i+1])
		}
		at += width
	}
}

// loadGroup makes a group the one that is held.
func (w *walk) loadGroup(ctx context.Context, number uint64) error {
	if w.group.n > 0 && w.group.number == number {
		return nil
	}
	// When the nodes over the group are not known either, the tile is read for both.
	tile := number / groups
	if err := w.loadTile(ctx, tile); err != nil {
		return err
	}
	start := number * groupWidth
	n := int(min(w.size-start, groupWidth))
	w.group.n = 0
	if w.row.n > 0 && w.row.number == tile {
		copy(w.group.nodes[:n], w.row.nodes[start%tileWidth:])
	} else {
		w.taken = 0
		if err := w.p.source.Leaves(ctx, start, start+uint64(n), w.take); err != nil {
			return fmt.Errorf("reading leaves %d to %d: %w", start, start+uint64(n), err)
		}
		if w.taken != n {
			return fmt.Errorf("reading leaves %d to %d: %w: there are %d", start, start+uint64(n), storage.ErrCorrupt, w.taken)
		}
	}
	fold(w.group.nodes[:], n)
	w.group.number, w.group.n = number, n
	return nil
}

func (w *walk) takeLeaf(_ uint64, leaf []byte) error {
	if w.taken < groupWidth {
		w.group.nodes[w.taken] = HashLeaf(leaf)
	}
	w.taken++
	return nil
}

// loadTile makes a tile of level 0 the one whose groups' nodes are held.
func (w *walk) loadTile(ctx context.Context, number uint64) error {
	n := int(min(w.size-number*tileWidth, tileWidth) / groupWidth)
	if n == 0 || (w.tile.n == n && w.tile.number == number) {
		return nil
	}
	w.tile.n = 0
	if !w.p.cache.groups(number, w.tile.nodes[:n]) {
		if err := w.loadRow(ctx, number); err != nil {
			return err
		}
		for i := range n {
			w.tile.nodes[i] = root(w.row.nodes[i*groupWidth:][:groupWidth])
		}
		w.p.cache.keepGroups(number, w.tile.nodes[:n])
	}
	fold(w.tile.nodes[:], n)
	w.tile.number, w.tile.n = number, n
	return nil
}

// root returns the root over a power of two of nodes.
func root(row []Hash) Hash {
	if len(row) == 1 {
		return row[0]
	}
	left, right := root(row[:len(row)/2]), root(row[len(row)/2:])
	return HashChildren(&left, &right)
}

// loadRow makes a tile of level 0 the one whose leaf hashes are held, as wide as it is in
// the tree.
func (w *walk) loadRow(ctx context.Context, number uint64) error {
	if w.row.n > 0 && w.row.number == number {
		return nil
	}
	n := int(min(w.size-number*tileWidth, tileWidth))
	w.row.n = 0
	if err := w.readTile(ctx, 0, number, w.row.nodes[:n]); err != nil {
		return err
	}
	w.row.number, w.row.n = number, n
	return nil
}

func (w *walk) readTile(ctx context.Context, level int, index uint64, into []Hash) error {
	b, err := w.p.source.Tile(ctx, uint8(level), index, len(into))
	if err != nil {
		return fmt.Errorf("reading tile %d/%d: %w", level, index, err)
	}
	if len(b) != len(into)*storage.HashSize {
		return fmt.Errorf("reading tile %d/%d: %w: %d bytes", level, index, storage.ErrCorrupt, len(b))
	}
	for i := range into {
		into[i] = Hash(b[i*storage.HashSize:])
	}
	return nil
}

// loadUpper returns a tile of level 1 or above, at least as wide as it is in the tree.
func (w *walk) loadUpper(ctx context.Context, level int, index uint64) (*nodes, error) {
	slot := &w.upper[level]
	if slot.nodes != nil && slot.index == index {
		return slot.nodes, nil
	}
	width := int(min(w.size>>(level*tileHeight)-index*tileWidth, tileWidth))
	id := tileID{uint8(level), index}
	if w.p.cache != nil {
		if t := w.p.cache.upper(id, width); t != nil {
			slot.index, slot.nodes = index, t
			return t, nil
		}
	}
	t := &nodes{}
	t[0] = make([]Hash, width)
	if err := w.readTile(ctx, level, index, t[0]); err != nil {
		return nil, err
	}
	if w.p.cache != nil {
		t.fill()
		w.p.cache.keepUpper(id, t)
	}
	slot.index, slot.nodes = index, t
	return t, nil
}
