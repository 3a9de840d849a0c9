// Package cloudtrail turns AWS CloudTrail records into key events: all calls of KMS, the
// calls of CloudHSM about clusters and backups, and the calls that change or read out
// CloudTrail itself. Records of other services are skipped, and counted.
//
// It reads what CloudTrail delivers ({"Records":[...]}), one record a line, a JSON array,
// the output of lookup-events and of log streams, and EventBridge events, told apart by
// content, one record in memory at a time. A record that cannot be read is rejected, and
// reading goes on at the next one that can be made out.
//
// Events leave in the order of their time as far as a window over the records allows, and
// what KMS does by itself (DeleteKey, RotateKey, DeleteExpiredKeyMaterial) names the event
// that caused it when that one was read before: so the cause depends on which files are
// imported together. Apart from it, a record always gives the same event, byte for byte,
// and the hash in raw is of the record as delivered: the same record with other white
// space is another content under the same id.
//
// Not for concurrent use; nothing is durable here. The package is trusted to translate
// faithfully; see package ingest.
package cloudtrail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/keytrail/keytrail/client/ingest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Adapter names the translation and its version in every event.
const Adapter = "cloudtrail/1"

// Options choose how records become events.
type Options struct {
	// Tenant of all events, 1 to 128 bytes. Required without TenantFromAccount.
	Tenant string
	// TenantFromAccount makes each event's tenant the account that the record was
	// delivered to (recipientAccountId).
	TenantFromAccount bool
	// KeepRaw keeps the record itself in the event, where the event's size allows it and
	// the record holds no secret. Its hash is always there.
	KeepRaw bool
	// HashContext keeps only the hashes (SHA-256) of the values of encryption contexts, and
	// leaves the constraints of grants out. A value that can be guessed can be found from
	// its hash.
	HashContext bool
}

// Importer implements ingest.Importer.
type Importer struct {
	opt    Options
	window window
	causes causes
}

var _ ingest.Importer = (*Importer)(nil)

// New returns an importer.
func New(opt Options) (*Importer, error) {
	switch {
	case opt.TenantFromAccount && opt.Tenant != "":
		return nil, errors.New("a tenant is given, and it is to be taken from the account too")
	case !opt.TenantFromAccount && (opt.Tenant == "" || len(opt.Tenant) > 128 || !isIdentifier(opt.Tenant)):
		return nil, errors.New("a tenant of 1 to 128 bytes without control characters is required")
	}
	return &Importer{opt: opt}, nil
}

// SkipFile is for ingest.Inputs: it passes over the digests and insights that CloudTrail
// delivers beside the records.
func SkipFile(path string) string {
	for part := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		switch {
		case part == "CloudTrail-Digest" || strings.Contains(part, "_CloudTrail-Digest_"):
			return "a CloudTrail digest, no records"
		case part == "CloudTrail-Insight" || strings.Contains(part, "_CloudTrail-Insight_"):
			return "CloudTrail Insights, no calls"
		}
	}
	return ""
}

// Reasons for which a record is skipped.
const (
	skipOther    = "not about keys"
	skipDigest   = "a CloudTrail digest, no records"
	skipInsight  = "CloudTrail Insights, no calls"
	skipReadOnly = "only looks at the settings of a trail"
)

// reading is one run of Read.
type reading struct {
	imp  *Importer
	file string
	sink ingest.Sink
	s    *splitter
	// record counts the elements of the file's lists.
	record int
	// told is set when a reject gives the error that ended the stream.
	told bool
}

// Read implements ingest.Importer. Where a file breaks off, by its end or a read error, the
// record or list that is open is rejected; a read error between records is returned.
func (imp *Importer) Read(ctx context.Context, file string, r io.Reader, sink ingest.Sink) error {
	rd := &reading{imp: imp, file: file, sink: sink, s: newSplitter(r)}
	rd.s.byteOrderMark()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, ok := rd.s.space(false)
		if !ok {
			break
		}
		if err := rd.top(ctx, b); err != nil {
			return err
		}
	}
	if err := rd.s.broken(); err != nil && !rd.told {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}

// Flush implements ingest.Importer.
func (imp *Importer) Flush(ctx context.Context, sink ingest.Sink) error {
	for imp.window.Len() > 0 {
		if err := imp.release(ctx, sink); err != nil {
			return err
		}
	}
	return nil
}

