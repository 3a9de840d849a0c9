// Package record holds what the log stores and commits to: the record, the payload
// (salt and record) that opens a commitment, and the 33-byte leaf that is the commitment.
//
// Everything here is a pure function: no I/O, no clock, no randomness; calls may be
// concurrent. The package is trusted to give a record exactly one encoding. It does not
// look into the event: see package event.
package record

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/proto/event"
)

const (
	// MaxProducerSize is the size of the longest producer name, in bytes.
	MaxProducerSize = 512
	// MaxRecordSize is the size of the largest record in bytes: an event and what
	// stands around it.
	MaxRecordSize = event.MaxSize + MaxProducerSize + 80
	// maxTime is the last second of year 9999, the end of protobuf's timestamps.
	maxTime = 253402300799
)

// Record is keytrail.v1.Record with a key event as its body. Its encoding is that of
// protobuf: canonical, fields in ascending order. The stored bytes are the hashed bytes.
type Record struct {
	// Index is the record's place in the log, from 0.
	Index uint64
	// LoggedAt is the log's clock, in UTC to the nanosecond, 1970 to 9999.
	LoggedAt time.Time
	// Producer is who handed the record in, UTF-8, at most MaxProducerSize bytes; empty
	// when the log did not authenticate it.
	Producer string
	// KeySequence is the record's number in its key's history, from 1; 0 when it
	// concerns no key.
	KeySequence uint64
	// PreviousIndex is the index of the record before it in that history; 0 when there
	// is none.
	PreviousIndex uint64
	// KeyEvent is the event as event.Append encodes it, 1 to event.MaxSize bytes.
	KeyEvent []byte
}

// Tags of the fields of keytrail.v1.Record and google.protobuf.Timestamp, in the order in
// which they are written.
const (
	tagIndex         = 1<<3 | uint64(protowire.VarintType)
	tagLoggedAt      = 2<<3 | uint64(protowire.BytesType)
	tagProducer      = 3<<3 | uint64(protowire.BytesType)
	tagKeySequence   = 4<<3 | uint64(protowire.VarintType)
	tagPreviousIndex = 5<<3 | uint64(protowire.VarintType)
	tagKeyEvent      = 16<<3 | uint64(protowire.BytesType)

	tagSeconds = 1<<3 | uint64(protowire.VarintType)
	tagNanos   = 2<<3 | uint64(protowire.VarintType)
)

// Append appends the encoding of the record to b. The encoding of a record that keeps the
// rules given at the fields of Record is one that Parse reads; Append checks none of them.
func (r *Record) Append(b []byte) []byte {
	b = appendUint(b, tagIndex, r.Index)
	b = r.appendLoggedAt(b)
	if r.Producer != "" {
		b = protowire.AppendVarint(b, tagProducer)
		b = protowire.AppendString(b, r.Producer)
	}
	b = appendUint(b, tagKeySequence, r.KeySequence)
	b = appendUint(b, tagPreviousIndex, r.PreviousIndex)
	b = protowire.AppendVarint(b, tagKeyEvent)
	return protowire.AppendBytes(b, r.KeyEvent)
}

// Size is the number of bytes that Append appends.
func (r *Record) Size() int {
	n := sizeUint(r.Index) + sizeUint(r.KeySequence) + sizeUint(r.PreviousIndex)
	n += 1 + protowire.SizeBytes(r.timestampSize())
	if r.Producer != "" {
		n += 1 + protowire.SizeBytes(len(r.Producer))
	}
	return n + 2 + protowire.SizeBytes(len(r.KeyEvent))
}

func (r *Record) timestampSize() int {
	return sizeUint(uint64(r.LoggedAt.Unix())) + sizeUint(uint64(r.LoggedAt.Nanosecond()))
}

func (r *Record) appendLoggedAt(b []byte) []byte {
	b = protowire.AppendVarint(b, tagLoggedAt)
	b = protowire.AppendVarint(b, uint64(r.timestampSize()))
	b = appendUint(b, tagSeconds, uint64(r.LoggedAt.Unix()))
	return appendUint(b, tagNanos, uint64(r.LoggedAt.Nanosecond()))
}

// appendUint leaves zero out, as proto3 does. All tags of numbers are one byte.
func appendUint(b []byte, tag, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, byte(tag)), v)
}

func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// errNotCanonical says that protobuf would read the bytes but Append would not write them.
var errNotCanonical = errors.New("not in canonical encoding")

// Parse reads what Append wrote, at most MaxRecordSize bytes, and nothing else: fields in
// order and each at most once, minimal varints, no zero spelt out, no unknown field. It
// also refuses a record whose numbers contradict each other. KeyEvent of the result is
// part of b.
func Parse(b []byte) (Record, error) {
	var r Record
	err := r.Parse(b)
	return r, err
}

