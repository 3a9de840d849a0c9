package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
)

// Tail brings back the entries that a store lost, from a source.
type Tail struct {
	// Origin names the log.
	Origin string
	// Policy holds the log's keys, of the past too, and what its checkpoints need.
	Policy *policy.Policy
	Store  storage.Store
	Ledger *ledger.Ledger
	Source *Source
	// Unpublished brings back what a copy of the store holds beyond all that was signed
	// too. The log has acknowledged these entries, but no signature covers them: whoever
	// could write to the copy could have put them there.
	Unpublished bool
	// Ask asks the policy's witnesses; nil when there are none.
	Ask AskFunc
	// Progress, when set, is called now and then.
	Progress func(stage string, done, total uint64)
}

// Recovered is what Tail.Run did.
type Recovered struct {
	// From and To are the sizes of the log before and after, Root is that after.
	From, To uint64
	Root     [32]byte
	// Signed is the size of the newest checkpoint of the source.
	Signed uint64
	// Erased is how many of the entries brought back have no payload any more.
	Erased uint64
	// Left is how many entries the source holds beyond To: acknowledged by the log, and
	// signed by nobody.
	Left uint64
	// Unasked says why too few witnesses could be asked; nil when enough were, or none
	// are to be. The log asks them again when it starts.
	Unasked error
}

// goal is the tree that is to be brought back, and who vouches for its root.
type goal struct {
	size uint64
	root [32]byte
	who  string
}

// Run brings back the tail. Before it writes, it checks all of the store and of the source
// as fsck does, and that both together have the roots of the source's checkpoint, of the
// store's own, of the signer's ledger, and of what witnesses show. It returns *ShortError when more was signed than
// the source has, *ForkError and *DamageError when the two are not one log, ErrOtherLog,
// ErrEnded, or why something could not be read or written.
func (t *Tail) Run(ctx context.Context) (*Recovered, error) {
	if next := t.Ledger.Successor(); next != "" {
		return nil, fmt.Errorf("%w: its successor is %s", ErrEnded, next)
	}
	head, err := t.Store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the head: %w", err)
	}
	cp, own, err := OpenNote(t.Source.Checkpoint, t.Origin, t.Policy.LogKeys(t.Origin))
	if err != nil {
		return nil, fmt.Errorf("reading the source's checkpoint: %w", err)
	}
	if cp.Size > t.Source.Size {
		return nil, damaged(head.Size, "source", "holds %d entries, its checkpoint states %d", t.Source.Size, cp.Size)
	}
	mine, err := t.ownCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	r := &Recovered{From: head.Size}
	witnessed, unasked, err := ask(ctx, t.Ask, cp, own)
	if err != nil {
		return nil, err
	}
	r.Unasked = unasked
	newest, err := t.newest(cp, witnessed)
	if err != nil {
		return nil, err
	}
	g := t.goal(newest)
	if err := t.checkEnough(max(g.size, head.Size), witnessed); err != nil {
		return nil, err
	}
	r.Signed, r.To = newest.Size, max(g.size, head.Size)
	if t.Source.Size > r.To {
		r.Left = t.Source.Size - r.To
	}
	j := &joined{Store: t.Store, src: t.Source}
	if j.plan, err = makePlan(ctx, t.Store, head, t.Source, g.size); err != nil {
		return nil, err
	}
	r.Root = j.plan.head().Root
	if err := t.check(ctx, j, []goal{
		g, {cp.Size, cp.Root, "the source's checkpoint"}, {newest.Size, newest.Root, "a witness's checkpoint"},
		{mine.Size, mine.Root, "the store's published checkpoint"},
		{t.Ledger.State().Size, t.Ledger.State().Root, "the signer's ledger"},
	}); err != nil {
		return nil, err
	}
	if err := t.eraseUnfinished(ctx, head); err != nil {
		return nil, err
	}
	if r.Erased, err = t.write(ctx, j); err != nil {
		return nil, err
	}
	return r, t.finish(ctx, cp, newest, mine)
}

// ownCheckpoint reads the store's published checkpoint.
func (t *Tail) ownCheckpoint(ctx context.Context) (checkpoint.Checkpoint, error) {
	note, err := t.Store.Cell(ctx, log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return checkpoint.Checkpoint{}, fmt.Errorf("reading the published checkpoint: %w", err)
	}
	cp, _, err := OpenNote(note, t.Origin, t.Policy.LogKeys(t.Origin))
	if err != nil {
		return cp, fmt.Errorf("reading the store's own checkpoint: %w", err)
	}
	return cp, nil
}

// newest returns the largest tree that is known to have been signed: that of the source's
// checkpoint, or of the one that a witness has shown.
func (t *Tail) newest(cp checkpoint.Checkpoint, w *Witnessed) (checkpoint.Checkpoint, error) {
	if w == nil || w.Note == nil {
		return cp, nil
	}
	shown, _, err := OpenNote(w.Note, t.Origin, t.Policy.LogKeys(t.Origin))
	if err != nil {
		return cp, fmt.Errorf("reading the checkpoint of the witness %s: %w", w.Witness, err)
	}
	if shown.Size > cp.Size && shown.Size <= t.Source.Size {
		return shown, nil
	}
	return cp, nil
}

// goal chooses how far to go: to the largest tree that is known to have been signed and
// that the source has, or with Unpublished to the end of a copy of the store.
func (t *Tail) goal(newest checkpoint.Checkpoint) goal {
	g := goal{newest.Size, newest.Root, "the newest checkpoint"}
	if st := t.Ledger.State(); st.Size > g.size && st.Size <= t.Source.Size {
		g = goal{st.Size, st.Root, "the signer's ledger"}
	}
	if h := t.Source.Head; t.Unpublished && h != nil && h.Size > g.size {
		g = goal{h.Size, h.Root, "the source's head"}
	}
	return g
}

