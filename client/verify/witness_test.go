package verify_test

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

// forkAtWitness sends a witness two trees of one size and returns the evidence it keeps.
func forkAtWitness(t *testing.T, w *checkpoint.SignerKey, origin string, key checkpoint.VerifierKey, first, second []byte, size uint64) []byte {
	t.Helper()
	store, counter := memstore.New(), filepath.Join(t.TempDir(), "counter")
	if err := witness.Create(t.Context(), store, counter); err != nil {
		t.Fatal(err)
	}
	c := witness.Config{Store: store, Evidence: filepath.Join(t.TempDir(), "evidence"), Signers: []*checkpoint.SignerKey{w}}
	var err error
	if c.Counter, err = witness.OpenCounter(counter); err != nil {
		t.Fatal(err)
	}
	x, err := witness.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.Enroll(t.Context(), witness.Log{Origin: origin, Keys: []checkpoint.VerifierKey{key}}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.AddCheckpoint(t.Context(), (&consistency.Bundle{Checkpoint: first}).Append(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := x.AddCheckpoint(t.Context(), (&consistency.Bundle{OldSize: size, Checkpoint: second}).Append(nil)); err == nil {
		t.Fatal("the witness cosigned a fork")
	}
	names, err := witness.EvidenceFiles(c.Evidence)
	if err != nil || len(names) != 1 {
		t.Fatalf("evidence: %v, %v", names, err)
	}
	data, err := os.ReadFile(filepath.Join(c.Evidence, names[0]))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestEvidenceOfAWitness verifies what package witness writes, of a log of ours and of one
// whose origin is no key name.
func TestEvidenceOfAWitness(t *testing.T) {
	w := key(t, "witness.example", checkpoint.TypeMLDSA44, 0x61)
	l, fork := twins(t, 7)
	data := forkAtWitness(t, w, origin, l.ed.VerifierKey(), l.sign(l.checkpoint(7), l.ed), fork.sign(fork.checkpoint(7), l.ed), 7)
	p := l.policy()
	p.Witnesses = []policy.Witness{{Name: "w", Key: w.VerifierKey()}}
	c, err := verify.Evidence(data, p)
	if err != nil || !c.Log || c.Witnesses != nil {
		t.Errorf("%+v, %v", c, err)
	}

	const foreign = "go.sum database tree"
	k := key(t, "sum.example", checkpoint.TypeEd25519, 0x41)
	sign := func(n byte) []byte {
		c := checkpoint.Checkpoint{Origin: foreign, Size: 9, Root: [32]byte{n}}
		sig := ed25519.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x41}, 32)), c.Text())
		return checkpoint.AppendNote(nil, c, []checkpoint.Signature{{Name: k.Name(), KeyID: k.VerifierKey().ID(), Sig: sig}})
	}
	data = forkAtWitness(t, w, foreign, k.VerifierKey(), sign(1), sign(2), 9)
	c, err = verify.Evidence(data, nil, verify.LogKey{Origin: foreign, Key: k.VerifierKey()})
	if err != nil || !c.Log || c.Origin != foreign {
		t.Errorf("%+v, %v", c, err)
	}
}
