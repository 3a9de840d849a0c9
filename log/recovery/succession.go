package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/statement"
	"github.com/keytrail/keytrail/storage"
)

// Succession ends a log whose tail is lost for good, and makes the log that continues it.
type Succession struct {
	// Old is the log that ends; Store and Ledger are its own. Nothing is written to the
	// store.
	Old    *logdir.Dir
	Store  storage.Store
	Ledger *ledger.Ledger
	// Dir is where the successor is made; it must not exist. Dir with ".new" behind it is
	// used on the way.
	Dir string
	// LastCheckpoint is the newest checkpoint of the log that anyone holds; may be nil.
	LastCheckpoint []byte
	// Ask asks the policy's witnesses; nil when there are none.
	Ask AskFunc
	// Now is the time for the statement.
	Now time.Time
	// OnFatal is that of pebblestore.Options, for the successor's store.
	OnFatal func(error)
}

// Ended is what Succession.Run did.
type Ended struct {
	statement.Statement
	// Unasked says why too few witnesses could be asked; nil when enough were, or none
	// are to be.
	Unasked error
}

// Run makes the successor, seals the log's ledger and writes the final statement into both
// directories: FinalStatement in the old one, PredecessorStatement in the new one. The
// statement names the largest tree that the log is known to have signed, by its ledger, the
// checkpoint in its store, LastCheckpoint and the witnesses, and of these trees the largest
// that the store still has.
//
// The order is: the successor's directory beside its place, with the statement; the seal;
// the statement for the old directory; the successor's place. Before the seal nothing has
// happened, and after it the log never signs again: run once more, Run does what is left.
//
// It returns ErrNothingLost when the store has all that was signed, and a *DamageError when
// the store contradicts what was signed.
func (s *Succession) Run(ctx context.Context) (*Ended, error) {
	next := statement.Next(s.Old.Config.Origin)
	if sealed := s.Ledger.Successor(); sealed != "" {
		return s.complete(sealed)
	}
	if err := s.checkPlace(); err != nil {
		return nil, err
	}
	signed, kept, unasked, err := s.trees(ctx)
	if err != nil {
		return nil, err
	}
	begun, err := s.begun(signed, kept)
	if err != nil {
		return nil, err
	}
	if begun == nil {
		if err := s.begin(next, signed, kept); err != nil {
			return nil, err
		}
	}
	if err := s.Ledger.Seal(next); err != nil {
		return nil, err
	}
	e, err := s.complete(next)
	if err != nil {
		return nil, err
	}
	e.Unasked = unasked
	return e, nil
}

// begin makes the successor beside its place, and the statement in it.
func (s *Succession) begin(next string, signed, kept statement.Tree) error {
	successor, err := makeSuccessor(s.Old, s.building(), next, s.OnFatal)
	if err != nil {
		return err
	}
	st := statement.Statement{
		Origin: s.Old.Config.Origin, Signed: signed, Kept: kept,
		Successor: next, Keys: successor.Keys(), Time: s.Now.UTC().Truncate(time.Second),
	}
	note, err := st.Sign(s.Old.Signers...)
	if err != nil {
		return err
	}
	return writeFile(s.building(), PredecessorStatement, note)
}

// trees returns the largest tree that the log is known to have signed, and the largest such
// tree that the store has.
func (s *Succession) trees(ctx context.Context) (signed, kept statement.Tree, unasked, err error) {
	head, err := s.Store.Head(ctx)
	if err != nil {
		return signed, kept, nil, fmt.Errorf("loading the head: %w", err)
	}
	known, unasked, err := s.known(ctx)
	if err != nil {
		return signed, kept, nil, err
	}
	prover := prove.New(s.Store, 0)
	kept.Root = checkpoint.EmptyRoot()
	signed = kept
	for _, g := range known {
		if g.size == signed.Size && g.root != signed.Root {
			return signed, kept, nil, damaged(head.Size, "tree", "at size %d has root %x by %s and root %x by others: the log has signed two histories", g.size, g.root, g.who, signed.Root)
		}
		if g.size > signed.Size {
			signed = statement.Tree{Size: g.size, Root: g.root}
		}
		if g.size > head.Size {
			continue
		}
		root, err := prover.Root(ctx, g.size)
		if err != nil {
			return signed, kept, nil, fmt.Errorf("reading the tree at size %d: %w", g.size, err)
		}
		if root != g.root {
			return signed, kept, nil, damaged(head.Size, "tree", "has root %x at size %d, %s has %x", root, g.size, g.who, g.root)
		}
		if g.size > kept.Size {
			kept = statement.Tree{Size: g.size, Root: g.root}
		}
	}
	if signed.Size <= head.Size {
		return signed, kept, nil, fmt.Errorf("%w: %d entries, and it has %d", ErrNothingLost, signed.Size, head.Size)
	}
	return signed, kept, unasked, nil
}

// known returns the trees that the log is known to have signed.
func (s *Succession) known(ctx context.Context) (known []goal, unasked, err error) {
	p, err := policy.Parse([]byte(s.Old.Policy))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the log's policy: %w", err)
	}
	origin := s.Old.Config.Origin
	keys := p.LogKeys(origin)
	var newest checkpoint.Checkpoint
	var newestNote []byte
	add := func(note []byte, who string) error {
		cp, own, err := OpenNote(note, origin, keys)
		if err != nil {
			return fmt.Errorf("reading %s: %w", who, err)
		}
		known = append(known, goal{cp.Size, cp.Root, who})
		if own != nil && (newestNote == nil || cp.Size > newest.Size) {
			newest, newestNote = cp, own
		}
		return nil
	}
	st := s.Ledger.State()
	known = append(known, goal{st.Size, st.Root, "the signer's ledger"})
	cell, err := s.Store.Cell(ctx, log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading the published checkpoint: %w", err)
	}
	if err := errors.Join(add(cell, "the store's published checkpoint"), add(s.LastCheckpoint, "the last checkpoint")); err != nil {
		return nil, nil, err
	}
	w, unasked, err := ask(ctx, s.Ask, newest, newestNote)
	switch {
	case err != nil:
		return nil, nil, err
	case w != nil && w.Note != nil:
		if err := add(w.Note, "the checkpoint of the witness "+w.Witness); err != nil {
			return nil, nil, err
		}
	case w != nil && w.Size > max(newest.Size, st.Size):
		return nil, nil, &ShortError{Have: max(newest.Size, st.Size), Need: w.Size, Who: "the witness " + w.Witness}
	}
	return known, unasked, nil
}
