package view

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// batchSize is how many entries are read from the log at once; queries see them together.
const batchSize = 1024

// gatherTime is how long the view lets entries gather before it reads them, when nobody waits
// for them: to read the few of one checkpoint costs several times as much an entry as to read a
// thousand.
const gatherTime = 20 * time.Millisecond

// Run reads the log from where the view stands: first what is published already, then
// what comes. It returns nil when ctx ends, and else why it cannot go on.
func (v *View) Run(ctx context.Context) error {
	for {
		err := v.tail(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrDamaged):
			return fmt.Errorf("following the log: %w", err)
		}
		if err := v.rebuild(ctx); err != nil {
			return fmt.Errorf("rebuilding the view: %w", err)
		}
	}
}

// tail follows the log until an error, which is ErrDamaged when a query met damage.
func (v *View) tail(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-v.damaged:
			cancel(ErrDamaged)
		case <-ctx.Done():
		}
	}()
	var in intake
	gather := time.NewTimer(0)
	defer gather.Stop()
	for {
		select {
		case <-gather.C:
		case <-v.wanted:
		case <-ctx.Done():
			return causeOr(ctx, ctx.Err())
		}
		gather.Reset(v.gatherTime)
		published, err := v.src.FollowPublished(ctx, v.Size())
		if err != nil {
			return causeOr(ctx, err)
		}
		v.mu.Lock()
		v.published = published
		v.mu.Unlock()
		for v.Size() < published {
			if err := v.advance(ctx, &in, published); err != nil {
				return causeOr(ctx, err)
			}
		}
	}
}

// causeOr is why ctx ended, or err while it has not.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// advance reads one batch, at most to the end of the segment, and files a full segment.
func (v *View) advance(ctx context.Context, in *intake, published uint64) error {
	start := v.Size()
	end := min(start+batchSize, published, v.live.first()+segmentSize)
	if err := in.read(ctx, v.src, start, end); err != nil {
		return fmt.Errorf("reading entries %d to %d: %w", start, end, err)
	}
	v.addRows(in)
	for _, u := range in.unreadable {
		v.logger.WarnContext(ctx, "entry cannot be read and is left out of lists and histories",
			slog.Uint64("index", u.index), slog.Any("error", u.err))
	}
	if v.live.entries == segmentSize {
		if err := v.file(ctx); err != nil {
			return fmt.Errorf("writing segment %d: %w", v.live.number, err)
		}
	}
	v.mu.Lock()
	close(v.grown)
	v.grown = make(chan struct{})
	v.mu.Unlock()
	return nil
}

// addRows adds a batch to the live segment.
func (v *View) addRows(in *intake) {
	v.mu.Lock()
	defer v.mu.Unlock()
	begin := 0
	for _, r := range in.rows {
		switch r.state {
		case rowIndexed:
			v.live.add(r.time, in.terms[begin:r.end])
		case rowErased:
			v.live.skip()
			v.counts.erased++
		case rowUnreadable:
			v.live.skip()
			v.counts.unreadable++
		}
		begin = r.end
	}
}

// file writes the full live segment and begins the next. Only Run changes live, so it
// may be read without mu.
func (v *View) file(ctx context.Context) error {
	cur := cursor{size: v.live.first() + segmentSize, erased: v.counts.erased, unreadable: v.counts.unreadable}
	root, err := v.src.RootAt(ctx, cur.size)
	if err != nil {
		return err
	}
	cur.root = root
	b, err := v.filer.batch(v.db, v.live)
	if err != nil {
		return err
	}
	if err := b.Set([]byte{rowCursor}, cur.append(nil), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	v.nextSegment()
	v.logger.DebugContext(ctx, "segment written", slog.Uint64("size", cur.size))
	return nil
}

// nextSegment makes the live segment an empty one, in the same memory unless a query looks at
// it: none that begins later does.
func (v *View) nextSegment() {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.live.number + 1
	if v.live.readers.Load() > 0 {
		v.live = newSegment(next)
		return
	}
	v.live.reset(next)
}

// rebuild drops all rows; Run then reads the log from its beginning.
func (v *View) rebuild(ctx context.Context) error {
	v.logger.WarnContext(ctx, "view is damaged and is rebuilt from the log", slog.String("dir", v.dir))
	v.dbMu.Lock()
	defer v.dbMu.Unlock()
	if err := v.db.Close(); err != nil {
		v.logger.WarnContext(ctx, "closing the damaged view", slog.Any("error", err))
	}
	db, err := v.openEmpty()
	v.db = db
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live = newSegment(0)
	v.counts = counts{rebuilds: v.counts.rebuilds + 1}
	return nil
}

// intake reads payloads and turns them into rows, as they come: a payload is not copied. Its
// room is used again for the next batch.
type intake struct {
	decoder decoder
	rows    []row
	terms   []term
	// unreadable says why rows are.
	unreadable []unreadableError
}

type unreadableError struct {
	index uint64
	err   error
}

func (in *intake) clear() {
	in.rows, in.terms, in.unreadable = in.rows[:0], in.terms[:0], in.unreadable[:0]
}

func (in *intake) read(ctx context.Context, src Source, start, end uint64) error {
	in.clear()
	err := src.Payloads(ctx, start, end, func(index uint64, payload []byte) error {
		in.add(index, payload)
		return nil
	})
	if err != nil {
		return err
	}
	if n := len(in.rows); uint64(n) != end-start {
		return fmt.Errorf("the log returned %d payloads instead of %d", n, end-start)
	}
	return nil
}

// add makes a row of a payload, nil when erased.
func (in *intake) add(index uint64, payload []byte) {
	r := row{state: rowErased}
	if payload != nil {
		var err error
		if r.time, in.terms, err = in.decoder.read(payload, in.terms); err != nil {
			r.state = rowUnreadable
			in.unreadable = append(in.unreadable, unreadableError{index, err})
		} else {
			r.state = rowIndexed
		}
	}
	r.end = len(in.terms)
	in.rows = append(in.rows, r)
}
