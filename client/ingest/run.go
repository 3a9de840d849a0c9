package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// BatchSize is how many events go to the log in one message.
const BatchSize = 500

// Appender records events in the log and returns one result for each, in their order. An
// error means that it is not known which of them were recorded.
type Appender interface {
	Append(ctx context.Context, events []*keytrailv1.KeyEvent) ([]*rpc.AppendResult, error)
}

// EventGetter is an Appender that can show an event of the log. Run asks it where a
// conflict lies.
type EventGetter interface {
	Event(ctx context.Context, index uint64) (*keytrailv1.KeyEvent, error)
}

// Config is what Run works with. All fields are required but those said to be optional.
type Config struct {
	Importer Importer
	Inputs   []Input
	// SkippedFiles goes into the summary. Optional.
	SkippedFiles []SkippedFile
	// Stdin is read for the input Stdin. Optional without it.
	Stdin    io.Reader
	Appender Appender
	Rejects  *RejectFile
	// Progress is called with the number of bytes of each read, as stored. Optional.
	Progress func(n int)
}

// Run reads every input and sends its events to the log. The summary is never nil and
// tells how far the import came, also beside an error; the reject file is closed. A file
// that breaks off or cannot be decompressed becomes a reject, and the next one is read.
//
// When ctx ends, Run stops sending and returns its error; what an importer held back is
// then not sent. Importing the same inputs again completes an import that was stopped.
func Run(ctx context.Context, cfg Config) (*Summary, error) {
	r := &runner{cfg: cfg, sum: &Summary{SkippedFiles: cfg.SkippedFiles}}
	err := r.run(ctx)
	if err != nil {
		r.sum.Unanswered += r.inFlight
	}
	err = errors.Join(err, cfg.Rejects.Close())
	r.sum.RejectFile = cfg.Rejects.Path()
	r.sum.finish()
	return r.sum, err
}

// runner is the Sink of one Run.
type runner struct {
	cfg     Config
	sum     *Summary
	pending []Item
	// inFlight is how many events the appender holds without having answered.
	inFlight int
	// sinkErr is what a call of the sink returned; it is not the input's fault.
	sinkErr error
}

func (r *runner) run(ctx context.Context) error {
	for _, in := range r.cfg.Inputs {
		if err := r.file(ctx, in); err != nil {
			return err
		}
	}
	if err := r.cfg.Importer.Flush(ctx, r); err != nil {
		return err
	}
	return r.send(ctx)
}

func (r *runner) file(ctx context.Context, in Input) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.sum.Files++
	f, err := in.Open(r.cfg.Stdin, r.cfg.Progress)
	if err != nil {
		return r.Reject(ctx, Reject{File: in.Name, Reason: err.Error()})
	}
	defer f.Close()
	err = r.cfg.Importer.Read(ctx, in.Name, f, r)
	switch {
	case err == nil:
		return nil
	case r.sinkErr != nil || ctx.Err() != nil:
		return err
	default:
		return r.Reject(ctx, Reject{File: in.Name, Reason: err.Error()})
	}
}

// Item implements Sink.
func (r *runner) Item(ctx context.Context, it Item) error {
	r.sum.countEvent(it.Event)
	r.pending = append(r.pending, it)
	if len(r.pending) < BatchSize {
		return nil
	}
	r.sinkErr = r.send(ctx)
	return r.sinkErr
}

// Reject implements Sink.
func (r *runner) Reject(_ context.Context, rej Reject) error {
	r.sum.Rejects++
	r.sinkErr = r.cfg.Rejects.Write(rej)
	return r.sinkErr
}

// Skip implements Skipper.
func (r *runner) Skip(_ context.Context, s Skip) error {
	r.sum.countSkip(s.Reason)
	return nil
}

// Waits between attempts on an overloaded log.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	maxAttempts = 20
)

