package verify_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// wantTampered checks verdict and kind, and that the evidence can be read and holds the
// signed checkpoint.
func wantTampered(t *testing.T, r *verify.Result, err error, kind verify.Kind) *verify.TamperError {
	t.Helper()
	e, ok := errors.AsType[*verify.TamperError](err)
	if !ok {
		t.Fatalf("got %+v, %v; want tampered: %s", r, err, kind)
	}
	if r != nil {
		t.Error("a result comes with the error")
	}
	if e.Kind != kind {
		t.Errorf("got %v; want kind %q", err, kind)
	}
	if !strings.HasPrefix(e.Error(), "tampered: "+string(kind)+": ") || strings.HasSuffix(e.Error(), ": ") {
		t.Errorf("message is %q", e.Error())
	}
	var got struct {
		Format, Kind, Detail, Origin string
		Old                          string `json:"old_checkpoint"`
		New                          string `json:"new_checkpoint"`
		Proof                        [][]byte
		File                         []byte
	}
	if err := json.Unmarshal(e.Evidence(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Format != verify.EvidenceFormat || got.Kind != string(kind) || got.Detail != e.Detail || got.Origin != e.Origin ||
		got.New != string(e.New) || got.Old != string(e.Old) || len(got.Proof) != len(e.Proof) || !bytes.Equal(got.File, e.File) {
		t.Errorf("evidence is\n%s", e.Evidence())
	}
	if len(e.New) == 0 || e.Origin == "" {
		t.Errorf("evidence holds no checkpoint: %+v", e)
	}
	return e
}

func wantUnverifiable(t *testing.T, r *verify.Result, err error, reason verify.Reason) {
	t.Helper()
	e, ok := errors.AsType[*verify.UnverifiableError](err)
	if !ok {
		t.Fatalf("got %+v, %v; want unverifiable: %s", r, err, reason)
	}
	if r != nil {
		t.Error("a result comes with the error")
	}
	if e.Reason != reason {
		t.Errorf("got %v; want reason %q", err, reason)
	}
	if !strings.HasPrefix(e.Error(), "unverifiable: "+string(reason)+": ") || strings.HasSuffix(e.Error(), ": ") {
		t.Errorf("message is %q", e.Error())
	}
}

func wantVerified(t *testing.T, r *verify.Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("not verified: %v", err)
	}
	if len(r.Proven()) == 0 {
		t.Error("nothing is said to be proven")
	}
}

func TestReceiptVerifies(t *testing.T) {
	l := newLog(t, origin, 11)
	for size := uint64(1); size <= 11; size++ {
		for index := range size {
			r, err := receiptVerdict(t, l.receipt(index, size).Append(nil), l.policy())
			wantVerified(t, r, err)
			c, e := r.Checkpoint, r.Entry
			if c.Checkpoint != l.checkpoint(size) || e.Index != index || e.Record.Index != index || e.Record.KeySequence != index+1 {
				t.Fatalf("entry %d of %d: %+v, %+v", index, size, c.Checkpoint, e)
			}
			if e.Event.GetKey().GetRef() != "key-1" || e.Record.Producer != "kms-1" {
				t.Fatalf("entry %d of %d: event %v", index, size, e.Event)
			}
			if len(c.LogKeys) != 2 || len(c.MissingLogKeys) != 0 || c.Ignored != 0 {
				t.Fatalf("entry %d of %d: signatures %+v", index, size, c)
			}
			if !c.LogKeys[0].Time.IsZero() || !c.LogKeys[1].Time.Equal(signedAt) {
				t.Fatalf("entry %d of %d: times %v, %v", index, size, c.LogKeys[0].Time, c.LogKeys[1].Time)
			}
		}
	}
}

func TestConsistencyVerifies(t *testing.T) {
	l := newLog(t, origin, 11)
	for to := uint64(0); to <= 11; to++ {
		for from := range to + 1 {
			r, err := verify.Consistency(l.bundle(from, to).Append(nil), l.sign(l.checkpoint(from)), l.policy())
			wantVerified(t, r, err)
			if r.Earlier.Size != from || r.Checkpoint.Size != to || r.Entry != nil {
				t.Fatalf("%d to %d: %+v", from, to, r)
			}
			if said := strings.Join(r.NotProven(), " "); (from == 0) != strings.Contains(said, "every tree extends it") {
				t.Errorf("%d to %d: not proven: %s", from, to, said)
			}
		}
	}
}

// TestStrippedSignature takes one of the log's two signatures away: the policy is
// satisfied with the other, and the result says what is missing.
func TestStrippedSignature(t *testing.T) {
	l := newLog(t, origin, 3)
	for _, keys := range [][2]*checkpoint.SignerKey{{l.ed, l.pq}, {l.pq, l.ed}} {
		kept, stripped := keys[0], keys[1]
		r, err := receiptVerdict(t, l.receipt(1, 3, kept).Append(nil), l.policy())
		wantVerified(t, r, err)
		if m := r.Checkpoint.MissingLogKeys; len(m) != 1 || !m[0].Equal(stripped.VerifierKey()) {
			t.Errorf("missing keys: %v", m)
		}
		if said := strings.Join(r.NotProven(), " "); !strings.Contains(said, stripped.VerifierKey().Type().String()) {
			t.Errorf("not proven: %s", said)
		}
	}
}

func TestWitnesses(t *testing.T) {
	l := newLog(t, origin, 3)
	w1 := key(t, "witness.example/1", checkpoint.TypeMLDSA44, 0x61)
	w2 := key(t, "witness.example/2", checkpoint.TypeEd25519Cosignature, 0x62)
	w3 := key(t, "witness.example/3", checkpoint.TypeMLDSA44, 0x63)
	p := l.policy()
	p.Witnesses = []policy.Witness{{Name: "one", Key: w1.VerifierKey()}, {Name: "two", Key: w2.VerifierKey()}, {Name: "three", Key: w3.VerifierKey()}}
	p.Groups = []policy.Group{{Name: "two-of", Threshold: 2, Members: []string{"one", "two", "three"}}}
	p.Quorum = "two-of"

	t.Run("quorum met", func(t *testing.T) {
		r, err := receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w1, w2).Append(nil), p)
		wantVerified(t, r, err)
		c := r.Checkpoint
		if len(c.Cosignatures) != 2 || c.Cosignatures[0].Witness != "one" || !c.Cosignatures[1].Time.Equal(signedAt) || len(c.MissingWitnesses) != 1 {
			t.Errorf("cosignatures %+v, missing %v", c.Cosignatures, c.MissingWitnesses)
		}
	})
	t.Run("too few", func(t *testing.T) {
		r, err := receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w3).Append(nil), p)
		wantUnverifiable(t, r, err, verify.ReasonQuorum)
		if !strings.Contains(err.Error(), "one, two") {
			t.Errorf("missing witnesses are not named: %v", err)
		}
	})
	t.Run("one twice", func(t *testing.T) {
		r, err := receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w3, w3, w3).Append(nil), p)
		wantUnverifiable(t, r, err, verify.ReasonQuorum)
	})
	t.Run("repeats are counted once", func(t *testing.T) {
		r, err := receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w1, w2, w1).Append(nil), p)
		wantVerified(t, r, err)
		if c := r.Checkpoint; len(c.Cosignatures) != 2 || c.Ignored != 1 {
			t.Errorf("cosignatures %+v, ignored %d", c.Cosignatures, c.Ignored)
		}
	})
	t.Run("bundle", func(t *testing.T) {
		both := []*checkpoint.SignerKey{l.ed, l.pq, w1, w2}
		r, err := verify.Consistency(l.bundle(2, 3, both...).Append(nil), l.sign(l.checkpoint(2), both...), p)
		wantVerified(t, r, err)
		r, err = verify.Consistency(l.bundle(2, 3, both...).Append(nil), l.sign(l.checkpoint(2)), p)
		wantUnverifiable(t, r, err, verify.ReasonQuorum)
		r, err = verify.Consistency(l.bundle(2, 3).Append(nil), l.sign(l.checkpoint(2), both...), p)
		wantUnverifiable(t, r, err, verify.ReasonQuorum)
	})
	t.Run("witnesses without the log", func(t *testing.T) {
		r, err := receiptVerdict(t, l.receipt(1, 3, w1, w2, w3).Append(nil), p)
		wantUnverifiable(t, r, err, verify.ReasonNoSignature)
	})
	t.Run("unknown witness of a known name", func(t *testing.T) {
		stranger := key(t, "witness.example/1", checkpoint.TypeMLDSA44, 0x71)
		r, err := receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w2, stranger).Append(nil), p)
		wantUnverifiable(t, r, err, verify.ReasonQuorum)
	})
	t.Run("forged cosignature", func(t *testing.T) {
		rec := l.receipt(1, 3, l.ed, l.pq, w1, w2)
		rec.Checkpoint = forge(t, rec.Checkpoint, w2.VerifierKey())
		r, err := receiptVerdict(t, rec.Append(nil), p)
		wantTampered(t, r, err, verify.KindCosignature)
	})
	t.Run("cosignature of another tree", func(t *testing.T) {
		rec := l.receipt(1, 3, l.ed, l.pq, w1)
		_, sigs, err := checkpoint.ParseNote(l.sign(l.checkpoint(2), w2))
		if err != nil {
			t.Fatal(err)
		}
		rec.Checkpoint = sigs[0].Append(rec.Checkpoint)
		r, err := receiptVerdict(t, rec.Append(nil), p)
		wantTampered(t, r, err, verify.KindCosignature)
	})
}

// forge changes one bit of the signature of a key.
func forge(t testing.TB, note []byte, k checkpoint.VerifierKey) []byte {
	t.Helper()
	c, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sigs {
		if k.Made(sigs[i]) {
			sigs[i].Sig[len(sigs[i].Sig)/2] ^= 1
			return checkpoint.AppendNote(nil, c, sigs)
		}
	}
	t.Fatal("the note has no signature of the key")
	return nil
}