// release hands over the earliest event.
func (imp *Importer) release(ctx context.Context, sink ingest.Sink) error {
	it := imp.window.next()
	imp.causes.link(it.Event)
	return sink.Item(ctx, it)
}

// top reads what begins at the top of the file with byte b.
func (rd *reading) top(ctx context.Context, b byte) error {
	switch b {
	case '[':
		rd.s.consume(1)
		_, err := rd.list(ctx)
		return err
	case '{':
		v := rd.s.object(true)
		if v.status != list {
			return rd.value(ctx, v, v.line)
		}
		closed, err := rd.list(ctx)
		if err != nil || !closed {
			return err
		}
		if !rd.s.rest() {
			return rd.reject(ctx, value{}, rd.record, "the file ends before the document does")
		}
		return nil
	}
	v := rd.s.scrap(true)
	return rd.reject(ctx, v, v.line, "not JSON")
}

// list reads the elements of a list. It reports false when the stream ends in it.
func (rd *reading) list(ctx context.Context) (closed bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b, ok := rd.s.space(true)
		if !ok {
			reason := "the file ends before its list of records does" + rd.why()
			return false, rd.reject(ctx, value{}, rd.record+1, reason)
		}
		if b == ']' {
			rd.s.consume(1)
			return true, nil
		}
		rd.record++
		var v value
		if b == '{' {
			v = rd.s.object(false)
			err = rd.value(ctx, v, rd.record)
		} else {
			v = rd.s.scrap(false)
			err = rd.reject(ctx, v, rd.record, "not a JSON object")
		}
		if err != nil || v.status == ended {
			return false, err
		}
	}
}

// why is what a read error adds to the end of the stream.
func (rd *reading) why() string {
	if err := rd.s.broken(); err != nil {
		rd.told = true
		return ": " + err.Error()
	}
	return ""
}

func (rd *reading) reject(ctx context.Context, v value, line int, reason string) error {
	return rd.sink.Reject(ctx, ingest.Reject{File: rd.file, Line: line, Reason: reason, Raw: bytes.Clone(bytes.TrimSpace(v.raw))})
}

// value takes one object of the file.
func (rd *reading) value(ctx context.Context, v value, line int) error {
	switch {
	case v.long:
		return rd.reject(ctx, v, line, fmt.Sprintf("the record is longer than %d bytes", ingest.MaxRecordSize))
	case v.status == ended:
		return rd.reject(ctx, v, line, "the file ends in the middle of this record"+rd.why())
	case v.status == overrun:
		return rd.reject(ctx, v, line, "the record breaks off where another begins")
	}
	if foreign(v.raw) {
		return rd.skip(ctx, line, skipOther)
	}
	o, err := decode(v.raw)
	if err != nil {
		return rd.reject(ctx, v, line, err.Error())
	}
	r, err := unwrap(v.raw, o)
	if err != nil {
		return rd.reject(ctx, v, line, err.Error())
	}
	op, reason, err := classify(r)
	if err != nil {
		return rd.reject(ctx, v, line, err.Error())
	}
	if reason != "" {
		return rd.skip(ctx, line, reason)
	}
	ev, err := translate(r, op, rd.imp.opt)
	if err != nil {
		return rd.reject(ctx, v, line, err.Error())
	}
	return rd.hold(ctx, ingest.Item{Event: ev, File: rd.file, Line: line})
}

func (rd *reading) skip(ctx context.Context, line int, reason string) error {
	return ingest.NoteSkip(ctx, rd.sink, ingest.Skip{File: rd.file, Line: line, Reason: reason})
}

func (rd *reading) hold(ctx context.Context, it ingest.Item) error {
	rd.imp.window.add(it)
	for rd.imp.window.full() {
		if err := rd.imp.release(ctx, rd.sink); err != nil {
			return err
		}
	}
	return nil
}

// classify finds the operation of a record, or the reason to skip it.
func classify(r record) (op keytrailv1.Operation, skip string, err error) {
	source := str(r.object, "eventSource")
	switch {
	case str(r.object, "eventType") == "AwsCloudTrailInsight":
		return 0, skipInsight, nil
	case source == "" && r.object["digestStartTime"] != nil:
		return 0, skipDigest, nil
	case source == "":
		return 0, "", errNotAnEntry
	case system(source) == "":
		return 0, skipOther, nil
	}
	op, ok := operation(r)
	if !ok {
		return 0, skipReadOnly, nil
	}
	return op, "", nil
}
