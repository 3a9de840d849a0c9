package verify

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

// Entry is an entry that a receipt proves, opened.
type Entry struct {
	// Index is its place in the log, from 0.
	Index uint64
	// Leaf is the public leaf, the commitment to salt and record.
	Leaf [record.LeafSize]byte
	// Record is what the log committed to. Its time, producer and place in the key's
	// history are the log's statement.
	Record record.Record
	// Event is the event in the record.
	Event *keytrailv1.KeyEvent
}

// OpenEntry reads a payload whose leaf the caller has verified to be the log's at an index,
// as Receipt does. The error is an *UnverifiableError of ReasonNewer when a newer version
// could read it; any other means that the log committed to what is no record, or to one of
// another index.
func OpenEntry(index uint64, payload []byte) (*Entry, error) {
	e, err := openEntry(index, payload, record.Leaf(payload))
	if err != nil {
		return nil, err
	}
	if e.Record.Index != index {
		return nil, fmt.Errorf("the record says it is entry %d", e.Record.Index)
	}
	return e, nil
}

// openEntry reads a payload whose leaf is proven to be in the tree. The error is an
// *UnverifiableError when a newer version could read it.
func openEntry(index uint64, payload []byte, leaf [record.LeafSize]byte) (*Entry, error) {
	_, rec, err := record.Open(payload)
	if err != nil {
		return nil, err
	}
	e := &Entry{Index: index, Leaf: leaf}
	if e.Record, err = record.Parse(rec); err != nil {
		if newerRecord(rec) {
			return nil, unverifiable(ReasonNewer, "entry %d is a record of a kind that this version does not know", index)
		}
		return nil, err
	}
	if e.Event, err = event.Parse(e.Record.KeyEvent); err != nil {
		if newerEvent(e.Record.KeyEvent) {
			return nil, unverifiable(ReasonNewer, "entry %d holds an event of a newer schema than %d", index, event.SchemaVersion)
		}
		return nil, fmt.Errorf("event: %w", err)
	}
	return e, nil
}

// lastField is the highest field of keytrail.v1.Record that this version knows; other
// kinds of record will have higher ones.
const lastField = 16

// newerRecord reports whether rec is a message with a field that a later version may
// have added.
func newerRecord(rec []byte) bool {
	newer := false
	for len(rec) > 0 {
		number, _, n := protowire.ConsumeField(rec)
		if n < 0 {
			return false
		}
		newer = newer || number > lastField
		rec = rec[n:]
	}
	return newer
}

// newerEvent reports whether an event says that it follows a later schema.
func newerEvent(b []byte) bool {
	ev := new(keytrailv1.KeyEvent)
	return proto.Unmarshal(b, ev) == nil && ev.GetSchemaVersion() > event.SchemaVersion
}

// isUnverifiable reports whether err is that verdict.
func isUnverifiable(err error) bool {
	_, ok := errors.AsType[*UnverifiableError](err)
	return ok
}