// Parse is the function Parse for whoever reads many records: it allocates nothing when the
// producer is the one that r has had. After an error r is the zero value.
func (r *Record) Parse(b []byte) error {
	before := r.Producer
	*r = Record{}
	if len(b) > MaxRecordSize {
		return fmt.Errorf("parsing record: %d bytes, more than %d", len(b), MaxRecordSize)
	}
	d := decoder{rest: b}
	r.Index = d.uint(tagIndex)
	r.LoggedAt = d.time(tagLoggedAt)
	if producer := d.bytes(tagProducer); string(producer) == before {
		r.Producer = before
	} else {
		r.Producer = string(producer)
	}
	r.KeySequence = d.uint(tagKeySequence)
	r.PreviousIndex = d.uint(tagPreviousIndex)
	r.KeyEvent = d.bytes(tagKeyEvent)
	d.end()
	if d.err == nil && len(r.KeyEvent) == 0 {
		d.err = errors.New("has no body")
	}
	if d.err == nil {
		d.err = r.check()
	}
	if d.err != nil {
		*r = Record{}
		return fmt.Errorf("parsing record: %w", d.err)
	}
	return nil
}

// check holds the rules that the encoding does not.
func (r *Record) check() error {
	switch {
	case len(r.Producer) > MaxProducerSize:
		return fmt.Errorf("producer is %d bytes long, more than %d", len(r.Producer), MaxProducerSize)
	case !utf8.ValidString(r.Producer):
		return errors.New("producer is not UTF-8")
	case len(r.KeyEvent) > event.MaxSize:
		return fmt.Errorf("event is %d bytes long, more than %d", len(r.KeyEvent), event.MaxSize)
	case r.KeySequence <= 1 && r.PreviousIndex != 0:
		return fmt.Errorf("record %d of its key's history names a record before it", r.KeySequence)
	case r.KeySequence > 1 && r.PreviousIndex >= r.Index:
		return fmt.Errorf("record before %d in its key's history is said to be %d", r.Index, r.PreviousIndex)
	}
	return nil
}

// decoder reads fields in their order; after an error it reads nothing more.
type decoder struct {
	rest []byte
	err  error
}

// next consumes the tag if it stands there.
func (d *decoder) next(tag uint64) bool {
	if d.err != nil || len(d.rest) == 0 {
		return false
	}
	if tag < 0x80 {
		if d.rest[0] != byte(tag) {
			return false
		}
		d.rest = d.rest[1:]
		return true
	}
	if len(d.rest) < 2 || d.rest[0] != byte(tag)|0x80 || d.rest[1] != byte(tag>>7) {
		return false
	}
	d.rest = d.rest[2:]
	return true
}

// varint reads a minimal varint.
func (d *decoder) varint() uint64 {
	v, n := protowire.ConsumeVarint(d.rest)
	switch {
	case n < 0:
		d.err = protowire.ParseError(n)
		return 0
	case n != protowire.SizeVarint(v):
		d.err = errNotCanonical
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// uint reads a number that is absent when it is 0.
func (d *decoder) uint(tag uint64) uint64 {
	if !d.next(tag) {
		return 0
	}
	v := d.varint()
	if v == 0 && d.err == nil {
		d.err = errNotCanonical
	}
	return v
}

// bytes reads a string that is absent when it is empty.
func (d *decoder) bytes(tag uint64) []byte {
	if !d.next(tag) {
		return nil
	}
	return d.sized(true)
}

func (d *decoder) sized(nonempty bool) []byte {
	n := d.varint()
	switch {
	case d.err != nil:
		return nil
	case n > uint64(len(d.rest)):
		d.err = errors.New("ends within a field")
		return nil
	case n == 0 && nonempty:
		d.err = errNotCanonical
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

// time reads a timestamp that must be there.
func (d *decoder) time(tag uint64) time.Time {
	if !d.next(tag) {
		if d.err == nil {
			d.err = errors.New("has no logged_at where it belongs")
		}
		return time.Time{}
	}
	ts := decoder{rest: d.sized(false), err: d.err}
	seconds, nanos := ts.uint(tagSeconds), ts.uint(tagNanos)
	ts.end()
	if ts.err == nil && (seconds > maxTime || nanos >= uint64(time.Second)) {
		ts.err = errors.New("logged_at is out of range")
	}
	if d.err = ts.err; d.err != nil {
		return time.Time{}
	}
	return time.Unix(int64(seconds), int64(nanos)).UTC()
}

// end holds that nothing is left over.
func (d *decoder) end() {
	if d.err == nil && len(d.rest) > 0 {
		d.err = errors.New("has a field that is unknown, repeated or out of order")
	}
}
