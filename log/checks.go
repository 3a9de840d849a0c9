package log

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness/feed"
)

// RefusalError means that the log will not sign because that could give the world a
// second history. Nothing is damaged by the refusal itself.
type RefusalError struct {
	// Reason says what contradicts what.
	Reason string
	// Remedy says what an operator can do.
	Remedy string
}

func (e *RefusalError) Error() string {
	return "refusing to sign: " + e.Reason + "; " + e.Remedy
}

// checkLedger compares the signer's ledger, the published checkpoint and the store.
func (p *publisher) checkLedger(ctx context.Context, head storage.Head) error {
	signed := p.log.cfg.Ledger.State()
	if signed.Size > head.Size {
		return &RefusalError{
			Reason: fmt.Sprintf("the signer's ledger has signed a tree of %d entries, but the store holds only %d: the store was set back, as by restoring a backup", signed.Size, head.Size),
			Remedy: "bring back the newer store, or fetch what is missing from a copy (keytrail recover); signing this one would fork the log",
		}
	}
	if err := p.sameTree(ctx, signed, head, "the signer's ledger has signed"); err != nil {
		return err
	}
	return p.loadCheckpoint(ctx, signed, head)
}

// sameTree refuses when the store's tree does not contain st.
func (p *publisher) sameTree(ctx context.Context, st ledger.State, head storage.Head, who string) error {
	root, err := p.prover.Root(ctx, st.Size)
	if err != nil {
		return fmt.Errorf("reading the tree at the size that was signed last: %w", err)
	}
	if root == st.Root {
		return nil
	}
	return &RefusalError{
		Reason: fmt.Sprintf("%s root %x for size %d, the store's tree of %d entries has %x there", who, st.Root, st.Size, head.Size, root),
		Remedy: "run keytrail fsck on the store; bring back a copy of the store that contains what was signed",
	}
}

// loadCheckpoint reads the published checkpoint and holds it against the ledger.
func (p *publisher) loadCheckpoint(ctx context.Context, signed ledger.State, head storage.Head) error {
	note, err := p.log.store.Cell(ctx, CheckpointCell)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	cp, err := p.verifyOwn(note)
	if err != nil {
		return &RefusalError{
			Reason: fmt.Sprintf("the published checkpoint in the store is not one of this log: %v (the store holds %d entries, the signer's ledger has signed %d)", err, head.Size, signed.Size),
			Remedy: "start the log with the keys and the origin that it was made with; if they are right, run keytrail fsck and bring back a copy of the store that is not damaged",
		}
	}
	if cp.Size > signed.Size {
		return &RefusalError{
			Reason: fmt.Sprintf("a checkpoint of %d entries is published, but the signer's ledger knows only of %d: the ledger was set back or replaced", cp.Size, signed.Size),
			Remedy: "bring back the ledger; if it is lost, give it the newest checkpoint that anyone holds: keytrail ledger adopt --dir DIR CHECKPOINT",
		}
	}
	if err := p.sameTree(ctx, ledger.State{Size: cp.Size, Root: cp.Root}, head, "the published checkpoint states"); err != nil {
		return err
	}
	p.cell, p.past = note, cp.Size
	if p.covered(cp, note) {
		p.latest = Published{Checkpoint: cp, Note: note, At: time.Now()}
		p.newest, p.resign = p.latest, !p.signedByAll(note)
	}
	return nil
}

// verifyOwn checks that a note is a checkpoint of this log with a good signature of each
// of its keys that signed it.
func (p *publisher) verifyOwn(note []byte) (checkpoint.Checkpoint, error) {
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return cp, err
	}
	if cp.Origin != p.log.cfg.Origin {
		return cp, fmt.Errorf("checkpoint is of %q, this log is %q", cp.Origin, p.log.cfg.Origin)
	}
	good := 0
	for _, key := range p.log.VerifierKeys() {
		for _, s := range sigs {
			if !key.Made(s) {
				continue
			}
			if _, err := key.Verify(cp, s); err != nil {
				return cp, fmt.Errorf("signature of %s: %w", key.Type(), err)
			}
			good++
		}
	}
	if good == 0 {
		return cp, errors.New("checkpoint is not signed by any key of this log")
	}
	return cp, nil
}