// checkEnough sees that nobody knows a larger tree than the log will have.
func (t *Tail) checkEnough(have uint64, w *Witnessed) error {
	if st := t.Ledger.State(); st.Size > have {
		return &ShortError{Have: have, Need: st.Size, Who: "the signer's ledger"}
	}
	if w != nil && w.Size > have {
		return &ShortError{Have: have, Need: w.Size, Who: "the witness " + w.Witness}
	}
	return nil
}

// check verifies store and source together, and holds the trees that are known against
// them.
func (t *Tail) check(ctx context.Context, j *joined, trees []goal) error {
	prover := prove.New(j, 0)
	for _, known := range trees {
		root, err := prover.Root(ctx, known.size)
		if err != nil {
			return fmt.Errorf("reading the tree at size %d: %w", known.size, err)
		}
		if root == known.root {
			continue
		}
		at, differs, err := firstDifference(ctx, t.Store, t.Source, min(j.plan.start.Size, t.Source.Size))
		if err != nil {
			return err
		}
		if differs {
			return &ForkError{At: at}
		}
		return damaged(j.plan.start.Size, "tree", "has root %x at size %d, %s has %x", root, known.size, known.who, known.root)
	}
	if len(j.plan.ends) == 0 {
		return nil
	}
	opts := fsck.Options{Origin: t.Origin, Keys: t.Policy.LogKeys(t.Origin), CheckpointCell: log.CheckpointCell}
	if t.Progress != nil {
		opts.Progress = func(done, total uint64) { t.Progress("checking", done, total) }
	}
	report, err := fsck.Check(ctx, j, opts)
	if err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		return &DamageError{Start: j.plan.start.Size, Problems: report.Problems, Unlisted: report.Unlisted}
	}
	return nil
}

// write commits the source's entries, batch after batch, each with the root that was
// checked: a source that changes while it is read is noticed.
func (t *Tail) write(ctx context.Context, j *joined) (erased uint64, err error) {
	if len(j.plan.ends) == 0 {
		return 0, nil
	}
	tree, err := newTree(ctx, t.Store, j.plan.start)
	if err != nil {
		return 0, err
	}
	head := j.plan.start
	for _, end := range j.plan.ends {
		b, err := readBatch(ctx, t.Source, j.plan.start.Size, head, end.Size)
		if err != nil {
			return erased, err
		}
		got, err := b.extend(tree)
		if err != nil {
			return erased, err
		}
		if !got.Equal(end) {
			return erased, damaged(j.plan.start.Size, "source", "changed while it was read: entries %d to %d are others", head.Size, end.Size)
		}
		if err := commit(ctx, t.Store, tree, b, end); err != nil {
			return erased, err
		}
		erased += uint64(len(b.erased))
		head = end
		if t.Progress != nil {
			t.Progress("writing", head.Size-j.plan.start.Size, j.plan.head().Size-j.plan.start.Size)
		}
	}
	return erased, nil
}

// commit writes a batch by which a tree was extended to a head, and erases what the source
// has erased.
func commit(ctx context.Context, s storage.Store, t *tree, b *batch, end storage.Head) error {
	err := s.Commit(ctx, &storage.Batch{Old: b.old, Entries: b.entries, Nodes: t.nodes, New: end})
	if err != nil {
		return fmt.Errorf("writing entries %d to %d: %w", b.old.Size, end.Size, err)
	}
	t.nodes = t.nodes[:0]
	return erase(ctx, s, b.erased)
}

func erase(ctx context.Context, s storage.Store, indexes []uint64) error {
	if len(indexes) == 0 {
		return nil
	}
	if err := s.ErasePayloads(ctx, indexes); err != nil {
		return fmt.Errorf("erasing payloads that the source has erased: %w", err)
	}
	return nil
}

// eraseUnfinished erases what an earlier run was cut off from erasing: entries of its last
// batch that have an empty payload, as no record is.
func (t *Tail) eraseUnfinished(ctx context.Context, head storage.Head) error {
	var unfinished []uint64
	err := t.Store.Payloads(ctx, head.Size-min(head.Size, batchSize), head.Size, func(i uint64, payload []byte) error {
		if payload != nil && len(payload) == 0 {
			unfinished = append(unfinished, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the last payloads: %w", err)
	}
	return erase(ctx, t.Store, unfinished)
}

// finish does what comes after the entries are there: the ledger, and the published
// checkpoint, unless the source's needs more witnesses than have cosigned it: then the log
// publishes its own.
func (t *Tail) finish(ctx context.Context, cp, newest, mine checkpoint.Checkpoint) error {
	if st := t.Ledger.State(); newest.Size > st.Size {
		if err := t.Ledger.Advance(ledger.State{Size: newest.Size, Root: newest.Root}); err != nil {
			return err
		}
	}
	if cp.Size <= mine.Size || !cosigned(t.Source.Checkpoint, cp, t.Policy) {
		return nil
	}
	old, err := t.Store.Cell(ctx, log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	if err := t.Store.SwapCell(ctx, log.CheckpointCell, old, t.Source.Checkpoint); err != nil {
		return fmt.Errorf("storing the checkpoint: %w", err)
	}
	return nil
}

// cosigned says whether the witnesses that the policy demands have cosigned a checkpoint.
func cosigned(note []byte, cp checkpoint.Checkpoint, p *policy.Policy) bool {
	_, sigs, err := checkpoint.ParseNote(note)
	return err == nil && p.Cosigned(cp, sigs)
}
