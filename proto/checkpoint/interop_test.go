package checkpoint_test

import (
	"bytes"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestFormats exchanges timestamped keys and notes with transparency-dev/formats, both
// ways: cosignatures of either kind, and the ML-DSA-44 signature of a log.
func TestFormats(t *testing.T) {
	skey, vkey, err := formats.GenerateMLDSAKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	pq, err := checkpoint.ParseSignerKey(skey)
	if err != nil {
		t.Fatal(err)
	}
	if pq.Encode() != skey || pq.VerifierKey().String() != vkey {
		t.Errorf("keys are written as %v and %v, want %v", pq, pq.VerifierKey(), vkey)
	}
	_, cosigner, _ := signers(t)
	want := checkpoint.Checkpoint{Origin: origin, Size: 1 << 63, Root: root}
	text := string(formatslog.Checkpoint{Origin: origin, Size: want.Size, Hash: root[:]}.Marshal())
	for _, k := range []*checkpoint.SignerKey{pq, cosigner} {
		v := k.VerifierKey()
		verifiers := map[string]note.Verifier{}
		if verifiers["cosignature"], err = formats.NewVerifierForCosignatureV1(v.String()); err != nil {
			t.Fatal(err)
		}
		if v.Type() == checkpoint.TypeMLDSA44 {
			if verifiers["subtree"], err = formats.NewMLDSAVerifier(v.String()); err != nil {
				t.Fatal(err)
			}
		}
		at := time.Unix(1700000000, 0)
		signed, err := checkpoint.SignNote(want, at, k)
		if err != nil {
			t.Fatal(err)
		}
		for name, verifier := range verifiers {
			n, err := note.Open(signed, note.VerifierList(verifier))
			if err != nil || len(n.Sigs) != 1 {
				t.Errorf("%v: %s verifier reads ours as %+v, %v", v.Type(), name, n, err)
				continue
			}
			if ts, err := formats.CoSigV1Timestamp(n.Sigs[0]); err != nil || !ts.Equal(at) {
				t.Errorf("%v: they read the time as %v, %v", v.Type(), ts, err)
			}
		}

		signer, err := formats.NewSignerForCosignatureV1(k.Encode())
		if err != nil {
			t.Fatal(err)
		}
		before := uint64(time.Now().Unix())
		theirs, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		got, sigs, err := checkpoint.ParseNote(theirs)
		if err != nil || got != want || len(sigs) != 1 || !v.Made(sigs[0]) {
			t.Fatalf("%v: we read theirs as %+v, %+v, %v", v.Type(), got, sigs, err)
		}
		if ts, err := v.Verify(got, sigs[0]); err != nil || ts < before || ts > before+60 {
			t.Errorf("%v: we verify theirs with %d, %v", v.Type(), ts, err)
		}
	}
}

// TestFormatsAcceptsExtension shows why this package refuses extension lines: under
// transparency-dev/formats v0.1.1 a note with a line that nobody signed verifies. When
// this fails they have begun to refuse it too.
func TestFormatsAcceptsExtension(t *testing.T) {
	_, _, pq := signers(t)
	signed, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: origin, Size: 7, Root: root}, time.Unix(1, 0), pq)
	if err != nil {
		t.Fatal(err)
	}
	evil := bytes.Replace(signed, []byte("\n\n"), []byte("\nevil extension\n\n"), 1)
	verifier, err := formats.NewMLDSAVerifier(pq.VerifierKey().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(evil, note.VerifierList(verifier)); err != nil {
		t.Errorf("they refuse the extension: %v", err)
	}
	if _, _, err := checkpoint.ParseNote(evil); err == nil {
		t.Error("we accept the extension")
	}
}
