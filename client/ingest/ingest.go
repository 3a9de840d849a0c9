// Package ingest turns audit logs of key management systems into key events: one
// sub-package for each kind of source, and here what they share.
//
// An importer invents nothing: what the source does not tell is absent from the event.
// It is trusted to translate faithfully; the hash of the source's own record goes with
// every event, so that the translation can be checked later.
package ingest

import (
	"context"
	"io"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Item is one event and where it was read.
type Item struct {
	Event *keytrailv1.KeyEvent
	// File as given to Read, and the line in it (from 1) or, in a document of several
	// records, the record's number (from 1).
	File string
	Line int
}

// Reject is one record that could not be read or translated.
type Reject struct {
	File   string
	Line   int
	Reason string
	// Raw is the record as it stood there, at most MaxRecordSize bytes of it.
	Raw []byte
}

// MaxRecordSize is the largest record of a source that is read, in bytes; a longer one
// is rejected.
const MaxRecordSize = 1 << 20

// Sink takes what an importer finds. An error of either ends the reading and is returned.
type Sink interface {
	Item(ctx context.Context, it Item) error
	Reject(ctx context.Context, r Reject) error
}

// Importer reads the files of one source. It may hold records back that it cannot place
// yet (a request whose response has not come), also across files; Flush hands those over.
// Not for concurrent use.
type Importer interface {
	// Read reads one file to its end.
	Read(ctx context.Context, file string, r io.Reader, sink Sink) error
	// Flush ends the import.
	Flush(ctx context.Context, sink Sink) error
}
