package vectors_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/mldsa"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// checkpointVector is one signed checkpoint. Error is "extension" or "malformed" when it
// is not valid.
type checkpointVector struct {
	Description string      `json:"description"`
	Note        string      `json:"note"`
	Valid       bool        `json:"valid"`
	Error       string      `json:"error,omitempty"`
	Checkpoint  *stated     `json:"checkpoint,omitempty"`
	Keys        []keyVector `json:"keys,omitempty"`
}

// stated is what a checkpoint says.
type stated struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size,string"`
	Root   string `json:"root_hex"`
}

// keyVector is a key and the signature line of the note that names it: its number from
// 0, whether it verifies, and the time that it states.
type keyVector struct {
	Key       string `json:"vkey"`
	Signer    string `json:"skey"`
	Line      int    `json:"line"`
	Verifies  bool   `json:"verifies"`
	Timestamp uint64 `json:"timestamp,string"`
}

// signer makes signatures with nothing of package checkpoint, always the same ones.
type signer struct {
	name string
	typ  byte
	seed []byte
}

func newSigner(name string, typ checkpoint.KeyType, n byte) signer {
	return signer{name, byte(typ), bytes.Repeat([]byte{n}, 32)}
}

func (s signer) mldsa() *mldsa.PrivateKey {
	k, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), s.seed)
	if err != nil {
		panic(err)
	}
	return k
}

func (s signer) public() []byte {
	if s.typ == 6 {
		return s.mldsa().PublicKey().Bytes()
	}
	return ed25519.NewKeyFromSeed(s.seed).Public().(ed25519.PublicKey)
}

func (s signer) verifierKey() checkpoint.VerifierKey {
	k, err := checkpoint.NewVerifierKey(s.name, checkpoint.KeyType(s.typ), s.public())
	if err != nil {
		panic(err)
	}
	return k
}

func (s signer) vkey() string { return s.verifierKey().String() }

func (s signer) skey() string {
	key := base64.StdEncoding.EncodeToString(append([]byte{s.typ}, s.seed...))
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", s.name, s.verifierKey().ID(), key)
}

// line returns the signature line over a note text.
func (s signer) line(text string, timestamp uint64) string {
	raw := binary.BigEndian.AppendUint32(nil, s.verifierKey().ID())
	switch s.typ {
	case 1:
		raw = append(raw, ed25519.Sign(ed25519.NewKeyFromSeed(s.seed), []byte(text))...)
	case 4:
		raw = binary.BigEndian.AppendUint64(raw, timestamp)
		msg := fmt.Sprintf("cosignature/v1\ntime %d\n%s", timestamp, text)
		raw = append(raw, ed25519.Sign(ed25519.NewKeyFromSeed(s.seed), []byte(msg))...)
	case 6:
		lines := strings.Split(text, "\n")
		var size uint64
		if _, err := fmt.Sscan(lines[1], &size); err != nil {
			panic(err)
		}
		root, err := base64.StdEncoding.DecodeString(lines[2])
		if err != nil {
			panic(err)
		}
		msg := fmt.Sprintf("subtree/v1\n\x00%c%s%s%c%s%s%s%s", len(s.name), s.name, be(timestamp),
			len(lines[0]), lines[0], be(0), be(size), root)
		sig, err := s.mldsa().SignDeterministic([]byte(msg), nil)
		if err != nil {
			panic(err)
		}
		raw = append(append(raw, be(timestamp)...), sig...)
	}
	return fmt.Sprintf("— %s %s\n", s.name, base64.StdEncoding.EncodeToString(raw))
}

