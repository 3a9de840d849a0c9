package witness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// Adopt makes a witness go on whose store went back or whose counter file is lost, and is
// for an operator to decide on. The notes are checkpoints with this witness's own
// cosignature, the newest that anyone holds of each log: the state of their logs is moved
// up to them, without a proof, because the witness checked one when it cosigned. Then the
// counter file at counterPath is written anew. c.Counter is not used.
//
// What is adopted is as good as the notes: where a larger tree had been cosigned than any
// note shows, the witness may cosign another one of that size. A witness that cannot be
// sure of them is better given new keys.
func Adopt(ctx context.Context, c Config, counterPath string, notes ...[]byte) error {
	if err := adopt(ctx, c, counterPath, notes); err != nil {
		return fmt.Errorf("adopting the store: %w", err)
	}
	return nil
}

func adopt(ctx context.Context, c Config, counterPath string, notes [][]byte) error {
	c.Counter = &Counter{closed: true}
	w, err := load(ctx, c)
	if err != nil {
		return err
	}
	for i, note := range notes {
		if err := w.raise(ctx, note); err != nil {
			return fmt.Errorf("checkpoint %d: %w", i+1, err)
		}
	}
	counter := &Counter{path: counterPath, id: w.register.ID}
	return counter.write(w.revisions())
}

// raise moves the state of a log up to a checkpoint that the witness cosigned.
func (w *Witness) raise(ctx context.Context, note []byte) error {
	ck, sigs, err := checkpoint.ParseForeignNote(note)
	if err != nil {
		return err
	}
	t := w.find(ck.Origin)
	if t == nil || t.log.Load() == nil {
		return fmt.Errorf("%w: %s", ErrNotEnrolled, ck.Origin)
	}
	verified, err := t.log.Load().verify(&request{Checkpoint: ck, sigs: sigs})
	if err != nil {
		return err
	}
	at, err := w.ownTime(ck, sigs)
	if err != nil {
		return err
	}
	if at == 0 {
		return errors.New("no cosignature in it is of this witness's keys")
	}
	last := t.latest.Load()
	switch {
	case ck.Size == last.Size && last.note != nil && ck.Root != last.Root:
		return fmt.Errorf("%w: two trees of size %d were cosigned", fs.ErrInvalid, ck.Size)
	case ck.Size < last.Size:
		return nil
	}
	for _, s := range sigs {
		if w.isOwn(s) {
			verified = append(verified, s)
		}
	}
	next := &latest{
		Checkpoint: ck, note: checkpoint.AppendNote(nil, ck, verified),
		time: max(at, last.time), revision: last.revision + 1,
	}
	if err := w.write(ctx, last, next); err != nil {
		return err
	}
	t.latest.Store(next)
	return nil
}
