package verify_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/statement"
)

func finalStatement(t *testing.T, l *testLog, signers ...*checkpoint.SignerKey) []byte {
	t.Helper()
	next := statement.Next(l.origin)
	s := statement.Statement{
		Origin: l.origin, Signed: statement.Tree{Size: 9, Root: [32]byte{9}}, Kept: statement.Tree{Size: 5, Root: [32]byte{5}},
		Successor: next, Keys: []checkpoint.VerifierKey{key(t, next, checkpoint.TypeEd25519, 40).VerifierKey()}, Time: signedAt,
	}
	note, err := s.Sign(signers...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func TestStatement(t *testing.T) {
	l := newLog(t, origin, 1)
	p := &policy.Policy{Logs: []policy.Log{{Key: l.ed.VerifierKey()}, {Key: l.pq.VerifierKey()}}, Quorum: policy.None}
	note := finalStatement(t, l, l.ed, l.pq)
	s, err := verify.Statement(note, p)
	if err != nil || len(s.LogKeys) != 2 || len(s.MissingLogKeys) != 0 || s.Signed.Size != 9 {
		t.Fatalf("%+v, %v", s, err)
	}
	if got := strings.Join(s.Proven(), "\n"); !strings.Contains(got, "continued by "+origin+"/2") || !strings.Contains(got, s.Keys[0].String()) {
		t.Errorf("proven: %s", got)
	}
	one, err := verify.Statement(finalStatement(t, l, l.pq), p)
	if err != nil || len(one.LogKeys) != 1 || len(one.MissingLogKeys) != 1 {
		t.Errorf("one signature: %+v, %v", one, err)
	}
	if got := strings.Join(one.NotProven(), "\n"); !strings.Contains(got, "that signature is missing") {
		t.Errorf("not proven: %s", got)
	}

	other := newLog(t, origin+"/other", 1)
	for name, c := range map[string]struct {
		data   []byte
		reason verify.Reason
	}{
		"no statement": {[]byte("x"), verify.ReasonMalformed},
		"another log":  {finalStatement(t, other, other.ed), verify.ReasonUnknownLog},
		"unknown keys": {finalStatement(t, l, key(t, origin, checkpoint.TypeEd25519, 99)), verify.ReasonNoSignature},
		"a checkpoint": {checkpointOf(t, l), verify.ReasonMalformed},
	} {
		_, err := verify.Statement(c.data, p)
		if e, ok := errors.AsType[*verify.UnverifiableError](err); !ok || e.Reason != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	forged := bytes.Replace(note, []byte("signed 9 "), []byte("signed 8 "), 1)
	if e, ok := errors.AsType[*verify.TamperError](second(verify.Statement(forged, p))); !ok || e.Kind != verify.KindLogSignature {
		t.Error("a changed size is not noticed")
	}
}

func second(_ *verify.FinalStatement, err error) error { return err }

func checkpointOf(t *testing.T, l *testLog) []byte {
	t.Helper()
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: l.origin, Size: 1, Root: [32]byte{1}}, signedAt, l.ed)
	if err != nil {
		t.Fatal(err)
	}
	return note
}
