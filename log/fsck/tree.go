package fsck

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/storage"
)

// tileWidth is the number of hashes in a full tile.
const tileWidth = storage.TileWidth

// tree is the Merkle tree as the leaves give it: the right edge, and of each level of
// tiles the hashes that have not been compared with the store yet. It is written without
// the writer's code, so that an error there shows here.
type tree struct {
	size   uint64
	edge   [65]prove.Hash // edge[h] is the last complete subtree of height h not yet paired
	levels [storage.MaxLevel + 1]level
}

type level struct {
	start  uint64 // number of hashes[0] in its level
	hashes []prove.Hash
}

// add takes one leaf.
func (t *tree) add(h prove.Hash) {
	t.keep(0, h)
	t.join(h, 0)
	if lv := &t.levels[0]; len(lv.hashes) == tileWidth { // has been compared by itself
		lv.start += tileWidth
		lv.hashes = lv.hashes[:0]
	}
}

// addTile takes the root over the leaves of a full tile.
func (t *tree) addTile(h prove.Hash) {
	t.levels[0].start += tileWidth
	t.keep(1, h)
	t.join(h, 8)
}

// join takes a complete subtree of a height, by whose width the size is divisible.
func (t *tree) join(h prove.Hash, height int) {
	width := uint64(1) << height
	for n := t.size >> height; n&1 == 1; n >>= 1 {
		h = prove.HashChildren(&t.edge[height], &h)
		height++
		if height%8 == 0 {
			t.keep(height/8, h)
		}
	}
	t.edge[height] = h
	t.size += width
}

// rootOf returns the root over the hashes of a full tile.
func rootOf(row []prove.Hash) prove.Hash {
	var up [tileWidth / 2]prove.Hash
	for n := len(row) / 2; n > 0; n /= 2 {
		for i := range n {
			up[i] = prove.HashChildren(&row[2*i], &row[2*i+1])
		}
		row = up[:n]
	}
	return up[0]
}

func (t *tree) keep(l int, h prove.Hash) {
	if l < len(t.levels) {
		t.levels[l].hashes = append(t.levels[l].hashes, h)
	}
}

func (t *tree) root() prove.Hash {
	root, found := prove.Hash(sha256.Sum256(nil)), false
	for height := range t.edge {
		if t.size>>height&1 == 0 {
			continue
		}
		if !found {
			root, found = t.edge[height], true
			continue
		}
		root = prove.HashChildren(&t.edge[height], &root)
	}
	return root
}

// atSize compares the tree with what was published and signed at its size.
func (t *tree) atSize(c *checker) {
	if p := c.published; p != nil && p.Size == t.size {
		if root := t.root(); root != p.Root {
			c.problem("checkpoint", "has root %x for size %d, the leaves give %x", p.Root, t.size, root)
		}
	}
	if st := c.opts.Signed; st != nil && st.Size == t.size {
		if root := t.root(); root != st.Root {
			c.problem("signer's ledger", "has root %x for size %d, the leaves give %x", st.Root, t.size, root)
		}
	}
}

// compare holds the gathered hashes against the stored tiles: full tiles, and at the end
// the partial ones too. The full tiles of level 0 have been compared part by part.
func (t *tree) compare(ctx context.Context, c *checker, all bool) {
	for l := range t.levels {
		lv := &t.levels[l]
		for len(lv.hashes) >= tileWidth || (all && len(lv.hashes) > 0) {
			n := min(tileWidth, len(lv.hashes))
			if pr := compareTile(ctx, c.store, uint8(l), lv.start/tileWidth, lv.hashes[:n]); pr != nil {
				c.problem(pr.Where, "%s", pr.What)
			}
			lv.start += uint64(n)
			lv.hashes = lv.hashes[:copy(lv.hashes, lv.hashes[n:])]
		}
	}
}

// compareTile says how a stored tile differs; nil when it does not.
func compareTile(ctx context.Context, s storage.Store, l uint8, index uint64, want []prove.Hash) *Problem {
	wrong := func(format string, args ...any) *Problem {
		return &Problem{fmt.Sprintf("tile %d/%d", l, index), fmt.Sprintf(format, args...)}
	}
	got, err := s.Tile(ctx, l, index, len(want))
	if err != nil {
		return wrong("cannot be read: %s", reason(err))
	}
	if len(got) != len(want)*storage.HashSize {
		return wrong("has %d bytes, want %d hashes", len(got), len(want))
	}
	for i := range want {
		if prove.Hash(got[i*storage.HashSize:]) != want[i] {
			return wrong("hash %d is %x, the leaves give %x", i, got[i*storage.HashSize:(i+1)*storage.HashSize], want[i])
		}
	}
	return nil
}
