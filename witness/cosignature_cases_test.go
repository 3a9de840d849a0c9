package witness_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// What the cases are about, unless they say otherwise.
const (
	vectorOrigin = "log.example.com/2026"
	vectorName   = "witness.example.com/w1"
	vectorSize   = 20852163
	vectorTime   = 1700000000
	// maxTime is the latest time (tlog-cosignature).
	maxTime = 1<<63 - 1
)

var vectorRoot = sha256.Sum256([]byte("the root of the vectors"))

// cosignatureCases makes all vectors, by description.
func cosignatureCases(t *testing.T) map[string]cosignature {
	b := &cases{t: t, all: make(map[string]cosignature)}
	b.ed25519()
	b.mldsa44()
	b.subtrees()
	return b.all
}

type cases struct {
	t   *testing.T
	all map[string]cosignature
}

// note adds a vector of a line over a text.
func (b *cases) note(description string, k vectorKey, text, line string, verifies bool, at uint64) {
	b.t.Helper()
	b.add(description, k, cosignature{Note: text + "\n" + line, Line: line, Verifies: verifies, Time: at})
}

func (b *cases) add(description string, k vectorKey, v cosignature) {
	b.t.Helper()
	if _, twice := b.all[description]; twice {
		b.t.Fatalf("two vectors are %q", description)
	}
	v.Description, v.Key, v.Seed = description, k.vkey(b.t), hex.EncodeToString(k.seed[:])
	b.all[description] = v
}

func (b *cases) ed25519() {
	t, k, plain := b.t, newVectorKey(vectorName, 0x04), text(vectorOrigin, vectorSize, vectorRoot)
	good := func(at uint64, text string) string { return k.line(t, at, k.raw(t, edMessage(at, text))) }
	add := func(description, text, line string, verifies bool, at uint64) {
		b.note("Ed25519, "+description, k, text, line, verifies, at)
	}
	foreign := text("go.sum database tree", vectorSize, vectorRoot)
	empty := text(vectorOrigin, 0, checkpoint.EmptyRoot())
	extended := plain + "an extension line\n"
	raw := k.raw(t, edMessage(vectorTime, plain))
	add("good", plain, good(vectorTime, plain), true, vectorTime)
	add("empty tree", empty, good(vectorTime, empty), true, vectorTime)
	add("origin that is no key name", foreign, good(vectorTime, foreign), true, vectorTime)
	add("latest time", plain, good(maxTime, plain), true, maxTime)
	add("time beyond the latest", plain, good(maxTime+1, plain), false, 0)
	add("no time", plain, good(0, plain), true, 0)
	add("another time than was signed", plain, k.line(t, vectorTime+1, raw), false, 0)
	add("another origin", text(vectorOrigin+"x", vectorSize, vectorRoot), k.line(t, vectorTime, raw), false, 0)
	add("another size", text(vectorOrigin, vectorSize+1, vectorRoot), k.line(t, vectorTime, raw), false, 0)
	add("another root", text(vectorOrigin, vectorSize, checkpoint.EmptyRoot()), k.line(t, vectorTime, raw), false, 0)
	add("truncated by a byte", plain, k.line(t, vectorTime, raw[:63]), false, 0)
	add("a byte too long", plain, k.line(t, vectorTime, append(raw[:64:64], 0)), false, 0)
	add("time alone", plain, k.line(t, vectorTime, nil), false, 0)
	add("one bit changed", plain, k.line(t, vectorTime, append(raw[:63:63], raw[63]^1)), false, 0)
	add("the text signed without a time", plain, k.line(t, vectorTime, k.raw(t, []byte(plain))), false, 0)
	add("signed without the extension line", extended, k.line(t, vectorTime, raw), false, 0)
	add("signed with the extension line", extended, good(vectorTime, extended), false, 0)
	other := newVectorKey("witness.example.com/w2", 0x04)
	add("of another key", plain, other.line(t, vectorTime, other.raw(t, edMessage(vectorTime, plain))), false, 0)
	add("of another key under this name and id", plain, k.line(t, vectorTime, other.raw(t, edMessage(vectorTime, plain))), false, 0)
}

