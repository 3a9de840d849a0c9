package view

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

// Entry is one published record and its event.
type Entry struct {
	// Record without KeyEvent, whose content is Event.
	record.Record
	Event *keytrailv1.KeyEvent
	// size is that of the payload in bytes.
	size int
}

// decode takes a payload apart; the result shares no memory with it. The event's rules are
// not checked again: the log recorded it, so it is shown.
func decode(payload []byte) (*Entry, error) {
	_, b, err := record.Open(payload)
	if err != nil {
		return nil, err
	}
	r, err := record.Parse(b)
	if err != nil {
		return nil, err
	}
	ev := new(keytrailv1.KeyEvent)
	if err := proto.Unmarshal(r.KeyEvent, ev); err != nil {
		return nil, fmt.Errorf("reading key event: %w", err)
	}
	r.KeyEvent = nil
	return &Entry{Record: r, Event: ev, size: len(payload)}, nil
}

// row is what the index takes of one entry.
type row struct {
	state rowState
	time  int64
	// end is where its terms end in intake.terms; they begin where those of the row before
	// end.
	end int
}

type rowState uint8

const (
	rowIndexed rowState = iota
	// rowErased: the payload is gone.
	rowErased
	// rowUnreadable: the payload is no record that this version can read.
	rowUnreadable
)

// decoder reads what the index takes of payloads, one after the other; its room is used
// again.
type decoder struct {
	record record.Record
	fields event.Fields
	hashed termCache
}

// read returns the time of a payload's event, and appends its terms. An error says why the
// payload is unreadable.
func (d *decoder) read(payload []byte, ts []term) (nanos int64, terms []term, err error) {
	if err := d.readFields(payload); err != nil {
		return 0, ts, err
	}
	at := time.Unix(d.fields.Seconds, int64(d.fields.Nanos))
	return nanoseconds(at), d.hashed.appendTerms(ts, &d.fields), nil
}

// readFields fills d.fields with parts of the payload.
func (d *decoder) readFields(payload []byte) error {
	_, b, err := record.Open(payload)
	if err != nil {
		return err
	}
	r, f := &d.record, &d.fields
	if err := r.Parse(b); err != nil {
		return err
	}
	if skim(r.KeyEvent, f) {
		return nil
	}
	// An event that this program would not record is found by what it can read of it.
	ev := new(keytrailv1.KeyEvent)
	if err := proto.Unmarshal(r.KeyEvent, ev); err != nil {
		return fmt.Errorf("reading key event: %w", err)
	}
	*f = event.Fields{
		Tenant: []byte(ev.GetTenant()), KeyRef: []byte(ev.GetKey().GetRef()),
		ActorID: []byte(ev.GetActor().GetId()), ActorDisplay: []byte(ev.GetActor().GetDisplay()),
		Seconds: ev.GetTime().GetSeconds(), Nanos: ev.GetTime().GetNanos(),
		Operation: ev.GetOperation(), Also: ev.GetAlso(), Outcome: ev.GetOutcome(),
	}
	return nil
}

// nanoseconds since 1970; a time outside what 64 bits hold is the nearest that they do.
func nanoseconds(t time.Time) int64 {
	const limit = math.MaxInt64 / int64(time.Second)
	switch s := t.Unix(); {
	case s >= limit:
		return math.MaxInt64
	case s <= -limit:
		return math.MinInt64
	}
	return t.UnixNano()
}
