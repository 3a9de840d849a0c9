package checkpoint_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

const statementText = "keytrail.dev/some-statement/v1\norigin log.example/keys\n"

func TestSignText(t *testing.T) {
	ed, cosigner, pq := signers(t)
	for _, k := range []*checkpoint.SignerKey{ed, pq} {
		v := k.VerifierKey()
		s, err := k.SignText([]byte(statementText))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.VerifyText([]byte(statementText), s); err != nil || !v.MadeText(s) {
			t.Errorf("%v: %v, made %v", v.Type(), err, v.MadeText(s))
		}
		if err := v.VerifyText([]byte(statementText+"more\n"), s); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%v: another text: %v", v.Type(), err)
		}
		for i := range s.Sig {
			s.Sig[i] ^= 4
			if err := v.VerifyText([]byte(statementText), s); !errors.Is(err, checkpoint.ErrSignature) {
				t.Fatalf("%v: byte %d changed: %v", v.Type(), i, err)
			}
			s.Sig[i] ^= 4
		}
		s.Sig = s.Sig[:len(s.Sig)-1]
		if err := v.VerifyText([]byte(statementText), s); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%v: cut signature: %v", v.Type(), err)
		}
	}
	if _, err := cosigner.SignText([]byte(statementText)); err == nil {
		t.Error("a witness's key signs a text")
	}
}

// TestSignTextIsASignedNote has x/mod read a text that an Ed25519 key signed.
func TestSignTextIsASignedNote(t *testing.T) {
	ed, _, _ := signers(t)
	s, err := ed.SignText([]byte(statementText))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(ed.VerifierKey().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(s.Append([]byte(statementText+"\n")), note.VerifierList(v))
	if err != nil || n.Text != statementText {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestAttackTextForCheckpoint tries to have a text signed, or its signature taken, for what
// is not one.
func TestAttackTextForCheckpoint(t *testing.T) {
	ed, _, pq := signers(t)
	c := checkpoint.Checkpoint{Origin: origin, Size: 7, Root: root}
	for _, k := range []*checkpoint.SignerKey{ed, pq} {
		v := k.VerifierKey()
		for what, text := range map[string]string{
			"a checkpoint":                string(c.Text()),
			"a checkpoint with more":      string(c.Text()) + "statement\n",
			"what a witness signs":        "cosignature/v1\ntime 1\n" + string(c.Text()),
			"a text without last newline": "statement",
			"a text with a control":       "state\tment\n",
		} {
			if _, err := k.SignText([]byte(text)); err == nil {
				t.Errorf("%v signs %s", v.Type(), what)
			}
		}
		// A checkpoint's signature is none of a text, and the other way round.
		signed, err := k.Sign(c, uint64(time.Unix(1, 0).Unix()))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.VerifyText(c.Text(), signed); err == nil {
			t.Errorf("%v: a checkpoint verifies as a text", v.Type())
		}
		s, err := k.SignText([]byte(statementText))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(c, s); err == nil {
			t.Errorf("%v: a text's signature verifies over a checkpoint", v.Type())
		}
		if v.Type() == checkpoint.TypeMLDSA44 && (v.Made(s) || v.MadeText(signed)) {
			t.Error("ML-DSA-44: texts and checkpoints are signed under one key id")
		}
	}
}
