package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
)

// Event is a valid key event, encoded, with its identities worked out: all that can be
// done before the event has a place in the log.
type Event struct {
	id     [32]byte // event.ID
	key    [32]byte // event.KeyID, if hasKey
	hasKey bool
	tenant []byte
	bytes  []byte
}

// Prepare validates and encodes an event; now is the log's clock. A broken rule is an
// *event.InvalidError.
func Prepare(ev *keytrailv1.KeyEvent, now time.Time) (Event, error) {
	b, encodeErr := event.Append(nil, ev)
	if encodeErr == nil {
		if p, ok := PrepareEncoded(b, now); ok {
			return p, nil
		}
	}
	if err := event.Validate(ev, now); err != nil {
		return Event{}, err
	}
	if encodeErr != nil {
		return Event{}, encodeErr
	}
	return fromMessage(ev, b), nil
}

// fromMessage is a valid event whose encoding is b.
func fromMessage(ev *keytrailv1.KeyEvent, b []byte) Event {
	p := Event{id: event.ID(ev), tenant: []byte(ev.GetTenant()), bytes: b}
	if ref := ev.GetKey().GetRef(); ref != "" {
		p.hasKey, p.key = true, event.KeyID(ev.GetTenant(), ref)
	}
	return p
}

// PrepareEncoded is Prepare for an event that is encoded already, and builds no message. It
// does not say what is wrong: when ok is false, the event is to be decoded and given to
// Prepare. The Event keeps b.
func PrepareEncoded(b []byte, now time.Time) (p Event, ok bool) {
	var f event.Fields
	if !event.Scan(b, &f) || !f.InTime(now) {
		return Event{}, false
	}
	p = Event{id: f.ID(), tenant: f.Tenant, bytes: b}
	p.key, p.hasKey = f.KeyID()
	return p, true
}

// Result says what became of one event.
type Result struct {
	Index         uint64
	LoggedAt      time.Time
	KeySequence   uint64
	PreviousIndex uint64
	// Duplicate means that the event was in the log already, at Index.
	Duplicate bool
	// Err is a *ConflictError, or nil.
	Err error
}

// ConflictError means that the id of an event stands in the log with other content. It is
// an integrity alert: a source does not change what it has reported.
type ConflictError struct {
	// Index is where the other content stands.
	Index uint64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("log: event id is recorded at index %d with other content", e.Index)
}

// Append records events of one producer, as the log authenticated it, and waits until
// they are durable. Results are in the order of the events.
func (l *Log) Append(ctx context.Context, producer string, events []Event) ([]Result, error) {
	c, err := l.Submit(ctx, producer, events)
	if err != nil {
		return nil, err
	}
	results, err := c.Wait(ctx)
	if err != nil {
		return nil, err
	}
	results = slices.Clone(results)
	c.Release()
	return results, nil
}

// Submit begins to record events: at most MaxEvents, which the log looks at until the call is
// done, and not after. What one goroutine submits for one tenant is sequenced in that order. An
// *OverloadError means that one tenant has sent too much; others may go on.
func (l *Log) Submit(ctx context.Context, producer string, events []Event) (*Call, error) {
	if len(events) > MaxEvents {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(events), MaxEvents)
	}
	c := newCall(producer, len(events))
	l.submitting.RLock()
	defer l.submitting.RUnlock()
	if err := l.accepts(); err != nil {
		return nil, err
	}
	for i := range events {
		if err := l.look(ctx, c, i, &events[i]); err != nil {
			if errors.Is(err, index.ErrDamaged) { // A restart rebuilds it.
				l.fail(err)
				return nil, fmt.Errorf("%w: %w", ErrStopped, err)
			}
			return nil, err
		}
	}
	if len(c.items) == 0 {
		close(c.done)
		return c, nil
	}
	if err := l.pool.put(c); err != nil {
		if errors.Is(err, ErrOverloaded) {
			l.metrics.overloaded.Inc()
			return nil, err
		}
		return nil, l.accepts()
	}
	return c, nil
}

// accepts says why the log takes no more events, if it does not.
func (l *Log) accepts() error {
	if !l.pool.isClosed() {
		return nil
	}
	if err := l.cause(); err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return ErrStopping
}

