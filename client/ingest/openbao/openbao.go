// Package openbao reads the log files of OpenBao and HashiCorp Vault audit devices and
// turns each call to the server into one key event.
//
// A call leaves a request line and a response line with the same request id. The response
// repeats the request, so the event is made from the response line alone, and the request
// line counts only where no response follows. An event therefore depends on one line and
// on nothing before or after it: the same line gives the same event, however the log was
// cut into files.
//
// An Importer is not for concurrent use and makes nothing durable. It is trusted to
// translate faithfully. It never puts tokens, key material, plaintext or HMACs of them
// into an event; the hash of the line goes with every event, so that the translation can
// be checked against the log.
//
// # What the log does not tell
//
// There is no status: whether a call succeeded follows from where errors stand and what is
// missing (see decide). A version appears in an event only where the line shows the one
// acted on, or a bound in clear below which versions ended (trim, minimum versions);
// latest_version is an attribute. Decryption, verification, HMAC, backup, restore and
// import never show one. Rotation by the server, keys that die with their mount or
// namespace, and calls refused before the audit layer leave no line, and no event is made
// up for them.
package openbao

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keytrail/keytrail/client/ingest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Options say whose log it is.
type Options struct {
	// Tenant owns the events: all of them, or with TenantFromNamespace those of the root
	// namespace. 1 to 128 bytes.
	Tenant string
	// TenantFromNamespace makes the path of the call's namespace, without the slash at
	// its end, the tenant: "acme", "acme/emea".
	TenantFromNamespace bool
	// Account names the cluster, at most 256 bytes. Two devices of one cluster log the
	// same calls under the same ids with other HMACs: import one of them, or give each an
	// account of its own.
	Account string
	// KeepRaw puts the line itself into the event. It is left out, and the attribute
	// raw_withheld says why, when the event would become too large or when the device
	// does not hash tokens (log_raw) and the line would carry them along.
	KeepRaw bool
}

// How many requests without a response are held, and how long after them by the log's
// own time. Beyond that the oldest are taken to stay without one. A server gives a call
// 90 seconds unless it is told otherwise.
const (
	maxPending      = 100_000
	maxPendingBytes = 64 << 20
	maxCallDuration = 10 * time.Minute
)

// Importer reads audit logs. It implements ingest.Importer.
type Importer struct {
	opts    Options
	engines engines
	pending pending
}

// New returns an importer. What is wrong with the options shows as a Reject of every
// record that they do not fit.
func New(opts Options) *Importer {
	return &Importer{opts: opts, engines: newEngines()}
}

// Read reads one file: a JSON object a line, with or without a prefix in front (the
// device option of that name, a syslog header). Requests whose response is not in the
// file are held back for the next file or Flush.
func (i *Importer) Read(ctx context.Context, file string, r io.Reader, sink ingest.Sink) error {
	lines := newLineReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s line %d: %w", file, line.number, err)
		}
		if err := i.line(ctx, file, line, sink); err != nil {
			return err
		}
	}
}

// Flush hands over the requests that no response has followed. A request whose
// response a later import reads becomes a second event then (see eventID).
func (i *Importer) Flush(ctx context.Context, sink ingest.Sink) error {
	for i.pending.len() > 0 {
		if err := i.emit(ctx, i.pending.pop(), sink); err != nil {
			return err
		}
	}
	return nil
}

