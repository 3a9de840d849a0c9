// Package recovery brings back a log whose store was set back, as by restoring a backup:
// the signer's ledger or a witness knows a larger tree than the store holds, and signing
// in between would fork the log.
//
// There are two ways out. Tail fetches the missing entries from whoever has them, a copy of
// the store or a mirror with payloads, and writes them where they were, byte for byte.
// Where they are lost for good, Succession ends the log with a final statement (package
// statement) and makes the log that continues it: the old one is sealed and signs nothing
// more, its receipts and checkpoints stay valid under its own policy, and producers send
// the events of the lost part again, to the successor.
//
// Leaves alone bring nothing back. A log without the records of its tail would not know
// which event ids it has, nor the last number in the history of a key, and would give out
// both again: promises 3 and 6 would break where nobody sees it. So a mirror without
// payloads is refused, and the successor is the way out.
//
// The successor is tied to its predecessor by the statement alone, which is shown under
// /predecessor and in GetLogInfo. No entry of the successor commits to it: the old log's keys
// sign the successor's keys, which is the direction that a reader needs, and a record that is
// no key event would have to be understood by every reader of records. A log that has two
// final statements has convicted itself.
//
// A payload that was erased after the backup was made is there again in the part that
// comes from the backup; whoever has erased it must erase it anew. In the part that comes
// from the source, what is erased there stays erased.
//
// Both are for one goroutine, on a stopped log whose store and ledger the caller has
// opened. What they report as done is durable; after a crash, or an error, running them
// again goes on where it ended. Sources are not trusted: nothing is written before all of it
// has been verified against the log's signatures, with the one exception that Tail names.
package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness/feed"
)

// Errors, to be matched with errors.Is.
var (
	// ErrEnded means that the log is sealed: it has a successor.
	ErrEnded = errors.New("recovery: the log has ended")
	// ErrNoPayloads means that a source has the leaves of entries only.
	ErrNoPayloads = errors.New("recovery: the source does not hold the payloads")
	// ErrOtherLog means that a checkpoint is not one of this log.
	ErrOtherLog = errors.New("recovery: not a checkpoint of this log")
	// ErrNothingLost means that the store holds all that is known to have been signed.
	ErrNothingLost = errors.New("recovery: the store holds all that is known to have been signed")
)

// ShortError means that more has been signed than can be brought back.
type ShortError struct {
	// Have is the size that can be brought back, Need what Who knows of.
	Have, Need uint64
	Who        string
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("%s knows a tree of %d entries, with the source the log has %d: entries %d to %d are still missing",
		e.Who, e.Need, e.Have, e.Have, e.Need-1)
}

// ForkError means that store and source are two histories of the log.
type ForkError struct {
	// At is the first entry that differs.
	At uint64
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("the store and the source are two histories of this log: entry %d is another", e.At)
}

// DamageError means that store and source together are not the log that was signed.
type DamageError struct {
	// Start is the first entry that comes from the source.
	Start    uint64
	Problems []fsck.Problem
	// Unlisted is how many problems there are beyond those listed.
	Unlisted uint64
}

