package verify_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// Each test below is one attack on a consistency bundle.

func TestAttackConsistencyFork(t *testing.T) {
	l := newLog(t, origin, 5)
	fork := newLog(t, origin, 4)
	fork.append(fork.payload(fork.record(9)))
	fork.append(fork.payload(fork.record(5)))
	old := l.sign(l.checkpoint(5))

	// Two trees of one size.
	r, err := verify.Consistency(fork.bundle(5, 5).Append(nil), old, l.policy())
	e := wantTampered(t, r, err, verify.KindFork)
	if !bytes.Equal(e.Old, old) || !bytes.HasSuffix(e.File, e.New) {
		t.Error("evidence lacks one of the signed checkpoints")
	}
	// The evidence alone shows the fork.
	for _, note := range [][]byte{e.Old, e.New} {
		if s, err := verify.Checkpoint(note, l.policy()); err != nil || s.Size != 5 {
			t.Errorf("checkpoint in the evidence: %+v, %v", s, err)
		}
	}
	// A longer tree that does not begin with the earlier one.
	r, err = verify.Consistency(fork.bundle(5, 6).Append(nil), old, l.policy())
	wantTampered(t, r, err, verify.KindConsistency)

	// A fork is shown by the log's signatures, witnesses or not.
	p := l.policy()
	p.Witnesses = []policy.Witness{{Name: "w", Key: key(t, "w", checkpoint.TypeMLDSA44, 0x61).VerifierKey()}}
	p.Quorum = "w"
	r, err = verify.Consistency(fork.bundle(5, 5).Append(nil), old, p)
	wantTampered(t, r, err, verify.KindFork)
	r, err = verify.Consistency(fork.bundle(5, 6).Append(nil), old, p)
	wantUnverifiable(t, r, err, verify.ReasonQuorum)
}

func TestAttackConsistencyWentBack(t *testing.T) {
	l := newLog(t, origin, 5)
	bundle := l.bundle(4, 4)
	r, err := verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantTampered(t, r, err, verify.KindWentBack)
	bundle.OldSize = 5
	r, err = verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantTampered(t, r, err, verify.KindWentBack)
	bundle = l.bundle(0, 0)
	r, err = verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantTampered(t, r, err, verify.KindWentBack)
}

func TestAttackConsistencyWrongOldSize(t *testing.T) {
	l := newLog(t, origin, 5)
	for old := range uint64(8) {
		bundle := l.bundle(3, 5)
		if bundle.OldSize = old; old == 3 {
			continue
		}
		r, err := verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(3)), l.policy())
		wantUnverifiable(t, r, err, verify.ReasonOtherBundle)
	}
}

// TestAttackConsistencyEmptyOld claims that a tree extends the empty one, where nothing
// needs a proof, although the earlier checkpoint is not of the empty tree.
func TestAttackConsistencyEmptyOld(t *testing.T) {
	l := newLog(t, origin, 5)
	fork := newLog(t, origin, 0)
	fork.append(fork.payload(fork.record(3)))
	for range 7 {
		fork.append(fork.payload(fork.record(fork.tree.Size())))
	}
	bundle := fork.bundle(0, 7)
	r, err := verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantUnverifiable(t, r, err, verify.ReasonOtherBundle)
	bundle.OldSize = 5
	r, err = verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantTampered(t, r, err, verify.KindConsistency)
	// A proof where none belongs.
	bundle = l.bundle(0, 5)
	bundle.Hashes = append(bundle.Hashes, [32]byte{1})
	r, err = verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(0)), l.policy())
	wantTampered(t, r, err, verify.KindConsistency)
	bundle = l.bundle(5, 5)
	bundle.Hashes = append(bundle.Hashes, [32]byte{1})
	r, err = verify.Consistency(bundle.Append(nil), l.sign(l.checkpoint(5)), l.policy())
	wantTampered(t, r, err, verify.KindConsistency)
	// An "empty" tree with another root is no checkpoint.
	root := l.checkpoint(3).Root
	old := []byte(origin + "\n0\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n\n" + string(firstLine(t, l.sign(l.checkpoint(3)))))
	r, err = verify.Consistency(l.bundle(0, 5).Append(nil), old, l.policy())
	wantUnverifiable(t, r, err, verify.ReasonMalformed)
}

func TestAttackConsistencyAlteredProof(t *testing.T) {
	l := newLog(t, origin, 11)
	old := l.sign(l.checkpoint(5))
	for i := range l.bundle(5, 11).Hashes {
		bundle := l.bundle(5, 11)
		bundle.Hashes[i][3] ^= 1
		r, err := verify.Consistency(bundle.Append(nil), old, l.policy())
		e := wantTampered(t, r, err, verify.KindConsistency)
		if !bytes.Equal(e.Old, old) || !bytes.Equal(e.New, bundle.Checkpoint) || len(e.Proof) != len(bundle.Hashes) {
			t.Error("evidence lacks a checkpoint or the proof")
		}
	}
	bundle := l.bundle(5, 11)
	bundle.Hashes = nil
	r, err := verify.Consistency(bundle.Append(nil), old, l.policy())
	wantTampered(t, r, err, verify.KindConsistency)
}

func TestAttackConsistencyTwoLogs(t *testing.T) {
	l, other := newLog(t, origin, 5), newLog(t, "other.example/keys", 5)
	p := l.policy()
	r, err := verify.Consistency(l.bundle(3, 5).Append(nil), other.sign(other.checkpoint(3)), p)
	wantUnverifiable(t, r, err, verify.ReasonUnknownLog)
	p.Logs = append(p.Logs, other.policy().Logs...)
	r, err = verify.Consistency(l.bundle(3, 5).Append(nil), other.sign(other.checkpoint(3)), p)
	wantUnverifiable(t, r, err, verify.ReasonOtherLog)
}

func TestAttackConsistencyForgedCheckpoint(t *testing.T) {
	l := newLog(t, origin, 5)
	old := l.sign(l.checkpoint(3))
	r, err := verify.Consistency(l.bundle(3, 5).Append(nil), forge(t, old, l.pq.VerifierKey()), l.policy())
	wantTampered(t, r, err, verify.KindLogSignature)
	bundle := l.bundle(3, 5)
	bundle.Checkpoint = forge(t, bundle.Checkpoint, l.ed.VerifierKey())
	r, err = verify.Consistency(bundle.Append(nil), old, l.policy())
	e := wantTampered(t, r, err, verify.KindLogSignature)
	if !strings.Contains(e.Detail, "later checkpoint") || e.File == nil {
		t.Errorf("%+v", e)
	}
	for name, garbage := range map[string]string{"nothing": "", "text": "hello\n", "receipt": string(l.receipt(1, 3).Append(nil))} {
		r, err := verify.Consistency([]byte(garbage), old, l.policy())
		wantUnverifiable(t, r, err, verify.ReasonMalformed)
		r, err = verify.Consistency(l.bundle(3, 5).Append(nil), []byte(garbage), l.policy())
		if wantUnverifiable(t, r, err, verify.ReasonMalformed); t.Failed() {
			t.Fatal(name)
		}
	}
}
