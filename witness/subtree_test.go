package witness_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness"
)

// definedTree is a Merkle tree by the letter of the definitions.
type definedTree struct {
	leaves [][]byte // leaf hashes
	memo   map[[2]int][32]byte
}

func newDefinedTree(n int, leaf func(i int) []byte) *definedTree {
	d := &definedTree{memo: make(map[[2]int][32]byte)}
	for i := range n {
		d.leaves = append(d.leaves, rfc6962.DefaultHasher.HashLeaf(leaf(i)))
	}
	return d
}

// hash is the Merkle tree hash of leaves (RFC 6962 section 2.1).
func (d *definedTree) hash(start, end int) [32]byte {
	switch end - start {
	case 0:
		return checkpoint.EmptyRoot()
	case 1:
		return [32]byte(d.leaves[start])
	}
	h, ok := d.memo[[2]int{start, end}]
	if !ok {
		k := start + split(end-start)
		left, right := d.hash(start, k), d.hash(k, end)
		h = [32]byte(rfc6962.DefaultHasher.HashChildren(left[:], right[:]))
		d.memo[[2]int{start, end}] = h
	}
	return h
}

// split is the largest power of two below n.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// proof is SUBTREE_PROOF of draft-ietf-plants-merkle-tree-certs section 4.4.1 of leaves start
// to end in the tree of leaves low to high; known says that the verifier has the hash of the
// subtree.
func (d *definedTree) proof(start, end, low, high int, known bool) [][32]byte {
	if start == low && end == high {
		if known {
			return nil
		}
		return [][32]byte{d.hash(low, high)}
	}
	k := low + split(high-low)
	switch {
	case end <= k:
		return append(d.proof(start, end, low, k, known), d.hash(k, high))
	case start >= k:
		return append(d.proof(start, end, k, high, known), d.hash(low, k))
	}
	return append(d.proof(k, end, k, high, false), d.hash(low, k))
}

// validSubtree is section 4.1 of the draft in its own words.
func validSubtree(start, end int) bool {
	ceil := 1
	for ceil < end-start {
		ceil *= 2
	}
	return start < end && start%ceil == 0
}

// TestSubtreeVectors compares the definition above with the accumulated test vector of the
// draft (-05, appendix C.3), and has every proof of it verified, and many proofs with one
// thing changed refused.
func TestSubtreeVectors(t *testing.T) {
	const size = 130
	d := newDefinedTree(size, func(i int) []byte { return []byte{byte(i)} })
	sum := sha256.New()
	for n := range size + 1 {
		root := d.hash(0, n)
		for end := 1; end <= n; end++ {
			for start := range end {
				s := checkpoint.Subtree{Origin: "x", Start: uint64(start), End: uint64(end), Hash: d.hash(start, end)}
				if valid := validSubtree(start, end); valid != (s.Validate() == nil) {
					t.Fatalf("%d to %d: %v, valid %v", start, end, s.Validate(), valid)
				} else if !valid {
					continue
				}
				proof := d.proof(start, end, 0, n, true)
				fmt.Fprintf(sum, "[%d, %d) %d", start, end, n)
				for _, h := range proof {
					fmt.Fprintf(sum, " %x", h)
				}
				fmt.Fprintln(sum)
				checkSubtree(t, s, uint64(n), proof, root, n <= 40 || n == size)
			}
		}
	}
	const want = "c586ebbb73a5621baf2140095d87dde934e3b6503a562a1a5215b8209edd083d"
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != want {
		t.Errorf("the proofs have the sum %s, want %s", got, want)
	}
}