// send hands over what is pending. Events that the log has no room for now are sent again.
func (r *runner) send(ctx context.Context) error {
	wait := firstWait
	for attempt := 1; len(r.pending) > 0; attempt++ {
		before := len(r.pending)
		busy, err := r.sendOnce(ctx)
		if err != nil {
			return err
		}
		if len(r.pending) == 0 {
			return nil
		}
		if len(r.pending) < before {
			attempt, wait = 1, firstWait
		}
		if attempt == maxAttempts {
			return fmt.Errorf("appending %d events: gave up after %d attempts: %s", before, attempt, busy.GetMessage())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
	}
	return nil
}

// sendOnce leaves in pending what is to be sent again, and returns the reason.
func (r *runner) sendOnce(ctx context.Context) (busy *rpc.AppendError, err error) {
	events := make([]*keytrailv1.KeyEvent, len(r.pending))
	for i, it := range r.pending {
		events[i] = it.Event
	}
	r.inFlight = len(events)
	results, err := r.cfg.Appender.Append(ctx, events)
	if err != nil {
		return nil, fmt.Errorf("appending %d events: %w", len(events), err)
	}
	if len(results) != len(events) {
		return nil, fmt.Errorf("appending %d events: %d results came back", len(events), len(results))
	}
	r.inFlight = 0
	var again []Item
	for i, it := range r.pending {
		retry, err := r.result(ctx, it, results[i])
		if err != nil {
			return nil, err
		}
		if retry {
			again = append(again, it)
			busy = results[i].GetError()
		}
	}
	r.pending = append(r.pending[:0], again...)
	return busy, nil
}

func (r *runner) result(ctx context.Context, it Item, res *rpc.AppendResult) (retry bool, err error) {
	if ack := res.GetAck(); ack != nil {
		if ack.GetDuplicate() {
			r.sum.Duplicates++
		} else {
			r.sum.Logged++
		}
		return false, nil
	}
	e := res.GetError()
	switch codes.Code(e.GetCode()) {
	case codes.ResourceExhausted, codes.Unavailable, codes.Aborted:
		return true, nil
	case codes.AlreadyExists:
		r.conflict(ctx, it, e)
		return false, nil
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		r.sum.Refused++
		return false, r.cfg.Rejects.Write(refused(it, e))
	default:
		return false, fmt.Errorf("appending event %s of %s line %d: %s: %s",
			it.Event.GetEventId(), it.File, it.Line, codes.Code(e.GetCode()), e.GetMessage())
	}
}

// conflict counts one, and finds out what differs if there is room for it in the summary.
// The same record of the source, translated otherwise than before, is none: a newer
// adapter does that, and an import that knew more causes.
func (r *runner) conflict(ctx context.Context, it Item, e *rpc.AppendError) {
	c := Conflict{EventID: it.Event.GetEventId(), File: it.File, Line: it.Line, Index: e.ExistingIndex}
	if getter, ok := r.cfg.Appender.(EventGetter); ok && c.Index != nil {
		// What cannot be fetched (it may not be published yet) is not explained.
		if stored, err := getter.Event(ctx, *c.Index); err == nil {
			if sum := stored.GetRaw().GetSha256(); len(sum) > 0 && bytes.Equal(sum, it.Event.GetRaw().GetSha256()) {
				r.sum.Retranslated++
				return
			}
			c.Differs = differing(stored, it.Event)
		}
	}
	r.sum.Conflicts++
	if len(r.sum.FirstConflicts) < MaxConflicts {
		r.sum.FirstConflicts = append(r.sum.FirstConflicts, c)
	}
}

// differing names the fields that are not the same in a and b, in the order of event.proto.
func differing(a, b *keytrailv1.KeyEvent) []string {
	var names []string
	x, y := a.ProtoReflect(), b.ProtoReflect()
	fields := x.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if x.Has(fd) != y.Has(fd) || !x.Get(fd).Equal(y.Get(fd)) {
			names = append(names, string(fd.Name()))
		}
	}
	return names
}

// refused is the reject of an event that the log did not take; raw is the event itself.
func refused(it Item, e *rpc.AppendError) Reject {
	reason := []string{"the log refused the event: " + e.GetMessage()}
	for _, v := range e.GetFieldViolations() {
		reason = append(reason, v.GetField()+": "+v.GetDescription())
	}
	// protojson fails on invalid UTF-8 only; the reason is then all there is.
	raw, _ := protojson.Marshal(it.Event)
	return Reject{File: it.File, Line: it.Line, Reason: strings.Join(reason, "; "), Raw: raw}
}
