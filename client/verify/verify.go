// Package verify checks receipts, consistency bundles and checkpoints offline, from the
// bytes of the file and a trust policy alone.
//
// There are three verdicts. No error means verified. A *TamperError means tampered: what
// the file says contradicts itself or what a log signed, and the error carries evidence
// that others can check. An *UnverifiableError means unverifiable: something that is
// needed is missing, and nothing is said about what the file claims. There is no other
// kind of error, and no Result with one.
//
// There is no clock, and all of it is safe for concurrent use: pure functions, and
// Verifier, which does what they do for many receipts. The package is trusted never
// to say "verified" of what the policy's keys did not sign. It trusts the policy that it
// is given; the log, its operator and whoever handed over the file it does not trust.
package verify

import (
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// Checkpoint verifies a signed checkpoint under a policy: its form, every signature of a
// key that the policy knows, that one of the log's keys is among them, and the quorum of
// witnesses.
func Checkpoint(note []byte, p *policy.Policy) (*Signed, error) {
	s, err := Signatures(note, p)
	if err != nil {
		return nil, err
	}
	if err := s.CheckQuorum(p); err != nil {
		return nil, err
	}
	return s, nil
}

// Receipt verifies a receipt (.tlog-proof) under a policy: the checkpoint as the function
// Checkpoint does, that the record in the receipt is the entry at its index in that tree,
// and that the record can be read and says the same index.
func Receipt(data []byte, p *policy.Policy) (*Result, error) {
	return verifyReceipt(data, func(note []byte) (*Signed, error) { return Checkpoint(note, p) })
}

// verifyReceipt is Receipt, with what the function Checkpoint does as a parameter.
func verifyReceipt(data []byte, checkpoint func(note []byte) (*Signed, error)) (*Result, error) {
	r, err := receipt.Parse(data)
	if err != nil {
		return nil, unverifiable(ReasonMalformed, "%v", err)
	}
	s, err := checkpoint(r.Checkpoint)
	if err != nil {
		return nil, addProof(err, r.Hashes, data)
	}
	tampered := func(kind Kind, format string, args ...any) (*Result, error) {
		return nil, &TamperError{
			Kind: kind, Detail: fmt.Sprintf(format, args...), Origin: s.Origin,
			New: s.Note, Proof: r.Hashes, File: data,
		}
	}
	if r.Index >= s.Size {
		return tampered(KindIndexBeyondTree, "index %d is not in a tree of %d entries", r.Index, s.Size)
	}
	if r.Extra == nil {
		return nil, unverifiable(ReasonNoRecord, "the receipt does not hold the record, so nothing ties it to an event")
	}
	leaf := record.Leaf(r.Extra)
	if err := verifyInclusion(r.Index, s.Size, leaf[:], asSlices(r.Hashes), s.Root); err != nil {
		return tampered(KindInclusion, "the record is not entry %d of the signed tree of %d entries: %s", r.Index, s.Size, explain(err))
	}
	e, err := openEntry(r.Index, r.Extra, leaf)
	switch {
	case isUnverifiable(err):
		return nil, err
	case err != nil:
		return tampered(KindRecord, "entry %d commits to a record that cannot be read: %v", r.Index, err)
	case e.Record.Index != r.Index:
		return tampered(KindRecordIndex, "entry %d commits to a record that says it is entry %d", r.Index, e.Record.Index)
	}
	return &Result{Checkpoint: s, Entry: e}, nil
}

// Consistency verifies that the tree of the checkpoint in a bundle extends the tree of an
// earlier checkpoint, and both checkpoints as the function Checkpoint does. Two trees of
// one size, and a later tree that is smaller, are reported as tampered even where a
// quorum is missing: the log's own signatures are enough to show them.
func Consistency(bundle, oldCheckpoint []byte, p *policy.Policy) (*Result, error) {
	u, err := consistency.Parse(bundle)
	if err != nil {
		return nil, unverifiable(ReasonMalformed, "%v", err)
	}
	before, err := Signatures(oldCheckpoint, p)
	if err != nil {
		return nil, prefix("earlier checkpoint", err)
	}
	after, err := Signatures(u.Checkpoint, p)
	if err != nil {
		return nil, addProof(prefix("later checkpoint", err), u.Hashes, bundle)
	}
	if before.Origin != after.Origin {
		return nil, unverifiable(ReasonOtherLog, "the earlier checkpoint is of %s, the later one of %s", before.Origin, after.Origin)
	}
	if err := checkOrder(before, after, u, bundle); err != nil {
		return nil, err
	}
	if err := before.CheckQuorum(p); err != nil {
		return nil, prefix("earlier checkpoint", err)
	}
	if err := after.CheckQuorum(p); err != nil {
		return nil, prefix("later checkpoint", err)
	}
	if u.OldSize != before.Size {
		return nil, unverifiable(ReasonOtherBundle, "the bundle proves from size %d, the earlier checkpoint is of size %d", u.OldSize, before.Size)
	}
	if err := verifyConsistency(before.Checkpoint, after.Checkpoint, asSlices(u.Hashes)); err != nil {
		return nil, conflict(KindConsistency, before, after, u, bundle,
			"the tree of %d entries is not shown to extend the tree of %d entries: %s", after.Size, before.Size, explain(err))
	}
	return &Result{Checkpoint: after, Earlier: before}, nil
}

// checkOrder finds what two signed checkpoints of one log show without a proof.
func checkOrder(before, after *Signed, u *consistency.Bundle, bundle []byte) error {
	switch {
	case before.Size == after.Size && before.Root != after.Root:
		return conflict(KindFork, before, after, u, bundle,
			"the log signed two trees of %d entries: root %x and root %x", before.Size, before.Root, after.Root)
	case after.Size < before.Size:
		return conflict(KindWentBack, before, after, u, bundle,
			"the later checkpoint has %d entries, the earlier one %d", after.Size, before.Size)
	}
	return nil
}

func conflict(kind Kind, before, after *Signed, u *consistency.Bundle, bundle []byte, format string, args ...any) error {
	return &TamperError{
		Kind: kind, Detail: fmt.Sprintf(format, args...), Origin: after.Origin,
		Old: before.Note, New: after.Note, Proof: u.Hashes, File: bundle,
	}
}

// verifyInclusion checks that leaf is the entry at index in the tree of size entries.
func verifyInclusion(index, size uint64, leaf []byte, hashes [][]byte, root [32]byte) error {
	hash := rfc6962.DefaultHasher.HashLeaf(leaf)
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, hash, hashes, root[:])
}

// verifyConsistency demands an empty proof where nothing is to be proven: of one tree
// with itself, and of any tree with the empty one. The library does too for now; what is
// not proven must not hang on it.
func verifyConsistency(before, after checkpoint.Checkpoint, hashes [][]byte) error {
	if (before.Size == 0 || before.Size == after.Size) && len(hashes) > 0 {
		return fmt.Errorf("proof of %d hashes where none is needed", len(hashes))
	}
	if before.Size == 0 {
		return nil // ParseNote holds that the root is the empty tree's.
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, before.Size, after.Size, hashes, before.Root[:], after.Root[:])
}

// explain puts the library's errors in words.
func explain(err error) string {
	if mismatch, ok := errors.AsType[proof.RootMismatchError](err); ok {
		return fmt.Sprintf("record and proof give the root %x, signed is %x", mismatch.CalculatedRoot, mismatch.ExpectedRoot)
	}
	return err.Error()
}

// asSlices returns the hashes as slices, for the library.
func asSlices(hashes [][32]byte) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
