package log

import (
	"crypto/sha256"

	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/storage"
)

// frontier is the right edge of the tree: the roots of the complete subtrees that its
// size is made of, largest first (one for each bit set in size).
type frontier struct {
	size  uint64
	roots []prove.Hash
}

// add appends a leaf, given by its hash, and appends what it completes: to nodes the subtrees
// of 256^level leaves, level 1 and above, and to groups those that prove.Nodes keeps.
func (f *frontier) add(h prove.Hash, nodes []storage.Node, groups []prove.Hash) ([]storage.Node, []prove.Hash) {
	level := uint(0)
	for n := f.size; n&1 == 1; n >>= 1 {
		last := len(f.roots) - 1
		h = prove.HashChildren(&f.roots[last], &h)
		f.roots = f.roots[:last]
		level++
		switch {
		case level == prove.GroupHeight:
			groups = append(groups, h)
		case level%8 == 0:
			nodes = append(nodes, storage.Node{Level: uint8(level / 8), Index: f.size >> level, Hash: h})
		}
	}
	f.roots = append(f.roots, h)
	f.size++
	return nodes, groups
}

// root returns the RFC 6962 root of the tree.
func (f *frontier) root() prove.Hash {
	if len(f.roots) == 0 {
		return sha256.Sum256(nil)
	}
	root := f.roots[len(f.roots)-1]
	for i := len(f.roots) - 2; i >= 0; i-- {
		root = prove.HashChildren(&f.roots[i], &root)
	}
	return root
}