func checkSubtree(t *testing.T, s checkpoint.Subtree, size uint64, proof [][32]byte, root [32]byte, change bool) {
	t.Helper()
	if !witness.VerifySubtree(s, size, proof, root) {
		t.Fatalf("%d to %d of %d: a good proof is refused", s.Start, s.End, size)
	}
	if !change {
		return
	}
	bad := func(what string, s checkpoint.Subtree, size uint64, proof [][32]byte, root [32]byte) {
		t.Helper()
		if witness.VerifySubtree(s, size, proof, root) {
			t.Errorf("%d to %d of %d: %s is accepted", s.Start, s.End, size, what)
		}
	}
	other := s
	other.Hash[0] ^= 1
	bad("another hash", other, size, proof, root)
	bad("another root", s, size, proof, [32]byte{})
	bad("a longer proof", s, size, append(proof[:len(proof):len(proof)], [32]byte{}), root)
	for i := range proof {
		changed := append([][32]byte(nil), proof...)
		changed[i][31] ^= 1
		bad("a changed proof", s, size, changed, root)
	}
	if len(proof) > 0 {
		bad("a shorter proof", s, size, proof[:len(proof)-1], root)
		bad("a proof without its beginning", s, size, proof[1:], root)
	}
}

// subtreeRequest asks for entries start to end of the log at a size that w cosigned.
func (l *testLog) subtreeRequest(t testing.TB, start, end, size int, note []byte) []byte {
	t.Helper()
	d := newDefinedTree(size, func(i int) []byte { return fmt.Appendf(nil, "%s leaf %d", l.fork, i) })
	u := consistency.SubtreeBundle{Start: uint64(start), End: uint64(end), Checkpoint: note, Hash: d.hash(start, end)}
	u.Hashes = d.proof(start, end, 0, size, true)
	return u.Append(nil)
}

// cosigned returns the checkpoint of a size with the lines that a witness answered with.
func cosigned(l *testLog, size uint64, lines []byte) []byte {
	c := l.at(size)
	return append(append(c.Text(), '\n'), lines...)
}

// TestSignSubtree signs subtrees of checkpoints that the witness cosigned, the last and one
// before, over HTTP.
func TestSignSubtree(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	earlier := cosigned(l, 14, w.add(t, l.request(t, 0, 14)))
	latest := cosigned(l, 40, w.add(t, l.request(t, 14, 40)))
	pq := signers(t)[1].VerifierKey()
	for _, c := range []struct {
		start, end, size int
		note             []byte
	}{{8, 13, 14, earlier}, {0, 14, 14, earlier}, {4, 8, 14, earlier}, {32, 40, 40, latest}, {7, 8, 40, latest}, {0, 40, 40, latest}} {
		r := do(w.Handler(), "POST", "/sign-subtree", l.subtreeRequest(t, c.start, c.end, c.size, c.note))
		body := readBody(t, r)
		if r.StatusCode != http.StatusOK {
			t.Errorf("%d to %d of %d: %d %s", c.start, c.end, c.size, r.StatusCode, body)
			continue
		}
		sigs, err := checkpoint.ParseSignatures([]byte(body))
		if err != nil || len(sigs) != 1 {
			t.Fatalf("the answer is %.100q, %v", body, err)
		}
		u, err := consistency.ParseSubtree(l.subtreeRequest(t, c.start, c.end, c.size, c.note))
		if err != nil {
			t.Fatal(err)
		}
		s := checkpoint.Subtree{Origin: l.origin, Start: u.Start, End: u.End, Hash: u.Hash}
		if err := pq.VerifySubtree(s, sigs[0]); err != nil {
			t.Errorf("%d to %d of %d: %v", c.start, c.end, c.size, err)
		}
		// It says nothing about a time, and what is not a whole tree is no checkpoint.
		at, err := pq.Verify(checkpoint.Checkpoint{Origin: l.origin, Size: s.End, Root: s.Hash}, sigs[0])
		if at != 0 || (err == nil) != (c.start == 0) {
			t.Errorf("%d to %d of %d: as a checkpoint it has the time %d, %v", c.start, c.end, c.size, at, err)
		}
	}
	if s := w.Logs()[0]; s.Size != 40 {
		t.Errorf("the state moved to %d", s.Size)
	}
}