func be(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

const (
	logName = "log.example/keys"
	rootHex = "010203000000000000000000000000000000000000000000000000000000ffff"
	text    = logName + "\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA//8=\n"
	when    = 1700000000
)

func (s signer) keyVector(line int, timestamp uint64) keyVector {
	return keyVector{Key: s.vkey(), Signer: s.skey(), Line: line, Verifies: true, Timestamp: timestamp}
}

func checkpoints() map[string]checkpointVector {
	ed := newSigner(logName, checkpoint.TypeEd25519, 1)
	pq := newSigner(logName, checkpoint.TypeMLDSA44, 2)
	w1 := newSigner("witness.example/w1", checkpoint.TypeEd25519Cosignature, 3)
	w2 := newSigner("witness.example/w2", checkpoint.TypeMLDSA44, 4)
	valid := func(description, note string, keys ...keyVector) checkpointVector {
		return checkpointVector{Description: description, Note: note, Valid: true, Checkpoint: &stated{logName, 7, rootHex}, Keys: keys}
	}
	malformed := func(description, note string) checkpointVector {
		return checkpointVector{Description: description, Note: note, Error: "malformed"}
	}
	extension := func(description, note string) checkpointVector {
		return checkpointVector{Description: description, Note: note, Error: "extension"}
	}
	edLine, pqLine := ed.line(text, 0), pq.line(text, when)
	forged := ed.keyVector(0, 0)
	forged.Verifies = false
	empty := strings.NewReplacer("7\n", "0\n", "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA//8=", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").Replace(text)
	emptyTree := valid("The empty tree.", empty+"\n"+ed.line(empty, 0), ed.keyVector(0, 0))
	emptyTree.Checkpoint = &stated{logName, 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
	change := func(old, new string) string {
		t := strings.Replace(text, old, new, 1)
		return t + "\n" + ed.line(t, 0)
	}
	return map[string]checkpointVector{
		"both-keys": valid("Signed by a log with Ed25519 and ML-DSA-44.", text+"\n"+edLine+pqLine, ed.keyVector(0, 0), pq.keyVector(1, when)),
		"cosigned": valid("Signed by the log and two witnesses.", text+"\n"+edLine+w1.line(text, when+1)+w2.line(text, when+2),
			ed.keyVector(0, 0), w1.keyVector(1, when+1), w2.keyVector(2, when+2)),
		"no-time":            valid("An ML-DSA-44 signature that states no time.", text+"\n"+pq.line(text, 0), pq.keyVector(0, 0)),
		"unknown-signatures": valid("Lines of keys and kinds that nobody knows stay readable.", text+"\n— a AAAAAAA=\n— b/c /////v8=\n"+edLine, ed.keyVector(2, 0)),
		"empty-tree":         emptyTree,
		"forged":             valid("A signature over another size.", text+"\n"+ed.line(strings.Replace(text, "\n7\n", "\n8\n", 1), 0), forged),
		"extension":          extension("An extension line, signed with Ed25519.", change("8=\n", "8=\nextension\n")),
		"extension-injected": extension("An extension line put into a note with an ML-DSA-44 signature, which does not cover it.", text+"evil extension\n\n"+pqLine),
		"extension-empty":    extension("An empty extension line.", text+"\n\n"+edLine),
		"no-signature":       malformed("No signature line.", text+"\n"),
		"no-empty-line":      malformed("No empty line before the signatures.", text+edLine),
		"no-last-newline":    malformed("Cut off before the last newline.", text+"\n"+strings.TrimSuffix(edLine, "\n")),
		"carriage-returns":   malformed("Lines that end in CR LF.", strings.ReplaceAll(text+"\n"+edLine, "\n", "\r\n")),
		"hyphen":             malformed("A hyphen instead of an em dash.", text+"\n"+strings.Replace(edLine, "—", "-", 1)),
		"short-signature":    malformed("A key id without a signature.", text+"\n— a AAAAAA==\n"),
		"loose-base64":       malformed("Base64 with unused bits set.", change("//8=", "//9=")),
		"short-root":         malformed("A root hash of 31 bytes.", strings.Replace(text, "//8=", "/w==", 1)+"\n"+edLine),
		"leading-zero":       malformed("A size with a leading zero.", change("\n7\n", "\n07\n")),
		"size-2-64":          malformed("A size of more than 64 bits.", strings.Replace(text, "\n7\n", "\n18446744073709551616\n", 1)+"\n"+edLine),
		"size-zero-root":     malformed("Size 0 with the root of another tree.", change("\n7\n", "\n0\n")),
		"origin-space":       malformed("An origin with a space cannot be the name of a key.", change("log.", "log ")),
		"origin-plus":        malformed("An origin with a plus sign cannot be the name of a key.", change("log.", "log+")),
		"origin-empty":       malformed("No origin.", change(logName, "")),
		"origin-control":     malformed("A tab in the origin.", change("log.", "log\t")),
	}
}

func TestCheckpointVectors(t *testing.T) {
	run(t, "checkpoint", checkpoints(), func(t *testing.T, v checkpointVector) {
		c, sigs, err := checkpoint.ParseNote([]byte(v.Note))
		if (err == nil) != v.Valid || errors.Is(err, checkpoint.ErrExtension) != (v.Error == "extension") {
			t.Fatalf("ParseNote: %+v, %v", c, err)
		}
		if !v.Valid {
			return
		}
		if got := (stated{c.Origin, c.Size, hex.EncodeToString(c.Root[:])}); got != *v.Checkpoint {
			t.Errorf("ParseNote: %+v", got)
		}
		if note := checkpoint.AppendNote(nil, c, sigs); string(note) != v.Note {
			t.Errorf("AppendNote: %q", note)
		}
		for _, kv := range v.Keys {
			checkKey(t, c, sigs, kv)
		}
	})
}

func checkKey(t *testing.T, c checkpoint.Checkpoint, sigs []checkpoint.Signature, kv keyVector) {
	t.Helper()
	k, err := checkpoint.ParseVerifierKey(kv.Key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := checkpoint.ParseSignerKey(kv.Signer)
	if err != nil {
		t.Fatal(err)
	}
	if !s.VerifierKey().Equal(k) || s.Encode() != kv.Signer || k.String() != kv.Key {
		t.Errorf("keys are written as %v and %v", k, s)
	}
	ts, err := k.Verify(c, sigs[kv.Line])
	if (err == nil) != kv.Verifies || (err == nil && ts != kv.Timestamp) {
		t.Errorf("Verify: %d, %v", ts, err)
	}
	if !kv.Verifies || k.Type() == checkpoint.TypeMLDSA44 {
		return // ML-DSA-44 signatures differ each time.
	}
	if again, err := s.Sign(c, kv.Timestamp); err != nil || !bytes.Equal(again.Append(nil), sigs[kv.Line].Append(nil)) {
		t.Errorf("Sign: %+v, %v", again, err)
	}
}