func (e *DamageError) Error() string {
	var b strings.Builder
	if e.Start == 0 {
		b.WriteString("the source is not the log that was signed: ")
	} else {
		fmt.Fprintf(&b, "the store up to entry %d and the source from there on are not the log that was signed: ", e.Start)
	}
	for i, p := range e.Problems {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", uint64(len(e.Problems)-i)+e.Unlisted)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

func damaged(start uint64, where, format string, args ...any) error {
	return &DamageError{Start: start, Problems: []fsck.Problem{{Where: where, What: fmt.Sprintf(format, args...)}}}
}

// Witnessed is what a witness has cosigned beyond what it was asked for.
type Witnessed struct {
	// Witness is its name.
	Witness string
	Size    uint64
	// Note is the checkpoint that it showed as proof, nil when it showed none.
	Note []byte
}

// AskFunc asks witnesses for the size they cosigned last. Note is a checkpoint of this log
// with the log's own signatures only. It returns nil when none of them is beyond cp.Size. A
// *feed.QuorumError means that too few of them answered; any other error ends the recovery.
type AskFunc func(ctx context.Context, cp checkpoint.Checkpoint, note []byte) (*Witnessed, error)

// Witnesses returns what asks the witnesses of a policy; nil when it has none. The caller
// sets Origin and Policy, and what else it wants of Timeout, PerDay, Logger and Transport.
func Witnesses(c feed.Config) AskFunc {
	if len(c.Policy.Witnesses) == 0 {
		return nil
	}
	c.Tree = noTree{}
	return func(ctx context.Context, cp checkpoint.Checkpoint, note []byte) (*Witnessed, error) {
		f, err := feed.New(c)
		if err != nil {
			return nil, fmt.Errorf("reading the policy's witnesses: %w", err)
		}
		defer f.Close()
		err = f.Start(ctx, cp, note)
		if ahead, ok := errors.AsType[*feed.AheadError](err); ok {
			return &Witnessed{Witness: ahead.Witness, Size: ahead.Size, Note: ahead.Note}, nil
		}
		return nil, err
	}
}

// noTree proves nothing: the question for a size needs no proof.
type noTree struct{}

func (noTree) Consistency(context.Context, uint64, uint64) ([][32]byte, error) {
	return nil, errors.New("recovery: no proofs while the log is not whole")
}

// ask asks, and tells apart that too few answered.
func ask(ctx context.Context, do AskFunc, cp checkpoint.Checkpoint, note []byte) (w *Witnessed, unasked, err error) {
	if do == nil || note == nil {
		return nil, nil, nil
	}
	w, err = do(ctx, cp, note)
	if few, ok := errors.AsType[*feed.QuorumError](err); ok {
		return nil, few, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("asking the witnesses: %w", err)
	}
	return w, nil, nil
}

// OpenNote verifies that a note is a checkpoint of the log: its origin, a good signature of
// one of its keys, and no bad one. Own is the note with the log's signatures alone. No note
// at all stands for the empty tree.
func OpenNote(note []byte, origin string, keys []checkpoint.VerifierKey) (cp checkpoint.Checkpoint, own []byte, err error) {
	if note == nil {
		return checkpoint.Checkpoint{Origin: origin, Root: checkpoint.EmptyRoot()}, nil, nil
	}
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return cp, nil, fmt.Errorf("%w: %w", ErrOtherLog, err)
	}
	if cp.Origin != origin {
		return cp, nil, fmt.Errorf("%w: it is of %s, this log is %s", ErrOtherLog, cp.Origin, origin)
	}
	var good []checkpoint.Signature
	for _, s := range sigs {
		for _, k := range keys {
			if !k.Made(s) {
				continue
			}
			if _, err := k.Verify(cp, s); err != nil {
				return cp, nil, fmt.Errorf("%w: its %v signature: %w", ErrOtherLog, k.Type(), err)
			}
			good = append(good, s)
		}
	}
	if len(good) == 0 {
		return cp, nil, fmt.Errorf("%w: none of this log's keys signed it", ErrOtherLog)
	}
	return cp, checkpoint.AppendNote(nil, cp, good), nil
}

// Entries is who has the entries of a log, from 0. Its methods are those of storage.Store;
// a payload is nil only where it was erased, and what the source never had is an error.
type Entries interface {
	Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error
	Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error
}

// Source is where the missing entries come from.
type Source struct {
	Entries
	// Size is how many entries it has.
	Size uint64
	// Checkpoint is its newest checkpoint; nil when it has none.
	Checkpoint []byte
	// Head is the head of a copy of the log's own store, nil for other sources.
	Head *storage.Head
}

// firstDifference compares leaves of the store and of the source, both from 0.
func firstDifference(ctx context.Context, s storage.Store, src *Source, size uint64) (at uint64, found bool, err error) {
	for start := uint64(0); start < size; start += batchSize {
		end := min(start+batchSize, size)
		ours := make([][]byte, 0, batchSize)
		err := s.Leaves(ctx, start, end, func(_ uint64, leaf []byte) error {
			ours = append(ours, bytes.Clone(leaf))
			return nil
		})
		if err != nil {
			return 0, false, fmt.Errorf("reading the store: %w", err)
		}
		err = src.Leaves(ctx, start, end, func(i uint64, leaf []byte) error {
			if !bytes.Equal(leaf, ours[i-start]) {
				at, found = i, true
				return errDiffers
			}
			return nil
		})
		if found {
			return at, true, nil
		}
		if err != nil {
			return 0, false, fmt.Errorf("reading the source: %w", err)
		}
	}
	return 0, false, nil
}

var errDiffers = errors.New("leaf differs")

// FromStore makes a source of a copy of the log's own store, opened for reading.
func FromStore(ctx context.Context, s storage.Store) (*Source, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the source's head: %w", err)
	}
	note, err := s.Cell(ctx, log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the source's checkpoint: %w", err)
	}
	return &Source{Entries: s, Size: head.Size, Checkpoint: note, Head: &head}, nil
}
