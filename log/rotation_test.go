package log_test

import (
	"crypto/rand"
	"io"
	"slices"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

// TestAddedKeySignsAnIdleLog starts an idle log with one more key: its checkpoint is signed
// with it at once, and then the log starts without the key that was replaced.
func TestAddedKeySignsAnIdleLog(t *testing.T) {
	d := logtest.NewDir(t)
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	before := l.AwaitPublished(t, 1)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	k, err := checkpoint.GenerateEd25519(logtest.Origin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d.Signers = append(d.Signers, k)
	l = logtest.Open(t, d, s)
	waitFor(t, "a checkpoint of the new key", func() bool {
		c, sigs, err := checkpoint.ParseNote(l.Published().Note)
		if err != nil {
			t.Fatal(err)
		}
		if c != before.Checkpoint {
			t.Fatalf("checkpoint of %d entries, want that of before", c.Size)
		}
		return len(sigs) == 3 && slices.ContainsFunc(sigs, k.VerifierKey().Made)
	})
	after := l.Published()
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
	d.Signers = d.Signers[1:]
	l = logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(1, "k"))
	if c := l.AwaitPublished(t, 2); c.Size != 2 {
		t.Errorf("size %d", c.Size)
	}
	if string(after.Note) == string(before.Note) {
		t.Error("the checkpoint was not signed again")
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
}

// TestRotationUnderAWitness replaces both keys of a log that a witness cosigns: the witness
// learns of the new keys during the overlap and forgets the old ones at its end.
func TestRotationUnderAWitness(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 1, 1)
	before := policyOf(d)
	old := d.Signers
	s := memstore.New()
	next := 0
	// run starts the log, logs one event and returns the receipt.
	run := func() []byte {
		t.Helper()
		l := logtest.Open(t, d, s)
		l.Append1(t, logtest.Event(next, "k"))
		next++
		l.AwaitPublished(t, uint64(next))
		r, err := l.Receipt(t.Context(), uint64(next-1))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	receipts := [][]byte{run()}
	d.Signers = nil
	for _, generate := range []func(string, io.Reader) (*checkpoint.SignerKey, error){checkpoint.GenerateEd25519, checkpoint.GenerateMLDSA44} {
		k, err := generate(logtest.Origin, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d.Signers = append(d.Signers, k)
	}
	fresh := d.Signers
	after := logtest.Policy(t, d, 1, ws...)
	d.Signers = slices.Concat(old, fresh)
	d.WithPolicy(logtest.Policy(t, d, 1, ws...))
	receipts = append(receipts, run()) // the witness trusts the old keys alone
	enrolled := witness.Log{Origin: logtest.Origin}
	for _, k := range fresh {
		enrolled.Keys = append(enrolled.Keys, k.VerifierKey())
	}
	if err := ws[0].Enroll(t.Context(), enrolled); err != nil {
		t.Fatal(err)
	}
	receipts = append(receipts, run())
	d.Signers = fresh // the policy has all four still
	receipts = append(receipts, run())
	for _, k := range old {
		if err := ws[0].RemoveKey(t.Context(), logtest.Origin, k.VerifierKey()); err != nil {
			t.Fatal(err)
		}
	}
	receipts = append(receipts, run())
	for i, r := range receipts {
		_, err := verify.Receipt(r, policyOf(d))
		if err != nil {
			t.Errorf("receipt %d with the policy of now: %v", i, err)
		}
		_, err = verify.Receipt(r, before)
		if want := i < 3; (err == nil) != want {
			t.Errorf("receipt %d with the policy of before: %v, want verified %v", i, err, want)
		}
		_, err = verify.Receipt(r, after)
		if want := i > 0; (err == nil) != want {
			t.Errorf("receipt %d with the new keys alone: %v, want verified %v", i, err, want)
		}
	}
}
