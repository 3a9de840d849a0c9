// Package event holds the rules of a key event (keytrail.v1.KeyEvent): what a valid one
// is, its one encoding, its identity, and the names of its operations and outcomes.
//
// Everything here is a pure function: no I/O, no clock, and calls may be concurrent. The
// package makes nothing durable. It is trusted to let no malformed event into the log;
// whether an event is plausible is not its business (see package lifecycle).
package event

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// MaxSize is the size of the largest event in bytes, encoded with Append.
const MaxSize = 32 << 10

// SchemaVersion is the schema version of the events that this package knows.
const SchemaVersion = 1

// ErrNotCanonical says that bytes are a readable event but not the encoding that Append
// gives it. Match it with errors.Is.
var ErrNotCanonical = errors.New("event: not in canonical encoding")

// Append appends the encoding of an event to b. It does not validate: see Validate.
//
// The encoding is the one that every protobuf implementation gives by default to a
// message without maps: fields in ascending number order at every level, minimal varints,
// fields that hold their default left out, packed repeated enums. Protobuf promises this
// to nobody; the log relies on it only so far as Parse refuses bytes that would come out
// otherwise, and the golden vectors hold it from one library version to the next. Proofs
// do not rest on it: the log hashes bytes as they are stored and never encodes them again.
//
// The only errors are of strings that are not UTF-8.
func Append(b []byte, ev *keytrailv1.KeyEvent) ([]byte, error) {
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, ev)
	if err != nil {
		return b, fmt.Errorf("encoding event: %w", readable(err))
	}
	return out, nil
}

// Parse reads what Append wrote, at most MaxSize bytes. Bytes that Append would write
// differently are ErrNotCanonical, so that an event has one encoding; unknown fields are
// an *InvalidError. It does not apply the other rules: see Validate.
func Parse(b []byte) (*keytrailv1.KeyEvent, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("parsing event: %d bytes, more than %d", len(b), MaxSize)
	}
	ev := new(keytrailv1.KeyEvent)
	if err := proto.Unmarshal(b, ev); err != nil {
		return nil, fmt.Errorf("parsing event: %w", readable(err))
	}
	var f Fields
	if Scan(b, &f) { // says all of what follows, and more
		return ev, nil
	}
	var c checker
	c.knownFields(ev)
	if err := c.err(); err != nil {
		return nil, err
	}
	again, err := Append(make([]byte, 0, len(b)), ev)
	if err != nil {
		return nil, fmt.Errorf("parsing event: %w", err)
	}
	if !bytes.Equal(again, b) {
		return nil, ErrNotCanonical
	}
	return ev, nil
}

// readable takes from protobuf's messages what it puts there to keep them from being
// compared: a prefix that comes with this or that kind of space.
func readable(err error) error {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return errors.New(strings.TrimPrefix(text, "proto: "))
}
