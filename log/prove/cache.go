package prove

import (
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
)

// recentEntries is how many entries at the end of the tree have all nodes over them kept
// ready, 2.2 MiB: receipts are mostly asked for when an event is new.
const recentEntries = 1 << 15

// cache keeps nodes of complete subtrees: tiles of level 1 and above, of which a bounded
// number, and what is recent.
type cache struct {
	tiles *lru.Cache[tileID, *nodes]
	// recentGroups and recentTiles are by number, modulo their length. What they point to
	// is never changed.
	recentGroups [recentEntries / groupWidth]atomic.Pointer[group]
	recentTiles  [recentEntries / tileWidth]atomic.Pointer[lowTile]
}

// group returns what is kept in a group's place: that group, another one, or nil.
func (c *cache) group(number uint64) *group {
	return c.recentGroups[number%uint64(len(c.recentGroups))].Load()
}

func (c *cache) keepGroup(g *group) {
	c.recentGroups[g.number%uint64(len(c.recentGroups))].Store(g)
}

// lowTile returns what is kept in a tile's place.
func (c *cache) lowTile(number uint64) *lowTile {
	return c.recentTiles[number%uint64(len(c.recentTiles))].Load()
}

func (c *cache) keepLowTile(t *lowTile) {
	c.recentTiles[t.number%uint64(len(c.recentTiles))].Store(t)
}

// newCache returns one for so many tiles of level 1, and the few above them.
func newCache(tiles int) *cache {
	// The only error is a size that is not positive.
	c := &cache{}
	c.tiles, _ = lru.New[tileID, *nodes](tiles + tiles/tileWidth + tileHeight)
	return c
}

type tileID struct {
	level uint8
	index uint64
}

// nodes are those of a tile of level 1 or above: nodes[h] holds the complete ones of
// height h, up to 2^(8-h), 16 KiB in all. Without a cache only nodes[0] is there.
type nodes [tileHeight + 1][]Hash

// fill makes the rows above the lowest.
func (t *nodes) fill() {
	for h := range tileHeight {
		t[h+1] = make([]Hash, len(t[h])/2)
		for i := range t[h+1] {
			t[h+1][i] = HashChildren(&t[h][2*i], &t[h][2*i+1])
		}
	}
}

// node returns a complete node of a height; index is its number in the whole tree.
func (t *nodes) node(height int, index uint64) Hash {
	at := index % (tileWidth >> height)
	if len(t[height]) > 0 {
		return t[height][at]
	}
	return root(t[0][at<<height : (at+1)<<height])
}

// upper returns a tile that is at least so wide, nil when there is none.
func (c *cache) upper(id tileID, width int) *nodes {
	if t, ok := c.tiles.Get(id); ok && len(t[0]) >= width {
		return t
	}
	return nil
}

// keepUpper remembers a tile, unless a wider one is known.
func (c *cache) keepUpper(id tileID, t *nodes) {
	if c.upper(id, len(t[0])) == nil {
		c.tiles.Add(id, t)
	}
}
