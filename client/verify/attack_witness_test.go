package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// Attacks on the quorum: what somebody with the log's keys and fewer witnesses than the policy
// demands could try.

// twoOfTwo returns two witnesses' keys and the policy that demands both.
func (l *testLog) twoOfTwo(typ checkpoint.KeyType) (w1, w2 *checkpoint.SignerKey, p *policy.Policy) {
	l.t.Helper()
	w1, w2 = key(l.t, "w1.example", typ, 0x31), key(l.t, "w2.example", typ, 0x32)
	p, err := policy.Parse(l.witnessPolicy(w1, w2))
	if err != nil {
		l.t.Fatal(err)
	}
	return w1, w2, p
}

// witnessPolicy demands all of some witnesses.
func (l *testLog) witnessPolicy(witnesses ...*checkpoint.SignerKey) []byte {
	b := fmt.Appendf(nil, "log %s\nlog %s\n", l.ed.VerifierKey(), l.pq.VerifierKey())
	var names []string
	for i, w := range witnesses {
		names = append(names, fmt.Sprint("n", i))
		b = fmt.Appendf(b, "witness n%d %s\n", i, w.VerifierKey())
	}
	return fmt.Appendf(b, "group all all %s\nquorum all\n", strings.Join(names, " "))
}

// cosigned returns a note of c with cosignatures over other, as an attacker may put together.
func (l *testLog) cosigned(c, other checkpoint.Checkpoint, witnesses ...*checkpoint.SignerKey) []byte {
	l.t.Helper()
	note := l.sign(c)
	for _, w := range witnesses {
		s, err := signature(w, other, uint64(signedAt.Unix()))
		if err != nil {
			l.t.Fatal(err)
		}
		note = s.Append(note)
	}
	return note
}

var witnessTypes = []checkpoint.KeyType{checkpoint.TypeEd25519Cosignature, checkpoint.TypeMLDSA44}

// wantVerdict wants a checkpoint not to be verified, and why. Kind or reason is given.
func wantVerdict(t *testing.T, note []byte, p *policy.Policy, kind verify.Kind, reason verify.Reason) {
	t.Helper()
	s, err := verify.Checkpoint(note, p)
	var r *verify.Result
	if s != nil {
		r = &verify.Result{Checkpoint: s}
	}
	if kind != "" {
		wantTampered(t, r, err, kind)
	} else {
		wantUnverifiable(t, r, err, reason)
	}
}

// TestAttackOneKeyUnderTwoNames: a policy that lists one key twice would let one witness be
// two. It is refused, and so is the same key with another key name, or of the other kind.
func TestAttackOneKeyUnderTwoNames(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, typ := range witnessTypes {
		w := key(t, "w1.example", typ, 0x31)
		for _, name := range []string{"w1.example", "w2.example"} {
			if _, err := policy.Parse(l.witnessPolicy(w, key(t, name, typ, 0x31))); err == nil {
				t.Errorf("%v: one key as w1.example and %s counts as two witnesses", typ, name)
			}
		}
	}
	// One witness's two signature lines do not make up for the other's, either.
	for _, typ := range witnessTypes {
		w1, _, p := l.twoOfTwo(typ)
		c := l.checkpoint(5)
		wantVerdict(t, l.cosigned(c, c, w1, w1), p, "", verify.ReasonQuorum)
		wantVerdict(t, l.cosigned(c, c, w1, key(t, "w2.example", typ, 0x31)), p, "", verify.ReasonQuorum)
	}
}

// TestAttackDuplicateMembers: a group that names a witness twice would need it once only.
func TestAttackDuplicateMembers(t *testing.T) {
	l := newLog(t, origin, 5)
	head, _, _ := strings.Cut(string(l.witnessPolicy(key(t, "w1.example", witnessTypes[0], 0x31), key(t, "w2.example", witnessTypes[0], 0x32))), "group")
	for _, groups := range []string{
		"group g 2 n0 n0\nquorum g\n",
		"group g 2 n0 n1 n0\nquorum g\n",
		"group g any n0 n1\ngroup h 2 g n0\nquorum h\n",
		"group g any n0 n1\ngroup h 2 g g\nquorum h\n",
		"group g 0 n0\nquorum g\n",
	} {
		if _, err := policy.Parse([]byte(head + groups)); err == nil {
			t.Errorf("accepted: %q", groups)
		}
	}
}

// TestAttackCosignatureForAnotherOrigin: a witness cosigned a log of the attacker's own with
// the same tree; its line is put under this log's checkpoint.
func TestAttackCosignatureForAnotherOrigin(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, typ := range witnessTypes {
		w1, w2, p := l.twoOfTwo(typ)
		c := l.checkpoint(5)
		other := c
		other.Origin = "attacker.example/log"
		wantVerdict(t, l.cosigned(c, other, w1, w2), p, verify.KindCosignature, "")
	}
}

// TestAttackReplayedCosignature: cosignatures of an earlier tree, or of the true one, are put
// under another.
func TestAttackReplayedCosignature(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, typ := range witnessTypes {
		w1, w2, p := l.twoOfTwo(typ)
		wantVerdict(t, l.cosigned(l.checkpoint(5), l.checkpoint(4), w1, w2), p, verify.KindCosignature, "")
		forked := l.checkpoint(5)
		forked.Root[0] ^= 1
		wantVerdict(t, l.cosigned(forked, l.checkpoint(5), w1, w2), p, verify.KindCosignature, "")
	}
}

// TestAttackForgedLineUnderTrustedName: a line with the name and the id of a witness and
// somebody else's signature, beside a quorum of good ones and without.
func TestAttackForgedLineUnderTrustedName(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, typ := range witnessTypes {
		w1, w2, p := l.twoOfTwo(typ)
		c := l.checkpoint(5)
		forged, err := signature(key(t, "w2.example", typ, 0x66), c, uint64(signedAt.Unix()))
		if err != nil {
			t.Fatal(err)
		}
		forged.KeyID = w2.VerifierKey().ID()
		wantVerdict(t, forged.Append(l.cosigned(c, c, w1)), p, verify.KindCosignature, "")
		wantVerdict(t, forged.Append(l.cosigned(c, c, w1, w2)), p, verify.KindCosignature, "")
	}
}

// TestAttackStaleCosignedCheckpoint: a client is shown a true, cosigned tree of long ago
// instead of the newest. It proves what it proves; who needs it fresh says so.
func TestAttackStaleCosignedCheckpoint(t *testing.T) {
	l := newLog(t, origin, 5)
	for _, typ := range witnessTypes {
		w1, w2, p := l.twoOfTwo(typ)
		c := l.checkpoint(4)
		s, err := verify.Checkpoint(l.cosigned(c, c, w1, w2), p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CheckAge(signedAt.Add(time.Minute), time.Hour, p); err != nil {
			t.Errorf("%v: a fresh checkpoint: %v", typ, err)
		}
		_, err = s.CheckAge(signedAt.Add(2*time.Hour), time.Hour, p)
		wantUnverifiable(t, nil, err, verify.ReasonStale)
	}
}