func (b *cases) mldsa44() {
	t, k, plain := b.t, newVectorKey(vectorName, 0x06), text(vectorOrigin, vectorSize, vectorRoot)
	message := func(at uint64, origin string, start, end uint64, hash [32]byte) []byte {
		return k.raw(t, pqMessage(k.name, at, origin, start, end, hash))
	}
	good := func(at uint64) string {
		return k.line(t, at, message(at, vectorOrigin, 0, vectorSize, vectorRoot))
	}
	add := func(description, text, line string, verifies bool, at uint64) {
		b.note("ML-DSA-44, "+description, k, text, line, verifies, at)
	}
	raw := message(vectorTime, vectorOrigin, 0, vectorSize, vectorRoot)
	const foreign = "go.sum database tree"
	add("good", plain, good(vectorTime), true, vectorTime)
	add("empty tree", text(vectorOrigin, 0, checkpoint.EmptyRoot()),
		k.line(t, vectorTime, message(vectorTime, vectorOrigin, 0, 0, checkpoint.EmptyRoot())), true, vectorTime)
	add("origin that is no key name", text(foreign, vectorSize, vectorRoot),
		k.line(t, vectorTime, message(vectorTime, foreign, 0, vectorSize, vectorRoot)), true, vectorTime)
	add("latest time", plain, good(maxTime), true, maxTime)
	add("time beyond the latest", plain, good(maxTime+1), false, 0)
	add("no time", plain, good(0), true, 0)
	add("another time than was signed", plain, k.line(t, vectorTime+1, raw), false, 0)
	add("the time was signed, none is stated", plain, k.line(t, 0, raw), false, 0)
	add("another origin", text(vectorOrigin+"x", vectorSize, vectorRoot), k.line(t, vectorTime, raw), false, 0)
	add("another size", text(vectorOrigin, vectorSize+1, vectorRoot), k.line(t, vectorTime, raw), false, 0)
	add("another root", text(vectorOrigin, vectorSize, checkpoint.EmptyRoot()), k.line(t, vectorTime, raw), false, 0)
	add("truncated by a byte", plain, k.line(t, vectorTime, raw[:2419]), false, 0)
	add("a byte too long", plain, k.line(t, vectorTime, append(raw[:2420:2420], 0)), false, 0)
	add("time alone", plain, k.line(t, vectorTime, nil), false, 0)
	add("one bit changed", plain, k.line(t, vectorTime, append([]byte{raw[0] ^ 1}, raw[1:]...)), false, 0)
	add("subtree that does not begin with the first entry", plain,
		k.line(t, 0, message(0, vectorOrigin, 4, vectorSize, vectorRoot)), false, 0)
	add("another name of the cosigner was signed", plain,
		k.line(t, vectorTime, k.raw(t, pqMessage("witness.example.com/w2", vectorTime, vectorOrigin, 0, vectorSize, vectorRoot))), false, 0)
	add("the message of Ed25519 was signed", plain, k.line(t, vectorTime, k.raw(t, edMessage(vectorTime, plain))), false, 0)
	// The signature is good over the first three lines, which is why a reader must refuse a
	// fourth before it looks at signatures.
	add("extension line was added to the note", plain+"an extension line\n", k.line(t, vectorTime, raw), false, 0)
}

func (b *cases) subtrees() {
	t, k := b.t, newVectorKey(vectorName, 0x06)
	add := func(description string, start, end uint64, line string, verifies bool) {
		s := &vectorSubtree{vectorOrigin, start, end, hex.EncodeToString(vectorRoot[:])}
		b.add("subtree, "+description, k, cosignature{Subtree: s, Line: line, Verifies: verifies})
	}
	sign := func(at, start, end uint64) []byte {
		return k.raw(t, pqMessage(k.name, at, vectorOrigin, start, end, vectorRoot))
	}
	add("good", 8, 13, k.line(t, 0, sign(0, 8, 13)), true)
	add("one entry", 7, 8, k.line(t, 0, sign(0, 7, 8)), true)
	add("whole tree", 0, 13, k.line(t, 0, sign(0, 0, 13)), true)
	add("with a time", 8, 13, k.line(t, vectorTime, sign(vectorTime, 8, 13)), false)
	add("the time is stated, not signed", 8, 13, k.line(t, vectorTime, sign(0, 8, 13)), false)
	add("another start", 12, 13, k.line(t, 0, sign(0, 8, 13)), false)
	add("another end", 8, 14, k.line(t, 0, sign(0, 8, 13)), false)
	add("start that no subtree has", 9, 13, k.line(t, 0, sign(0, 9, 13)), false)
	add("no entry", 8, 8, k.line(t, 0, sign(0, 8, 8)), false)
}
