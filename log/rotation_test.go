package log_test

import (
	"crypto/rand"
	"slices"
	"testing"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/memstore"
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
