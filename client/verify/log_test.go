package verify_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

const origin = "log.example/keys"

// signedAt is when the test log signs.
var signedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// key returns a fixed signing key: the same name, kind and number give the same key.
func key(t testing.TB, name string, typ checkpoint.KeyType, n byte) *checkpoint.SignerKey {
	t.Helper()
	k, err := checkpoint.NewSignerKey(name, typ, bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testLog is a log in memory that does what its tests ask for, also what a log must not.
type testLog struct {
	t        testing.TB
	origin   string
	ed, pq   *checkpoint.SignerKey
	payloads [][]byte
	tree     *testonly.Tree
}

// newLog returns a log of n entries with two keys that no log of another name has.
func newLog(t testing.TB, origin string, n int) *testLog {
	t.Helper()
	seed := byte(len(origin))
	l := &testLog{
		t: t, origin: origin, tree: testonly.New(rfc6962.DefaultHasher),
		ed: key(t, origin, checkpoint.TypeEd25519, seed),
		pq: key(t, origin, checkpoint.TypeMLDSA44, seed+1),
	}
	for i := range n {
		l.append(l.payload(l.record(uint64(i))))
	}
	return l
}

// record returns the record that belongs at an index.
func (l *testLog) record(index uint64) *record.Record {
	l.t.Helper()
	ev, err := event.Append(nil, &keytrailv1.KeyEvent{
		SchemaVersion: event.SchemaVersion,
		EventId:       fmt.Sprintf("event-%d", index),
		Source:        &keytrailv1.Source{System: "test-kms"},
		Tenant:        "tenant-a",
		Time:          timestamppb.New(signedAt.Add(-time.Hour)),
		Operation:     keytrailv1.Operation_OPERATION_USE_DECRYPT,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key:           &keytrailv1.Key{Ref: "key-1"},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	r := &record.Record{Index: index, LoggedAt: signedAt.Add(-time.Minute), Producer: "kms-1", KeySequence: index + 1, KeyEvent: ev}
	if index > 0 {
		r.PreviousIndex = index - 1
	}
	return r
}

// payload returns a record with a fixed salt.
func (l *testLog) payload(r *record.Record) []byte {
	salt := [record.SaltSize]byte{0: 0x5a}
	binary.BigEndian.PutUint64(salt[8:], r.Index)
	return record.AppendPayload(nil, &salt, r)
}

// append commits to a payload, whatever it holds.
func (l *testLog) append(payload []byte) {
	leaf := record.Leaf(payload)
	l.payloads = append(l.payloads, payload)
	l.tree.AppendData(leaf[:])
}

// checkpoint returns the log's true state at a size.
func (l *testLog) checkpoint(size uint64) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: l.origin, Size: size, Root: [32]byte(l.tree.HashAt(size))}
}

// sign signs a checkpoint with the keys given, or with both of the log's; the same each
// time, so that vectors stay what they are.
func (l *testLog) sign(c checkpoint.Checkpoint, keys ...*checkpoint.SignerKey) []byte {
	l.t.Helper()
	if keys == nil {
		keys = []*checkpoint.SignerKey{l.ed, l.pq}
	}
	var sigs []checkpoint.Signature
	for _, k := range keys {
		s, err := signature(k, c, uint64(signedAt.Unix()))
		if err != nil {
			l.t.Fatal(err)
		}
		sigs = append(sigs, s)
	}
	return checkpoint.AppendNote(nil, c, sigs)
}

// signature is what k.Sign makes, but of ML-DSA-44 the deterministic variant.
func signature(k *checkpoint.SignerKey, c checkpoint.Checkpoint, timestamp uint64) (checkpoint.Signature, error) {
	if k.VerifierKey().Type() != checkpoint.TypeMLDSA44 {
		return k.Sign(c, timestamp)
	}
	// PRIVATE+KEY+name+id+base64(type || seed)
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(k.Encode(), "+", 5)[4])
	if err != nil {
		return checkpoint.Signature{}, err
	}
	secret, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), raw[1:])
	if err != nil {
		return checkpoint.Signature{}, err
	}
	msg := fmt.Appendf(nil, "subtree/v1\n\x00%c%s", len(k.Name()), k.Name())
	msg = binary.BigEndian.AppendUint64(msg, timestamp)
	msg = fmt.Appendf(msg, "%c%s", len(c.Origin), c.Origin)
	msg = binary.BigEndian.AppendUint64(msg, 0)
	msg = binary.BigEndian.AppendUint64(msg, c.Size)
	msg = append(msg, c.Root[:]...)
	sig, err := secret.SignDeterministic(msg, nil)
	if err != nil {
		return checkpoint.Signature{}, err
	}
	sig = append(binary.BigEndian.AppendUint64(nil, timestamp), sig...)
	return checkpoint.Signature{Name: k.Name(), KeyID: k.VerifierKey().ID(), Sig: sig}, nil
}

// receipt returns the true receipt of an entry at a size.
func (l *testLog) receipt(index, size uint64, keys ...*checkpoint.SignerKey) *receipt.Receipt {
	l.t.Helper()
	p, err := l.tree.InclusionProof(index, size)
	if err != nil {
		l.t.Fatal(err)
	}
	return &receipt.Receipt{
		Index: index, Hashes: hashes(p), Extra: bytes.Clone(l.payloads[index]),
		Checkpoint: l.sign(l.checkpoint(size), keys...),
	}
}

// bundle returns the true consistency bundle between two sizes.
func (l *testLog) bundle(from, to uint64, keys ...*checkpoint.SignerKey) *consistency.Bundle {
	l.t.Helper()
	p, err := l.tree.ConsistencyProof(from, to)
	if err != nil {
		l.t.Fatal(err)
	}
	return &consistency.Bundle{OldSize: from, Hashes: hashes(p), Checkpoint: l.sign(l.checkpoint(to), keys...)}
}

// policy returns the policy that keytrail init writes: the log's keys, no witness.
func (l *testLog) policy() *policy.Policy {
	return &policy.Policy{
		Logs:   []policy.Log{{Key: l.ed.VerifierKey()}, {Key: l.pq.VerifierKey()}},
		Quorum: policy.None,
	}
}

func hashes(p [][]byte) [][32]byte {
	var out [][32]byte
	for _, h := range p {
		out = append(out, [32]byte(h))
	}
	return out
}
