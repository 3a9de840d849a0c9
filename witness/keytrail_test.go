package witness_test

import (
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

// TestKeytrailLog cosigns what a keytrail log publishes, signed with both of its keys.
func TestKeytrailLog(t *testing.T) {
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, memstore.New())
	e := witness.Log{Origin: logtest.Origin}
	text := ""
	for _, s := range d.Signers {
		e.Keys = append(e.Keys, s.VerifierKey())
		text += "log " + s.VerifierKey().String() + "\n"
	}
	w := inMemory(t)
	if err := w.Enroll(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		l.Append1(t, logtest.Event(n, "key"))
	}
	pub := l.AwaitPublished(t, 3)
	lines := w.add(t, (&consistency.Bundle{Checkpoint: pub.Note}).Append(nil))
	text += "witness a " + w.Keys()[0].String() + "\nwitness b " + w.Keys()[1].String() + "\ngroup g all a b\nquorum g\n"
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := verify.Checkpoint(append(pub.Note[:len(pub.Note):len(pub.Note)], lines...), p); err != nil || len(s.LogKeys) != 2 || len(s.Cosignatures) != 2 {
		t.Errorf("the verifier says %+v, %v", s, err)
	}
	if note, ok := w.Checkpoint(hash(logtest.Origin)); !ok {
		t.Error("nothing is served")
	} else if _, err := verify.Checkpoint(note, p); err != nil {
		t.Errorf("of what is served the verifier says %v", err)
	}
}
