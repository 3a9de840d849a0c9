package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"math/bits"
	"sync/atomic"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/receipt"
)

// upperLevels is how many levels below the root of a checkpoint are remembered: at most
// 2^upperLevels pairs of nodes, 650 KB.
const upperLevels = 12

// upper remembers the upper nodes of the tree of one checkpoint, as good receipts have
// proven them. A receipt's path is hashed up to the first pair that is known; from there on
// its lines must be, letter for letter, those of the known nodes. Calls may be concurrent.
//
// A pair is noted only when a path from it leads to the root of the checkpoint, and after
// those above it: whoever sees a pair sees all pairs above.
type upper struct {
	signed *Signed
	// pairs stand like a heap: 1 is the pair below the root, 2n and 2n+1 are below n. Made
	// for the second receipt in a row of the checkpoint.
	pairs atomic.Pointer[[1 << upperLevels]atomic.Pointer[pair]]
}

// siblings are two nodes with one parent, the left one first.
type siblings [2][sha256.Size]byte

// path holds the siblings on the way from a leaf to the root, by level.
type path [receipt.MaxHashes + 1]siblings

// pair is two siblings and their lines in a receipt.
type pair struct {
	nodes siblings
	lines [2][receipt.LineSize]byte
}

// upperOf returns what is remembered of the checkpoint's tree, which is forgotten when
// another checkpoint comes.
func (v *Verifier) upperOf(s *Signed) *upper {
	u := v.upper.Load()
	if u == nil || u.signed != s {
		u = &upper{signed: s}
		v.upper.Store(u)
		return u
	}
	if u.pairs.Load() == nil {
		u.pairs.CompareAndSwap(nil, new([1 << upperLevels]atomic.Pointer[pair]))
	}
	return u
}

// place returns where the pair of a node stands, nil when such pairs are not remembered.
// Level counts from the leaves, at is the node's number in its level.
func (u *upper) place(level int, at uint64) *atomic.Pointer[pair] {
	down := bits.Len64(u.signed.Size-1) - 1 - level
	pairs := u.pairs.Load()
	if down >= upperLevels || pairs == nil {
		return nil
	}
	return &pairs[1<<down+at>>1]
}

// known returns the pair of a node if it is known.
func (u *upper) known(level int, at uint64) *pair {
	if p := u.place(level, at); p != nil {
		return p.Load()
	}
	return nil
}

// includes says whether a leaf of hash h is the entry at index of the tree, as verifyInclusion
// does (RFC 9162 section 2.1.3.2). What hashed holds does not matter, it is written over.
func (u *upper) includes(index uint64, h [sha256.Size]byte, lines receipt.Lines, hashed *path) bool {
	size := u.signed.Size
	if index >= size {
		return false
	}
	// Up to the level at which the path joins the right edge, every node has a sibling; above
	// it only those whose sibling is to the left.
	inner := bits.Len64(index ^ (size - 1))
	if lines.Len() != inner+bits.OnesCount64(index>>inner) {
		return false
	}
	level, line := 0, 0
	for top := bits.Len64(size - 1); level < top; level++ {
		at := index >> level
		if level >= inner && at&1 == 0 {
			continue
		}
		if p := u.known(level, at); p != nil {
			if h != p.nodes[at&1] || !u.follows(index, level, inner, lines[line*receipt.LineSize:]) {
				return false
			}
			u.note(hashed, index, level, inner)
			return true
		}
		sibling, ok := lines.Hash(line)
		if !ok {
			return false
		}
		line++
		hashed[level][at&1], hashed[level][at&1^1] = h, sibling
		h = hashPair(&hashed[level])
	}
	if h != u.signed.Root {
		return false
	}
	u.note(hashed, index, level, inner)
	return true
}

// follows says whether lines are those of the path from a level on, where all is known.
func (u *upper) follows(index uint64, level, inner int, lines receipt.Lines) bool {
	for ; len(lines) > 0; level++ {
		at := index >> level
		if level >= inner && at&1 == 0 {
			continue
		}
		p := u.known(level, at)
		if p == nil || !bytes.Equal(lines[:receipt.LineSize], p.lines[at&1^1][:]) {
			return false
		}
		lines = lines[receipt.LineSize:]
	}
	return true
}

// note remembers the pairs of a path below a level, the upper ones first. They lead to the
// root, or to a pair that does.
func (u *upper) note(hashed *path, index uint64, level, inner int) {
	for level--; level >= 0; level-- {
		at := index >> level
		if level >= inner && at&1 == 0 {
			continue
		}
		place := u.place(level, at)
		if place == nil {
			return
		}
		p := &pair{nodes: hashed[level]}
		for i := range p.nodes {
			base64.StdEncoding.Encode(p.lines[i][:], p.nodes[i][:])
			p.lines[i][receipt.LineSize-1] = '\n'
		}
		place.Store(p)
	}
}

// hashPair is the RFC 9162 hash of an inner node.
func hashPair(nodes *siblings) [sha256.Size]byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], nodes[0][:])
	copy(b[1+sha256.Size:], nodes[1][:])
	return sha256.Sum256(b[:])
}
