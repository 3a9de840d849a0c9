package checkpoint_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestSumDB exchanges Ed25519 keys and notes with golang.org/x/mod/sumdb/note, both ways.
func TestSumDB(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := checkpoint.ParseSignerKey(skey)
	if err != nil {
		t.Fatal(err)
	}
	if ours.Encode() != skey || ours.VerifierKey().String() != vkey {
		t.Errorf("keys are written as %v and %v, want %v", ours, ours.VerifierKey(), vkey)
	}
	signer, err := note.NewSigner(ours.Encode())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(ours.VerifierKey().String())
	if err != nil {
		t.Fatal(err)
	}
	want := checkpoint.Checkpoint{Origin: origin, Size: 1<<64 - 1, Root: root}
	_, _, pq := signers(t)
	signed, err := checkpoint.SignNote(want, time.Unix(1, 0), pq, ours)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 1 {
		t.Fatalf("they read ours as %+v, %v", n, err)
	}
	c, rest, _, err := formatslog.ParseCheckpoint(signed, origin, verifier)
	if err != nil || len(rest) > 0 || c.Origin != origin || c.Size != want.Size || !bytes.Equal(c.Hash, root[:]) {
		t.Errorf("formats reads ours as %+v, %q, %v", c, rest, err)
	}

	theirs, err := note.Sign(&note.Note{Text: string(formatslog.Checkpoint{Origin: origin, Size: want.Size, Hash: root[:]}.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	got, sigs, err := checkpoint.ParseNote(theirs)
	if err != nil || got != want || len(sigs) != 1 {
		t.Fatalf("we read theirs as %+v, %d signatures, %v", got, len(sigs), err)
	}
	if _, err := ours.VerifierKey().Verify(got, sigs[0]); err != nil {
		t.Error(err)
	}
}

// FuzzParseNote holds that a note has one spelling, and that what we accept the reader of
// sumdb/note and the parser of formats/log understand in the same way.
func FuzzParseNote(f *testing.F) {
	ed, cosigner, pq := signers(f)
	for _, c := range []checkpoint.Checkpoint{
		{Origin: origin, Size: 7, Root: root},
		{Origin: origin, Root: checkpoint.EmptyRoot()},
	} {
		signed, err := checkpoint.SignNote(c, time.Unix(1700000000, 0), ed, cosigner, pq)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(signed)
		f.Add(bytes.Replace(signed, []byte("\n\n"), []byte("\nevil\n\n"), 1))
	}
	f.Add([]byte("o\n07\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP9=\n\n— o AAAAAAA=\n"))
	verifier, err := note.NewVerifier(ed.VerifierKey().String())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, sigs, err := checkpoint.ParseNote(data)
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if again := checkpoint.AppendNote(nil, c, sigs); !bytes.Equal(again, data) {
			t.Errorf("%q is read and written as %q", data, again)
		}
		if alone, err := checkpoint.ParseSignatures(data[len(c.Text())+1:]); err != nil || len(alone) != len(sigs) {
			t.Errorf("signatures alone: %d, %v", len(alone), err)
		}
		var theirs formatslog.Checkpoint
		if rest, err := theirs.Unmarshal(c.Text()); err != nil || len(rest) > 0 || theirs.Origin != c.Origin || theirs.Size != c.Size {
			t.Errorf("formats reads %q as %+v, %q, %v", data, theirs, rest, err)
		}
		good := false
		for _, s := range sigs {
			if ed.VerifierKey().Made(s) {
				if _, err := ed.VerifierKey().Verify(c, s); err != nil {
					return // sumdb/note refuses the note
				}
				good = true
			}
		}
		if _, err := note.Open(data, note.VerifierList(verifier)); (err == nil) != good {
			t.Errorf("signature good: %v, but sumdb/note says %v of %q", good, err, data)
		}
	})
}

// FuzzParseKeys holds that keys have one spelling.
func FuzzParseKeys(f *testing.F) {
	ed, cosigner, pq := signers(f)
	for _, k := range []*checkpoint.SignerKey{ed, cosigner, pq} {
		f.Add(k.Encode())
		f.Add(k.VerifierKey().String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := checkpoint.ParseVerifierKey(s); err == nil && k.String() != s {
			t.Errorf("%q is written as %q", s, k)
		}
		if k, err := checkpoint.ParseSignerKey(s); err == nil && k.Encode() != s {
			t.Errorf("%q is written as %q", s, k.Encode())
		}
	})
}
