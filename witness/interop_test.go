package witness_test

import (
	"fmt"
	"testing"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestOthersVerify has the cosignatures checked as a log does it (the lines appended to its
// checkpoint): by the offline verifier under a quorum, and by transparency-dev/formats.
func TestOthersVerify(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	lines := w.add(t, l.request(t, 0, 12))
	signed := append(l.sign(t, l.at(12)), lines...)
	for _, k := range w.Keys() {
		p := logPolicy(t, l, fmt.Sprintf("witness w %s\nquorum w\n", k))
		s, err := verify.Checkpoint(signed, p)
		if err != nil || len(s.Cosignatures) != 1 || s.Cosignatures[0].Time.IsZero() {
			t.Errorf("%v: the verifier says %+v, %v", k.Type(), s, err)
		}
		verifiers := map[string]func(string) (note.Verifier, error){
			"cosignature": func(s string) (note.Verifier, error) { return formats.NewVerifierForCosignatureV1(s) },
		}
		if k.Type() == checkpoint.TypeMLDSA44 {
			verifiers["subtree"] = func(s string) (note.Verifier, error) { return formats.NewMLDSAVerifier(s) }
		}
		for name, read := range verifiers {
			v, err := read(k.String())
			if err != nil {
				t.Fatal(err)
			}
			n, err := note.Open(signed, note.VerifierList(v))
			if err != nil || len(n.Sigs) != 1 {
				t.Errorf("%v: formats' %s verifier says %+v, %v", k.Type(), name, n, err)
			}
		}
	}
}