// look asks the index for one event, in the caller's goroutine, so that the sequencer
// seldom has to.
func (l *Log) look(ctx context.Context, c *Call, i int, ev *Event) error {
	it := item{event: ev, result: i, seen: l.index.Applied()}
	at, ok, err := l.index.Event(&ev.id, (*entries)(l))
	if err != nil {
		return err
	}
	if ok {
		c.results[i], err = l.settle(ctx, ev, at)
		return err
	}
	c.items = append(c.items, it)
	c.bytes += len(ev.bytes)
	return nil
}

// settle answers an event whose id is recorded, durably, at an index.
func (l *Log) settle(ctx context.Context, ev *Event, at uint64) (Result, error) {
	var res Result
	err := l.store.Payloads(ctx, at, at+1, func(_ uint64, payload []byte) error {
		if payload == nil {
			// What was erased cannot be compared; its place is all that is left of it.
			res = Result{Index: at, Duplicate: true}
			return nil
		}
		_, b, err := record.Open(payload)
		if err != nil {
			return err
		}
		r, err := record.Parse(b)
		if err != nil {
			return err
		}
		res = l.compare(ev, &r)
		return nil
	})
	if err != nil {
		return Result{}, fmt.Errorf("reading the entry %d that has the same event id: %w", at, err)
	}
	return res, nil
}

// compare answers an event whose id the record r has.
func (l *Log) compare(ev *Event, r *record.Record) Result {
	if !bytes.Equal(ev.bytes, r.KeyEvent) {
		l.metrics.conflicts.Inc()
		l.logger.Warn("event id sent again with other content; refused",
			slog.Uint64("index", r.Index), slog.String("event_id", fmt.Sprintf("%x", ev.id)))
		return Result{Index: r.Index, Err: &ConflictError{Index: r.Index}}
	}
	l.metrics.duplicates.Inc()
	return Result{
		Index: r.Index, LoggedAt: r.LoggedAt, KeySequence: r.KeySequence,
		PreviousIndex: r.PreviousIndex, Duplicate: true,
	}
}

// catchUp brings the index up to the head, from its own cursor if that is a point of this
// log and from nothing if not.
func (l *Log) catchUp(ctx context.Context, head storage.Head) error {
	cur := l.index.Cursor()
	if cur.Size > 0 {
		ok := cur.Size <= head.Size
		if ok {
			root, err := l.prover.Root(ctx, cur.Size)
			if err != nil {
				return fmt.Errorf("checking the index against the log: %w", err)
			}
			ok = root == cur.Root
		}
		if !ok {
			l.logger.WarnContext(ctx, "index belongs to another state of the log and is rebuilt", slog.Uint64("size", cur.Size))
			if err := l.index.Reset(); err != nil {
				return err
			}
			cur = index.Cursor{}
		}
	}
	if cur.Size == head.Size {
		return nil
	}
	l.logger.InfoContext(ctx, "index catches up", slog.Uint64("from", cur.Size), slog.Uint64("to", head.Size))
	const step = 4096
	rows := make([]index.Row, 0, step)
	for at := cur.Size; at < head.Size; at += uint64(len(rows)) {
		end := min(at+step, head.Size)
		rows = rows[:0]
		err := l.store.Payloads(ctx, at, end, func(i uint64, payload []byte) error {
			row, err := indexRow(i, payload)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return fmt.Errorf("reading entries for the index: %w", err)
		}
		root, err := l.prover.Root(ctx, end)
		if err != nil {
			return fmt.Errorf("reading entries for the index: %w", err)
		}
		if err := l.index.Apply(rows, index.Cursor{Size: end, Root: root}); err != nil {
			return err
		}
	}
	return nil
}

// indexRow is what the record behind a payload adds to the index. Of an erased one
// nothing is known: its event id is forgotten when the index is rebuilt.
func indexRow(i uint64, payload []byte) (index.Row, error) {
	if payload == nil {
		return index.Row{Index: i, Erased: true}, nil
	}
	_, b, err := record.Open(payload)
	if err != nil {
		return index.Row{}, fmt.Errorf("entry %d: %w", i, err)
	}
	r, err := record.Parse(b)
	if err != nil {
		return index.Row{}, fmt.Errorf("entry %d: %w", i, err)
	}
	ev, err := event.Parse(r.KeyEvent)
	if err != nil {
		return index.Row{}, fmt.Errorf("entry %d: %w", i, err)
	}
	row := index.Row{Index: i, Event: event.ID(ev), KeySequence: r.KeySequence}
	if r.KeySequence > 0 {
		row.Key = event.KeyID(ev.GetTenant(), ev.GetKey().GetRef())
	}
	return row, nil
}