// line takes one line: an item, a request to hold, or a reject.
func (i *Importer) line(ctx context.Context, file string, l line, sink ingest.Sink) error {
	if len(bytes.TrimSpace(l.data)) == 0 && !l.tooLong {
		return nil
	}
	rec, err := parseLine(l)
	if err != nil {
		return sink.Reject(ctx, ingest.Reject{File: file, Line: l.number, Reason: err.Error(), Raw: bytes.Clone(l.data)})
	}
	rec.file, rec.line = file, l.number
	for i.pending.tooOld(rec.at) {
		if err := i.emit(ctx, i.pending.pop(), sink); err != nil {
			return err
		}
	}
	if rec.response() {
		i.pending.remove(rec.Request.ID)
		return i.emit(ctx, rec, sink)
	}
	if isProbe(rec) {
		// The device is being enabled again: what disabled it took place before.
		for d := i.pending.popDisabling(); d != nil; d = i.pending.popDisabling() {
			if err := i.emit(ctx, d, sink); err != nil {
				return err
			}
		}
	}
	if neverAnswered(rec) {
		return i.emit(ctx, rec, sink)
	}
	rec.raw = bytes.Clone(rec.raw)
	i.pending.push(rec)
	for i.pending.tooMany() {
		if err := i.emit(ctx, i.pending.pop(), sink); err != nil {
			return err
		}
	}
	return nil
}

// emit translates a record and hands the event to the sink.
func (i *Importer) emit(ctx context.Context, rec *record, sink ingest.Sink) error {
	ev, err := i.translate(rec)
	if err != nil {
		return sink.Reject(ctx, ingest.Reject{File: rec.file, Line: rec.line, Reason: err.Error(), Raw: bytes.Clone(rec.raw)})
	}
	return sink.Item(ctx, ingest.Item{Event: ev, File: rec.file, Line: rec.line})
}

// parseLine reads one line, or says why it cannot be read. The record's raw bytes are the
// line's and good until the next line is read.
func parseLine(l line) (*record, error) {
	if l.tooLong {
		return nil, fmt.Errorf("longer than %d bytes", ingest.MaxRecordSize)
	}
	if !utf8.Valid(l.data) {
		return nil, errors.New("not UTF-8")
	}
	data := withoutPrefix(l.data)
	if data == nil {
		return nil, errors.New("no JSON object in the line")
	}
	rec, err := parseRecord(data)
	if err != nil {
		return nil, err
	}
	rec.raw = data
	return rec, nil
}

// neverAnswered recognises the calls that are logged without a response line: the probe
// when a device is enabled, sealing, and stepping down. Disabling a device is not among
// them: only the device concerned lacks its response.
func neverAnswered(rec *record) bool {
	path := rec.Request.Path
	return isProbe(rec) || rec.Request.Operation == "update" && (path == "sys/seal" || path == "sys/step-down")
}

// isProbe recognises the line that the server writes to a device to try it. Nobody asked
// for it, unlike a call that enables a device of the name "test".
func isProbe(rec *record) bool {
	return rec.Request.Path == "sys/audit/test" && rec.Request.Operation == "update" &&
		rec.Request.RemoteAddress == "" && rec.Auth.DisplayName == ""
}

// disablesDevice recognises the request that ends a device's own log.
func disablesDevice(rec *record) bool {
	return rec.Request.Operation == "delete" && strings.HasPrefix(rec.Request.Path, "sys/audit/") && rec.Error == ""
}

// eventID is the request's id. A request that should have been answered and was not (the
// log ends, or was cut off, in the middle of the call) gets an id of its own, because its
// event says less than that of the response would: when a later import finds the response,
// that is a second event with the same request_id, and not a contradiction of the first.
func eventID(rec *record) string {
	if rec.response() || neverAnswered(rec) || disablesDevice(rec) {
		return rec.Request.ID
	}
	return rec.Request.ID + "/request"
}

// rawOf returns the hash of the line, without prefix and line end, and its content if
// that is wanted and may be kept; else why it is not.
func (i *Importer) rawOf(rec *record) (raw *keytrailv1.Raw, withheld string) {
	sum := sha256.Sum256(rec.raw)
	raw = &keytrailv1.Raw{MediaType: "application/json", Sha256: sum[:]}
	if !i.opts.KeepRaw {
		return raw, ""
	}
	if rec.unhashed() {
		return raw, "values are not hashed"
	}
	raw.Content = bytes.Clone(rec.raw)
	return raw, ""
}
