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
	// groupHeight is the height of the subtrees that are read as leaves, or as the hashes of
	// leaves from Nodes, which has the nodes of this height too; those between are hashed
	// for each proof.
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

	// group and tile were read last; they are ownGroup and ownTile, or shared and not to be
	// changed.
	group    *group
	tile     *lowTile
	ownGroup group
	ownTile  lowTile
	// row holds the leaf hashes of the tile of level 0 that was read last.
	row row
	// upper holds the tiles of level 1 and above, by level.
	upper [tileHeight]struct {
		index uint64
		nodes *nodes
	}
	edge *edge

	// take is takeLeaf, which fills the first taken nodes of filling.
	take    func(uint64, []byte) error
	filling *group
	taken   int
	// buf is what was read of Nodes.
	buf nodeBuffer
}

// group holds the complete nodes of heights 0 to 4 over 32 leaves, lowTile those of heights
// 5 to 7 of a tile of level 0, row its leaf hashes.
type (
	group   = subtree[[2 * groupWidth]Hash]
	lowTile = subtree[[2 * groups]Hash]
	row     = subtree[[tileWidth]Hash]
)

// subtree holds rows of nodes, the lowest first and the others behind it.
type subtree[A any] struct {
	// number is that of the subtree among those of its height, and n how many nodes its
	// lowest row has; there is none when n is 0.
	number uint64
	n      int
	nodes  A
}

// is says whether s is a subtree with at least n nodes in its lowest row; s may be nil.
func (s *subtree[A]) is(number uint64, n int) bool {
	return s != nil && s.number == number && s.n >= n && n > 0
}

func (p *Prover) walk(size uint64) *walk {
	w := p.walks.Get().(*walk)
	w.size, w.edge = size, nil
	w.group, w.tile, w.row.n = &w.ownGroup, &w.ownTile, 0
	w.ownGroup.n, w.ownTile.n = 0, 0
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

// recent says whether an entry is one of those that are asked for most: their nodes are
// kept ready.
func (w *walk) recent(entry uint64) bool {
	return w.p.cache != nil && entry+recentEntries > w.size
}

// loadGroup makes a group the one that is held.
func (w *walk) loadGroup(ctx context.Context, number uint64) error {
	start := number * groupWidth
	n := int(min(w.size-start, groupWidth))
	if w.group.is(number, n) {
		return nil
	}
	recent := w.recent(start)
	if recent {
		if g := w.p.cache.group(number); g.is(number, n) {
			w.group = g
			return nil
		}
	}
	// When the nodes over the group are not known either, the tile is read for both.
	tile := number / groups
	if err := w.loadTile(ctx, tile); err != nil {
		return err
	}
	g := &w.ownGroup
	if recent {
		g = new(group)
	}
	g.n = 0
	if !w.readGroup(g, number, n) {
		if w.row.n > 0 && w.row.number == tile {
			copy(g.nodes[:n], w.row.nodes[start%tileWidth:])
		} else if err := w.readLeaves(ctx, g, start, n); err != nil {
			return err
		} else if n == groupWidth {
			w.p.nodes.Keep(start, g.nodes[:n], nil)
		}
		fold(g.nodes[:], n)
	}
	g.number, g.n = number, n
	if recent {
		w.p.cache.keepGroup(g)
	}
	w.group = g
	return nil
}

// readGroup fills a group with the hashes of its leaves that are kept in Nodes, and says
// whether they are there and are those under the node of the tile, which is loaded.
func (w *walk) readGroup(g *group, number uint64, n int) bool {
	tile := number / groups
	if w.p.nodes == nil || n < groupWidth || w.row.n > 0 && w.row.number == tile {
		return false
	}
	if !w.p.nodes.leaves.read(number*groupWidth, g.nodes[:groupWidth], &w.buf) {
		return false
	}
	fold(g.nodes[:], groupWidth)
	return g.nodes[rowAt(groupWidth, groupHeight)] == w.tile.nodes[number%groups]
}

// readLeaves reads the leaves of a group.
func (w *walk) readLeaves(ctx context.Context, g *group, start uint64, n int) error {
	w.filling, w.taken = g, 0
	if err := w.p.source.Leaves(ctx, start, start+uint64(n), w.take); err != nil {
		return fmt.Errorf("reading leaves %d to %d: %w", start, start+uint64(n), err)
	}
	if w.taken != n {
		return fmt.Errorf("reading leaves %d to %d: %w: there are %d", start, start+uint64(n), storage.ErrCorrupt, w.taken)
	}
	return nil
}

func (w *walk) takeLeaf(_ uint64, leaf []byte) error {
	if w.taken < groupWidth {
		w.filling.nodes[w.taken] = HashLeaf(leaf)
	}
	w.taken++
	return nil
}

// loadTile makes a tile of level 0 the one whose groups' nodes are held.
func (w *walk) loadTile(ctx context.Context, number uint64) error {
	n := int(min(w.size-number*tileWidth, tileWidth) / groupWidth)
	if n == 0 || w.tile.is(number, n) {
		return nil
	}
	recent := w.recent(number * tileWidth)
	if recent {
		if t := w.p.cache.lowTile(number); t.is(number, n) {
			w.tile = t
			return nil
		}
	}
	t := &w.ownTile
	if recent {
		t = new(lowTile)
	}
	t.n = 0
	kept, err := w.readTileGroups(ctx, t, number, n)
	if err != nil {
		return err
	}
	if !kept {
		if err := w.loadRow(ctx, number); err != nil {
			return err
		}
		for i := range n {
			t.nodes[i] = root(w.row.nodes[i*groupWidth:][:groupWidth])
		}
		fold(t.nodes[:], n)
		if n == groups { // Else its leaves have just been appended, and kept.
			w.p.nodes.Keep(number*tileWidth, w.row.nodes[:], t.nodes[:groups])
		}
	}
	t.number, t.n = number, n
	if recent {
		w.p.cache.keepLowTile(t)
	}
	w.tile = t
	return nil
}

// readTileGroups fills a tile of level 0 with the nodes over its n groups that are kept in
// Nodes, and says whether they are there and are those under the node of level 1. Only a
// complete tile has that.
func (w *walk) readTileGroups(ctx context.Context, t *lowTile, number uint64, n int) (bool, error) {
	if w.p.nodes == nil || n < groups || !w.p.nodes.groups.read(number*groups, t.nodes[:groups], &w.buf) {
		return false, nil
	}
	fold(t.nodes[:], groups)
	over, err := w.node(ctx, tileHeight, number)
	return err == nil && over == t.nodes[rowAt(groups, tileHeight-groupHeight)], err
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
