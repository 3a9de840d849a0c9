package view

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"
)

// batchSize is how many entries are read from the log at once; queries see them together.
const batchSize = 1024

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
	for {
		published, err := v.src.WaitPublished(ctx, v.Size())
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
	v.mu.Lock()
	for i := range in.rows {
		v.live.add(&in.rows[i])
		switch in.rows[i].state {
		case rowIndexed:
		case rowErased:
			v.counts.erased++
		case rowUnreadable:
			v.counts.unreadable++
		}
	}
	full := v.live.entries == segmentSize
	v.mu.Unlock()
	for i, err := range in.errs {
		if err != nil {
			v.logger.WarnContext(ctx, "entry cannot be read and is left out of lists and histories",
				slog.Uint64("index", start+uint64(i)), slog.Any("error", err))
		}
	}
	if full {
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

// file writes the full live segment and begins the next. Only Run changes live, so it
// may be read without mu.
func (v *View) file(ctx context.Context) error {
	cur := cursor{size: v.live.first() + segmentSize, erased: v.counts.erased, unreadable: v.counts.unreadable}
	var err error
	if cur.root, err = v.src.RootAt(ctx, cur.size); err != nil {
		return err
	}
	b := v.db.NewBatch()
	if err := v.live.write(b); err != nil {
		return err
	}
	if err := b.Set([]byte{rowCursor}, cur.append(nil), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	next := newSegment(v.live.number+1, v.live)
	v.mu.Lock()
	v.live = next
	v.mu.Unlock()
	v.logger.DebugContext(ctx, "segment written", slog.Uint64("size", cur.size))
	return nil
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
	v.live = newSegment(0, nil)
	v.counts = counts{rebuilds: v.counts.rebuilds + 1}
	return nil
}

// intake reads payloads and turns them into rows, on all processors. It is reused from
// batch to batch.
type intake struct {
	bytes []byte
	// ends are where the payloads end in bytes, -1 for an erased one.
	ends []int
	rows []row
	// errs say which rows are unreadable, and why.
	errs []error
}

func (in *intake) read(ctx context.Context, src Source, start, end uint64) error {
	in.bytes, in.ends = in.bytes[:0], in.ends[:0]
	err := src.Payloads(ctx, start, end, func(_ uint64, payload []byte) error {
		if payload == nil {
			in.ends = append(in.ends, -1)
			return nil
		}
		in.bytes = append(in.bytes, payload...)
		in.ends = append(in.ends, len(in.bytes))
		return nil
	})
	if err != nil {
		return err
	}
	n := len(in.ends)
	if uint64(n) != end-start {
		return fmt.Errorf("the log returned %d payloads instead of %d", n, end-start)
	}
	for len(in.rows) < n || len(in.errs) < n {
		in.rows, in.errs = append(in.rows, row{}), append(in.errs, nil)
	}
	in.rows, in.errs = in.rows[:n], in.errs[:n]
	in.decode()
	return nil
}

// decode fills rows and errs.
func (in *intake) decode() {
	payloads := make([][]byte, len(in.ends))
	begin := 0
	for i, end := range in.ends {
		if end >= 0 {
			payloads[i] = in.bytes[begin:end:end]
			begin = end
		}
	}
	var g errgroup.Group
	share := max(64, (len(payloads)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for lo := 0; lo < len(payloads); lo += share {
		g.Go(func() error {
			for i := lo; i < min(lo+share, len(payloads)); i++ {
				in.errs[i] = in.rows[i].set(payloads[i])
			}
			return nil
		})
	}
	_ = g.Wait() // No share returns an error.
}