// TestSignSubtreeRefuses holds the status codes and their order.
func TestSignSubtreeRefuses(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	lines := w.add(t, l.request(t, 0, 14))
	note := cosigned(l, 14, lines)
	good := l.subtreeRequest(t, 8, 13, 14, note)
	unknown := newLog(t, "log.test/unknown", "log.test/unknown")
	foreign := unknown.sign(t, unknown.at(14))
	edit := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	changed := bytes.Clone(note)
	// Within the ML-DSA-44 signature, and base64 as before.
	if at := &changed[len(changed)-200]; *at == 'A' {
		*at = 'B'
	} else {
		*at = 'A'
	}
	untimed := l.untimed(t, 14)
	for name, c := range map[string]struct {
		body   []byte
		status int
	}{
		"good":                       {good, 200},
		"nothing":                    {nil, 400},
		"add-checkpoint":             {l.request(t, 0, 14), 400},
		"leading zero":               {edit("subtree 8", "subtree 08"), 400},
		"no subtree":                 {edit("subtree 8", "subtree 9"), 400},
		"no entry":                   {edit("subtree 8 13", "subtree 8 8"), 400},
		"beyond the tree":            {edit("subtree 8 13", "subtree 8 15"), 400},
		"no hash":                    {edit("subtree 8 13\n", "subtree 8 13\n\n"), 400},
		"another subtree":            {edit("subtree 8 13", "subtree 8 12"), 422},
		"another tree":               {edit("\n14\n", "\n15\n"), 422},
		"unknown origin":             {unknown.subtreeRequest(t, 8, 13, 14, foreign), 404},
		"unknown origin, bad proof":  {unknown.subtreeRequest(t, 8, 13, 15, foreign), 422},
		"the log's signatures alone": {l.subtreeRequest(t, 8, 13, 14, l.sign(t, l.at(14))), 403},
		"own signature is bad":       {l.subtreeRequest(t, 8, 13, 14, changed), 403},
		"own signature has no time":  {l.subtreeRequest(t, 8, 13, 14, untimed), 403},
	} {
		r := do(w.Handler(), "POST", "/sign-subtree", c.body)
		if body := readBody(t, r); r.StatusCode != c.status {
			t.Errorf("%s: %d %.100s, want %d", name, r.StatusCode, body, c.status)
		}
	}
	if err := w.Err(); err != nil {
		t.Errorf("the witness stopped: %v", err)
	}
}

// untimed returns a checkpoint with the witness's signature over the subtree that is the
// whole tree.
func (l *testLog) untimed(t testing.TB, size uint64) []byte {
	t.Helper()
	c := l.at(size)
	s, err := signers(t)[1].CosignSubtree(checkpoint.Subtree{Origin: c.Origin, End: c.Size, Hash: c.Root})
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint.AppendNote(nil, c, []checkpoint.Signature{s})
}

// TestSignSubtreeNoticesLostState shows the witness a checkpoint that it cosigned and does
// not remember.
func TestSignSubtreeNoticesLostState(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 5))
	_, err := w.SignSubtree(context.Background(), l.subtreeRequest(t, 8, 13, 14, cosignedAt(t, l, l.at(14), 1700000000)))
	if !errors.Is(err, witness.ErrWentBack) || w.Err() == nil {
		t.Errorf("a larger tree that it cosigned: %v, stopped %v", err, w.Err())
	}
}

// TestNoSubtreesWithoutKey has a witness whose only key cannot sign subtrees.
func TestNoSubtreesWithoutKey(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.signers = signers(t)[:1]
	w.reopen(t)
	if r := do(w.Handler(), "POST", "/sign-subtree", nil); r.StatusCode != http.StatusNotFound {
		t.Errorf("the answer is %d, want 404", r.StatusCode)
	}
}

func FuzzSignSubtree(f *testing.F) {
	l := newLog(f, testOrigin, testOrigin)
	w := inMemory(f, l)
	note := cosigned(l, 14, w.add(f, l.request(f, 0, 14)))
	f.Add(l.subtreeRequest(f, 8, 13, 14, note))
	f.Add(l.subtreeRequest(f, 4, 8, 14, note))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := w.SignSubtree(context.Background(), body)
		if _, ok := errors.AsType[*witness.RefusalError](err); err != nil && !ok {
			t.Fatalf("neither signatures nor a refusal: %v", err)
		}
		u, parseErr := consistency.ParseSubtree(body)
		if err == nil && (parseErr != nil || !bytes.Equal(u.Append(nil), body)) {
			t.Errorf("a second spelling of a request was signed: %v", parseErr)
		}
	})
}
