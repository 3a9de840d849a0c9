package server

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// appendRequest is what the server makes of an AppendRequest, AppendBatchRequest or
// AppendStreamRequest: its events, ready for the log, without a message in between. All
// three have their events in field 1 and wait in field 2.
type appendRequest struct {
	// single says that it is an AppendRequest, which has one event or none. It is set
	// before the request is read.
	single bool
	// n is how many events the request has, of which events holds those that keep all
	// rules, and refused the others. Of more than log.MaxEvents both are empty.
	n       int
	events  []log.Event
	refused []refusal
	wait    rpc.Wait
	// room holds the bytes that the events are parts of, unless gRPC's own buffer does, and one
	// or many the events: most requests have one. Their memory is used again after a reset.
	room []byte
	one  [1]log.Event
	many []log.Event
}

// keep returns the bytes of a message to be kept: a copy, since gRPC takes its buffers back.
// Only a short message, as most of one event are, lies in one that it does not.
func (r *appendRequest) keep(data mem.BufferSlice) []byte {
	if len(data) == 1 {
		if b, ok := data[0].(mem.SliceBuffer); ok {
			return b
		}
	}
	n := data.Len()
	r.room = slices.Grow(r.room[:0], n)[:n]
	data.CopyTo(r.room)
	return r.room
}

// reset makes it an empty request. Nobody may look at its events any more.
func (r *appendRequest) reset() {
	clear(r.events)
	*r = appendRequest{room: r.room, many: r.many}
}

// refusal is an event that breaks a rule.
type refusal struct {
	place int
	err   error // an *event.InvalidError
}

// Tags of the fields, which are the same in the three messages.
const (
	tagEvents = 1<<3 | byte(protowire.BytesType)
	tagWait   = 2<<3 | byte(protowire.VarintType)
)

// read fills the request from its encoding, which it keeps; now is the log's clock. The
// errors are those of proto.Unmarshal.
func (r *appendRequest) read(b []byte, now time.Time) error {
	var ok bool
	if r.n, r.wait, ok = r.shape(b); !ok || r.n > log.MaxEvents {
		return r.decode(b, now)
	}
	if r.events = r.one[:0]; r.n > 1 {
		r.many = slices.Grow(r.many[:0], r.n)
		r.events = r.many
	}
	for i := range r.n {
		size, n := binary.Uvarint(b[1:])
		end := 1 + n + int(size)
		encoded := b[1+n : end : end]
		b = b[end:]
		if p, ok := log.PrepareEncoded(encoded, now); ok {
			r.events = append(r.events, p)
			continue
		}
		ev := new(keytrailv1.KeyEvent)
		if err := proto.Unmarshal(encoded, ev); err != nil {
			return err
		}
		if err := r.prepare(i, ev, now); err != nil {
			return err
		}
	}
	return nil
}

// shape counts the events of a request that is written as nearly all are: events first,
// then wait, and nothing besides. Of any other ok is false.
func (r *appendRequest) shape(b []byte) (events int, wait rpc.Wait, ok bool) {
	for len(b) > 0 && b[0] == tagEvents {
		size, n := binary.Uvarint(b[1:])
		if n < 1 || size > uint64(len(b)-1-n) {
			return 0, 0, false
		}
		b = b[1+n+int(size):]
		events++
	}
	if len(b) > 0 {
		v, n := binary.Uvarint(b[1:])
		if b[0] != tagWait || n != len(b)-1 || n < 1 || v > math.MaxInt32 {
			return 0, 0, false
		}
		wait = rpc.Wait(v)
	}
	return events, wait, !r.single || events <= 1
}

// decode reads the request by way of a message.
func (r *appendRequest) decode(b []byte, now time.Time) error {
	var list []*keytrailv1.KeyEvent
	if r.single {
		var m rpc.AppendRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return err
		}
		if m.GetEvent() != nil {
			list = append(list, m.GetEvent())
		}
		r.wait = m.GetWait()
	} else {
		var m rpc.AppendStreamRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return err
		}
		list, r.wait = m.GetEvents(), m.GetWait()
	}
	r.n, r.events = len(list), nil
	if r.n > log.MaxEvents {
		return nil
	}
	for i, ev := range list {
		if err := r.prepare(i, ev, now); err != nil {
			return err
		}
	}
	return nil
}

func (r *appendRequest) prepare(place int, ev *keytrailv1.KeyEvent, now time.Time) error {
	p, err := log.Prepare(ev, now)
	var invalid *event.InvalidError
	switch {
	case errors.As(err, &invalid):
		r.refused = append(r.refused, refusal{place, err})
	case err != nil:
		return err
	default:
		r.events = append(r.events, p)
	}
	return nil
}
