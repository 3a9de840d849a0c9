package fsck

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/storage"
)

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

func (t *tree) add(h prove.Hash) {
	t.keep(0, h)
	height := 0
	for n := t.size; n&1 == 1; n >>= 1 {
		h = prove.HashChildren(&t.edge[height], &h)
		height++
		if height%8 == 0 {
			t.keep(height/8, h)
		}
	}
	t.edge[height] = h
	t.size++
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
// the partial ones too.
func (t *tree) compare(ctx context.Context, c *checker, all bool) {
	for l := range t.levels {
		lv := &t.levels[l]
		for len(lv.hashes) >= 256 || (all && len(lv.hashes) > 0) {
			n := min(256, len(lv.hashes))
			compareTile(ctx, c, uint8(l), lv.start/256, lv.hashes[:n])
			lv.start += uint64(n)
			lv.hashes = lv.hashes[:copy(lv.hashes, lv.hashes[n:])]
		}
	}
}

func compareTile(ctx context.Context, c *checker, l uint8, index uint64, want []prove.Hash) {
	where := fmt.Sprintf("tile %d/%d", l, index)
	got, err := c.store.Tile(ctx, l, index, len(want))
	if err != nil {
		c.problem(where, "cannot be read: %s", reason(err))
		return
	}
	if len(got) != len(want)*storage.HashSize {
		c.problem(where, "has %d bytes, want %d hashes", len(got), len(want))
		return
	}
	for i := range want {
		if prove.Hash(got[i*storage.HashSize:]) != want[i] {
			c.problem(where, "hash %d is %x, the leaves give %x", i, got[i*storage.HashSize:(i+1)*storage.HashSize], want[i])
			return
		}
	}
}
