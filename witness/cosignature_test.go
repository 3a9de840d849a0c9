package witness_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

const cosignatureDir = "../testdata/vectors/cosignature"

// cosignature is a golden vector: one signature line over a checkpoint or a subtree. All
// lines are reproducible: those of ML-DSA-44 were made with its deterministic variant, which
// verifies like any other.
type cosignature struct {
	Description string `json:"description"`
	// Key is the cosigner's vkey, Seed its secret (FIPS 204 or RFC 8032), for test only.
	Key  string `json:"vkey"`
	Seed string `json:"seed_hex"`
	// Note is a checkpoint with the line. Empty when the line is over a subtree.
	Note    string         `json:"note,omitempty"`
	Subtree *vectorSubtree `json:"subtree,omitempty"`
	Line    string         `json:"line"`
	// Verifies says whether the key made the line over that, Time what the line states, in
	// seconds since 1970. With time 0 it verifies, but says nothing about larger trees and
	// is not what a witness may answer to add-checkpoint.
	Verifies bool   `json:"verifies"`
	Time     uint64 `json:"time"`
}

type vectorSubtree struct {
	Origin string `json:"origin"`
	Start  uint64 `json:"start"`
	End    uint64 `json:"end"`
	Hash   string `json:"hash_hex"`
}

// TestCosignatureVectors makes every vector anew by the letter of tlog-cosignature, without
// the package checkpoint, and verifies it with that.
func TestCosignatureVectors(t *testing.T) {
	cases := cosignatureCases(t)
	if *update {
		writeCases(t, cosignatureDir, cases)
	}
	files, err := filepath.Glob(filepath.Join(cosignatureDir, "*.json"))
	if err != nil || len(files) != len(cases) {
		t.Fatalf("%d vectors, want %d, %v; see -update", len(files), len(cases), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v cosignature
			dec := json.NewDecoder(bytes.NewReader(data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(cases[v.Description], v); diff != "" {
				t.Errorf("the vector is not what its case makes (-case +file):\n%s", diff)
			}
			at, err := v.verify()
			if (err == nil) != v.Verifies || at != v.Time {
				t.Errorf("verifies with time %d, %v; want %d, %v", at, err, v.Time, v.Verifies)
			}
			if v.Verifies && v.Time != 0 {
				v.signAgain(t)
			}
		})
	}
}

// signAgain has the package checkpoint sign what a good vector is about: Ed25519 gives the
// same line.
func (v *cosignature) signAgain(t *testing.T) {
	t.Helper()
	seed, err := hex.DecodeString(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := checkpoint.ParseVerifierKey(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := checkpoint.NewSignerKey(vkey.Name(), vkey.Type(), seed)
	if err != nil || !k.VerifierKey().Equal(vkey) {
		t.Fatalf("the seed gives another key, %v", err)
	}
	c, _, err := checkpoint.ParseForeignNote([]byte(v.Note))
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.Cosign(c, v.Time)
	if err != nil {
		t.Fatal(err)
	}
	if line := string(s.Append(nil)); vkey.Type() == checkpoint.TypeEd25519Cosignature && line != v.Line {
		t.Errorf("it is signed as\n%s", line)
	}
	if at, err := vkey.Verify(c, s); err != nil || at != v.Time {
		t.Errorf("what was signed anew verifies with time %d, %v", at, err)
	}
}

// verify judges a vector as a client does.
func (v *cosignature) verify() (at uint64, err error) {
	k, err := checkpoint.ParseVerifierKey(v.Key)
	if err != nil {
		return 0, err
	}
	sigs, err := checkpoint.ParseSignatures([]byte(v.Line))
	if err != nil {
		return 0, err
	}
	if v.Subtree != nil {
		hash, err := hex.DecodeString(v.Subtree.Hash)
		if err != nil || len(hash) != 32 {
			return 0, errors.New("no hash")
		}
		s := checkpoint.Subtree{Origin: v.Subtree.Origin, Start: v.Subtree.Start, End: v.Subtree.End, Hash: [32]byte(hash)}
		return 0, k.VerifySubtree(s, sigs[0])
	}
	c, in, err := checkpoint.ParseForeignNote([]byte(v.Note))
	if err != nil {
		return 0, err
	}
	if len(in) != 1 || string(in[0].Append(nil)) != v.Line {
		return 0, errors.New("the note holds another line")
	}
	if at, err = k.Verify(c, in[0]); err != nil {
		return 0, err
	}
	return at, nil
}

// vectorKey is a key with which cosignatures are made by the letter of tlog-cosignature.
type vectorKey struct {
	name string
	typ  byte
	seed [32]byte
}

func newVectorKey(name string, typ byte) vectorKey {
	return vectorKey{name, typ, sha256.Sum256(fmt.Appendf(nil, "cosignature vector key %s %d", name, typ))}
}

func (k vectorKey) public(t *testing.T) []byte {
	t.Helper()
	if k.typ != 0x06 {
		return ed25519.NewKeyFromSeed(k.seed[:]).Public().(ed25519.PublicKey)
	}
	p, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), k.seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return p.PublicKey().Bytes()
}

func (k vectorKey) id(t *testing.T) []byte {
	t.Helper()
	h := sha256.Sum256(append(append([]byte(k.name+"\n"), k.typ), k.public(t)...))
	return h[:4]
}

func (k vectorKey) vkey(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%s+%x+%s", k.name, k.id(t), base64.StdEncoding.EncodeToString(append([]byte{k.typ}, k.public(t)...)))
}

// raw signs a message.
func (k vectorKey) raw(t *testing.T, msg []byte) []byte {
	t.Helper()
	if k.typ != 0x06 {
		return ed25519.Sign(ed25519.NewKeyFromSeed(k.seed[:]), msg)
	}
	p, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), k.seed[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := p.SignDeterministic(msg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// line writes the signature line of a time and a signature.
func (k vectorKey) line(t *testing.T, at uint64, sig []byte) string {
	t.Helper()
	b := append(k.id(t), binary.BigEndian.AppendUint64(nil, at)...)
	return "\u2014 " + k.name + " " + base64.StdEncoding.EncodeToString(append(b, sig...)) + "\n"
}

// text is the text of a checkpoint.
func text(origin string, size uint64, root [32]byte) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

// edMessage is the message of an Ed25519 cosignature.
func edMessage(at uint64, text string) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text)
}

// pqMessage is the cosigned_message of an ML-DSA-44 cosignature.
func pqMessage(name string, at uint64, origin string, start, end uint64, hash [32]byte) []byte {
	b := []byte("subtree/v1\n\x00")
	b = append(b, byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, at)
	b = append(b, byte(len(origin)))
	b = append(b, origin...)
	b = binary.BigEndian.AppendUint64(b, start)
	b = binary.BigEndian.AppendUint64(b, end)
	return append(b, hash[:]...)
}