// checkExtends proves from stored nodes that the head extends what was signed last.
func (p *publisher) checkExtends(ctx context.Context, head storage.Head) error {
	signed := p.log.cfg.Ledger.State()
	refuse := func(format string, args ...any) error {
		return &RefusalError{
			Reason: fmt.Sprintf(format, args...),
			Remedy: "run keytrail fsck on the store; the store's bytes have changed since they were signed",
		}
	}
	if head.Size < signed.Size {
		return refuse("the store's head has %d entries, %d have been signed", head.Size, signed.Size)
	}
	if signed.Size == 0 || signed.Size == head.Size {
		// No proof exists for these: compare the root that the nodes give.
		root, err := p.prover.Root(ctx, head.Size)
		if err != nil {
			return fmt.Errorf("reading the tree: %w", err)
		}
		if root != head.Root || (signed.Size == head.Size && root != signed.Root) {
			return refuse("stored nodes give root %x for size %d, head has %x, signed was size %d root %x",
				root, head.Size, head.Root, signed.Size, signed.Root)
		}
		return nil
	}
	hashes, err := p.prover.Consistency(ctx, signed.Size, head.Size)
	if err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	path := make([][]byte, len(hashes))
	for i := range hashes {
		path[i] = hashes[i][:]
	}
	err = proof.VerifyConsistency(rfc6962.DefaultHasher, signed.Size, head.Size, path, signed.Root[:], head.Root[:])
	if err != nil { // says no more than that, over several lines
		return refuse("stored nodes do not prove that the tree of %d entries with root %x extends the signed one of %d entries with root %x",
			head.Size, head.Root, signed.Size, signed.Root)
	}
	p.proof.keep(signed.Size, head.Size, hashes)
	return nil
}

// signedByAll says whether a note of this log has a signature of each of its keys. One from
// before a key was added does not: the key that it replaces cannot be retired until one has.
func (p *publisher) signedByAll(note []byte) bool {
	_, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return false
	}
	for _, key := range p.log.VerifierKeys() {
		if !slices.ContainsFunc(sigs, key.Made) {
			return false
		}
	}
	return true
}

// covered says whether a note of this log has the cosignatures that the policy demands.
// A note that was published under an earlier policy may not.
func (p *publisher) covered(cp checkpoint.Checkpoint, note []byte) bool {
	_, sigs, err := checkpoint.ParseNote(note)
	return err == nil && p.log.cfg.Policy.Cosigned(cp, sigs)
}

// checkWitnesses asks the witnesses which size they cosigned last. What it shows them is
// the tree that the ledger holds: signed, or about to be. A witness that has more has seen
// this log sign more than it remembers.
func (p *publisher) checkWitnesses(ctx context.Context) error {
	if p.feed == nil || p.asked {
		return nil
	}
	signed := p.log.cfg.Ledger.State()
	cp := checkpoint.Checkpoint{Origin: p.log.cfg.Origin, Size: signed.Size, Root: signed.Root}
	note, err := checkpoint.SignNote(cp, time.Now(), p.log.cfg.Signers...)
	if err != nil {
		return fmt.Errorf("asking the witnesses: signing: %w", err)
	}
	err = p.feed.Start(ctx, cp, note)
	if ahead, ok := errors.AsType[*feed.AheadError](err); ok {
		return aheadRefusal(ahead)
	}
	p.asked = err == nil
	return err
}

// aheadRefusal explains what a witness knows and this log has forgotten.
func aheadRefusal(e *feed.AheadError) error {
	proven := "the witness does not show which; if it cannot be right, take it out of the policy"
	if e.Note != nil {
		proven = "it shows that checkpoint with this log's own signature"
	}
	return &RefusalError{
		Reason: fmt.Sprintf("witness %s (%s) has cosigned a tree of %d entries, this log knows of %d signed: store and signer's ledger were set back, as by restoring a backup (%s)",
			e.Witness, e.URL, e.Size, e.Ours, proven),
		Remedy: "bring back the newer store and ledger; or fetch what is missing from a mirror or another copy, or start the successor log: keytrail recover -h",
	}
}

// conflictRefusal explains a second history that a witness has shown.
func conflictRefusal(e *feed.ConflictError) error {
	return &RefusalError{
		Reason: fmt.Sprintf("witness %s shows a checkpoint of %d entries with root %x that this log's own keys have signed and that is not of this history: another process signs with the same keys, or store and ledger were set back",
			e.Witness, e.Size, e.Root),
		Remedy: "find the other process or the newer store before anything is signed again: keytrail recover -h",
	}
}
