package verify_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// sumTree is a tree as golang.org/x/mod/sumdb/tlog keeps it.
type sumTree struct {
	t      *testing.T
	hashes []tlog.Hash
	leaves [][]byte
	roots  []tlog.Hash
}

func (s *sumTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, s.hashes[i])
	}
	return out, nil
}

func newSumTree(t *testing.T, n int) *sumTree {
	t.Helper()
	s := &sumTree{t: t, roots: []tlog.Hash{checkpoint.EmptyRoot()}}
	for i := range int64(n) {
		leaf := fmt.Appendf(nil, "leaf %d", i)
		s.leaves = append(s.leaves, leaf)
		hashes, err := tlog.StoredHashes(i, leaf, s)
		if err != nil {
			t.Fatal(err)
		}
		s.hashes = append(s.hashes, hashes...)
		root, err := tlog.TreeHash(i+1, s)
		if err != nil {
			t.Fatal(err)
		}
		s.roots = append(s.roots, root)
	}
	return s
}

func proofBytes[H ~[32]byte](p []H) [][]byte {
	var out [][]byte
	for _, h := range p {
		out = append(out, bytes.Clone(h[:]))
	}
	return out
}

// changeToo picks what is tried changed as well: everything in small trees, one in eleven
// elsewhere, for it takes most of the time.
func (s *sumTree) changeToo(a, b int64) bool {
	return b <= 70 || (a+b)%11 == 0
}

func (s *sumTree) inclusion(index, size int64) {
	s.t.Helper()
	p, err := tlog.ProveRecord(size, index, s)
	if err != nil {
		s.t.Fatal(err)
	}
	root, leaf, hashes := s.roots[size], s.leaves[index], proofBytes(p)
	if err := verify.VerifyInclusion(uint64(index), uint64(size), leaf, hashes, root); err != nil {
		s.t.Fatalf("entry %d of %d: %v", index, size, err)
	}
	if !s.changeToo(index, size) {
		return
	}
	// The same after one change; sumdb agrees that it is bad.
	bad := append(tlog.RecordProof(nil), p...)
	if len(bad) > 0 {
		bad[int(index+size)%len(bad)][index%32] ^= 1
	} else {
		bad = append(bad, tlog.Hash{})
	}
	ours := verify.VerifyInclusion(uint64(index), uint64(size), leaf, proofBytes(bad), root)
	if theirs := tlog.CheckRecord(bad, size, root, index, tlog.RecordHash(leaf)); ours == nil || theirs == nil {
		s.t.Fatalf("entry %d of %d, changed: ours %v, theirs %v", index, size, ours, theirs)
	}
	if other := (index + 1) % size; other != index {
		ours := verify.VerifyInclusion(uint64(other), uint64(size), leaf, hashes, root)
		if theirs := tlog.CheckRecord(p, size, root, other, tlog.RecordHash(leaf)); ours == nil || theirs == nil {
			s.t.Fatalf("entry %d of %d as %d: ours %v, theirs %v", index, size, other, ours, theirs)
		}
	}
}

func (s *sumTree) consistency(from, to int64) {
	s.t.Helper()
	p, err := tlog.ProveTree(to, from, s)
	if err != nil {
		s.t.Fatal(err)
	}
	before := checkpoint.Checkpoint{Size: uint64(from), Root: s.roots[from]}
	after := checkpoint.Checkpoint{Size: uint64(to), Root: s.roots[to]}
	if err := verify.VerifyConsistency(before, after, proofBytes(p)); err != nil {
		s.t.Fatalf("%d to %d: %v", from, to, err)
	}
	if !s.changeToo(from, to) {
		return
	}
	bad := append(tlog.TreeProof(nil), p...)
	if len(bad) > 0 {
		bad[int(from+to)%len(bad)][from%32] ^= 1
	} else {
		bad = append(bad, tlog.Hash{})
	}
	ours := verify.VerifyConsistency(before, after, proofBytes(bad))
	if theirs := tlog.CheckTree(bad, to, s.roots[to], from, s.roots[from]); ours == nil || theirs == nil {
		s.t.Fatalf("%d to %d, changed: ours %v, theirs %v", from, to, ours, theirs)
	}
	forked := before
	forked.Root[1] ^= 1
	ours = verify.VerifyConsistency(forked, after, proofBytes(p))
	if theirs := tlog.CheckTree(p, to, s.roots[to], from, tlog.Hash(forked.Root)); ours == nil || theirs == nil {
		s.t.Fatalf("%d to %d, forked: ours %v, theirs %v", from, to, ours, theirs)
	}
}

// TestAgreesWithSumDB takes the proofs of golang.org/x/mod/sumdb/tlog for every entry and
// every pair of sizes up to 600, and for some of larger trees; many also changed, where
// both must refuse.
func TestAgreesWithSumDB(t *testing.T) {
	t.Parallel()
	limit := 600
	if testing.Short() {
		limit = 130
	}
	s := newSumTree(t, limit)
	for size := range int64(limit + 1) {
		for i := range size {
			s.inclusion(i, size)
			s.consistency(i+1, size)
		}
		empty := checkpoint.Checkpoint{Root: checkpoint.EmptyRoot()}
		if err := verify.VerifyConsistency(empty, checkpoint.Checkpoint{Size: uint64(size), Root: s.roots[size]}, nil); err != nil {
			t.Fatalf("0 to %d: %v", size, err)
		}
	}
	large := newSumTree(t, 20000)
	rnd := rand.New(rand.NewPCG(600, 20000))
	for range 2000 {
		size := 1 + rnd.Int64N(20000)
		large.inclusion(rnd.Int64N(size), size)
		large.consistency(1+rnd.Int64N(size), size)
	}
}

// TestAgreesWithMerkle takes roots and inner nodes that transparency-dev/merkle keeps as
// constants from RFC 6962's reference trees.
func TestAgreesWithMerkle(t *testing.T) {
	leaves, roots := testonly.LeafInputs(), testonly.RootHashes()
	var tree [][]byte
	for i, leaf := range leaves {
		tree = append(tree, leaf)
		for index := range tree {
			var p [][]byte
			reference(tree, index, &p)
			if err := verify.VerifyInclusion(uint64(index), uint64(i+1), tree[index], p, [32]byte(roots[i+1])); err != nil {
				t.Errorf("entry %d of %d: %v", index, i+1, err)
			}
		}
	}
}

// reference is RFC 6962 section 2.1 word for word: it returns MTH(leaves) and appends
// PATH(index, leaves) to p.
func reference(leaves [][]byte, index int, p *[][]byte) []byte {
	if len(leaves) == 1 {
		h := tlog.RecordHash(leaves[0])
		return h[:]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	var none [][]byte
	var left, right []byte
	if index < k {
		left = reference(leaves[:k], index, p)
		right = reference(leaves[k:], 0, &none)
		*p = append(*p, right)
	} else {
		right = reference(leaves[k:], index-k, p)
		left = reference(leaves[:k], 0, &none)
		*p = append(*p, left)
	}
	h := tlog.NodeHash(tlog.Hash(left), tlog.Hash(right))
	return h[:]
}
