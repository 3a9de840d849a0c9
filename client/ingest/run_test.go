package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/keytrail/keytrail/client/ingest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// words is an importer of words: "?x" is rejected, "-x" skipped, "+x" held back until
// Flush, "!" fails the file, and any other word is an event of that id.
type words struct{ held []ingest.Item }

func (w *words) Read(ctx context.Context, file string, r io.Reader, sink ingest.Sink) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for i, id := range strings.Fields(string(data)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		it := ingest.Item{File: file, Line: i + 1, Event: &keytrailv1.KeyEvent{
			EventId: id, Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
		}}
		switch id[0] {
		case '?':
			err = sink.Reject(ctx, ingest.Reject{File: file, Line: i + 1, Reason: "odd", Raw: []byte(id)})
		case '-':
			err = ingest.NoteSkip(ctx, sink, ingest.Skip{File: file, Line: i + 1, Reason: "dull"})
		case '+':
			w.held = append(w.held, it)
		case '!':
			return errors.New("torn")
		default:
			err = sink.Item(ctx, it)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *words) Flush(ctx context.Context, sink ingest.Sink) error {
	for _, it := range w.held {
		if err := sink.Item(ctx, it); err != nil {
			return err
		}
	}
	return nil
}

// fakeLog answers by the first letter of an id: d duplicate, c conflict, i invalid, b busy
// the first time, x an error that no event should have.
type fakeLog struct {
	sizes []int
	ids   []string
	busy  map[string]bool
	err   error
	call  func(n int)
}

func (l *fakeLog) Append(_ context.Context, events []*keytrailv1.KeyEvent) ([]*rpc.AppendResult, error) {
	l.sizes = append(l.sizes, len(events))
	if l.call != nil {
		l.call(len(l.sizes))
	}
	if l.err != nil {
		return nil, l.err
	}
	var results []*rpc.AppendResult
	for _, ev := range events {
		id := ev.GetEventId()
		fail := func(e *rpc.AppendError) *rpc.AppendResult {
			return &rpc.AppendResult{Result: &rpc.AppendResult_Error{Error: e}}
		}
		res := &rpc.AppendResult{Result: &rpc.AppendResult_Ack{Ack: &rpc.Ack{Index: uint64(len(l.ids)), Duplicate: id[0] == 'd'}}}
		switch {
		case id[0] == 'c':
			index := uint64(7)
			res = fail(&rpc.AppendError{Code: int32(codes.AlreadyExists), Message: "other content", ExistingIndex: &index})
		case id[0] == 'i':
			res = fail(&rpc.AppendError{Code: int32(codes.InvalidArgument), Message: "invalid event", FieldViolations: []*rpc.FieldViolation{{Field: "key.ref", Description: "is required"}}})
		case id[0] == 'x':
			res = fail(&rpc.AppendError{Code: int32(codes.PermissionDenied), Message: "not your tenant"})
		case id[0] == 'b' && !l.busy[id]:
			if l.busy == nil {
				l.busy = make(map[string]bool)
			}
			l.busy[id] = true
			res = fail(&rpc.AppendError{Code: int32(codes.ResourceExhausted), Message: "the pool is full"})
		default:
			l.ids = append(l.ids, id)
		}
		results = append(results, res)
	}
	return results, nil
}

// run imports text from standard input.
func run(t *testing.T, ctx context.Context, text string, log *fakeLog) (*ingest.Summary, error) {
	t.Helper()
	return ingest.Run(ctx, ingest.Config{
		Importer: new(words),
		Inputs:   []ingest.Input{{Name: ingest.Stdin, Size: -1}},
		Stdin:    strings.NewReader(text),
		Appender: log,
		Rejects:  ingest.NewRejectFile(filepath.Join(t.TempDir(), "rejects.ndjson")),
	})
}

func TestRunCounts(t *testing.T) {
	log := new(fakeLog)
	sum, err := run(t, t.Context(), "+last a1 d1 ?odd c1 -dull i1 a2", log)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a1", "d1", "a2", "+last"}, log.ids); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	type counts struct{ Files, Events, Logged, Duplicates, Conflicts, Refused, Rejects, Dull int }
	got := counts{sum.Files, sum.Events, sum.Logged, sum.Duplicates, sum.Conflicts, sum.Refused, sum.Rejects, sum.Skipped["dull"]}
	if diff := cmp.Diff(counts{1, 6, 3, 1, 1, 1, 1, 1}, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if sum.Clean() {
		t.Error("an import with rejects calls itself clean")
	}
	if diff := cmp.Diff([]ingest.Conflict{{EventID: "c1", File: "-", Line: 5, Index: new(uint64(7))}}, sum.FirstConflicts); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]ingest.OperationCount{{Operation: "use.sign", Outcome: "success", Count: 6}}, sum.Operations); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	data, err := os.ReadFile(sum.RejectFile)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for line := range strings.Lines(string(data)) {
		var r struct{ File, Reason, Raw string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		reasons = append(reasons, r.Reason)
		if r.Raw == "" {
			t.Errorf("reject %q without its record", r.Reason)
		}
	}
	want := []string{"odd", "the log refused the event: invalid event; key.ref: is required"}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("reject file (-want +got):\n%s", diff)
	}
}

// explaining is a fakeLog that shows what it holds.
type explaining struct {
	fakeLog
	stored *keytrailv1.KeyEvent
}

func (l *explaining) Event(_ context.Context, index uint64) (*keytrailv1.KeyEvent, error) {
	if index != 7 {
		return nil, fmt.Errorf("no entry %d", index)
	}
	return l.stored, nil
}

func TestRunExplainsConflicts(t *testing.T) {
	as := func(change func(*keytrailv1.KeyEvent)) *keytrailv1.KeyEvent {
		ev := &keytrailv1.KeyEvent{EventId: "c1", Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS}
		change(ev)
		return ev
	}
	for want, stored := range map[string]*keytrailv1.KeyEvent{
		"what differs: caused_by": as(func(ev *keytrailv1.KeyEvent) { ev.CausedBy = &keytrailv1.Cause{EventId: "x"} }),
		"what differs: operation, key": as(func(ev *keytrailv1.KeyEvent) {
			ev.Operation = keytrailv1.Operation_OPERATION_USE_MAC
			ev.Key = &keytrailv1.Key{Ref: "k"}
		}),
	} {
		sum, err := ingest.Run(t.Context(), ingest.Config{
			Importer: new(words), Inputs: []ingest.Input{{Name: ingest.Stdin}}, Stdin: strings.NewReader("c1"),
			Appender: &explaining{stored: stored}, Rejects: ingest.NewRejectFile(filepath.Join(t.TempDir(), "r")),
		})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := sum.WriteTable(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("the summary does not say %q:\n%s", want, b.String())
		}
	}
}

// withRaw gives every event of an importer the hash of its source's record.
type withRaw struct {
	ingest.Importer
	sum []byte
}

type rawSink struct {
	ingest.Sink
	sum []byte
}

func (s rawSink) Item(ctx context.Context, it ingest.Item) error {
	it.Event.Raw = &keytrailv1.Raw{MediaType: "text/plain", Sha256: s.sum}
	return s.Sink.Item(ctx, it)
}

func (w withRaw) Read(ctx context.Context, file string, r io.Reader, sink ingest.Sink) error {
	return w.Importer.Read(ctx, file, r, rawSink{sink, w.sum})
}

// TestRunTellsOldRecordsFromConflicts imports a record that the log holds as another event:
// of the same record it is a better translation, of another record a conflict.
func TestRunTellsOldRecordsFromConflicts(t *testing.T) {
	sums := map[bool][]byte{true: bytes.Repeat([]byte{1}, 32), false: bytes.Repeat([]byte{2}, 32)}
	for same, sum := range sums {
		stored := &keytrailv1.KeyEvent{
			EventId: "c1", CausedBy: &keytrailv1.Cause{EventId: "x"},
			Raw: &keytrailv1.Raw{MediaType: "text/plain", Sha256: sums[true]},
		}
		got, err := ingest.Run(t.Context(), ingest.Config{
			Importer: withRaw{new(words), sum}, Inputs: []ingest.Input{{Name: ingest.Stdin}}, Stdin: strings.NewReader("c1"),
			Appender: &explaining{stored: stored}, Rejects: ingest.NewRejectFile(filepath.Join(t.TempDir(), "r")),
		})
		if err != nil {
			t.Fatal(err)
		}
		if (got.Retranslated == 1) != same || (got.Conflicts == 0) != same || got.Clean() != same {
			t.Errorf("same record %v: %d translated otherwise, %d conflicts, clean %v", same, got.Retranslated, got.Conflicts, got.Clean())
		}
	}
}

func TestRunBatches(t *testing.T) {
	var b strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&b, "a%d ", i)
	}
	log := new(fakeLog)
	sum, err := run(t, t.Context(), b.String(), log)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{500, 500, 200}, log.sizes); diff != "" || sum.Logged != 1200 || !sum.Clean() {
		t.Errorf("%d logged, batches (-want +got):\n%s", sum.Logged, diff)
	}
}

func TestRunRetriesBusyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(fakeLog)
		sum, err := run(t, t.Context(), "a1 b1 a2 b2", log)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a1", "a2", "b1", "b2"}, log.ids); diff != "" || sum.Logged != 4 {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
	})
}

func TestRunGivesUpOnABusyLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(fakeLog)
		log.call = func(int) { log.busy = nil }
		sum, err := run(t, t.Context(), "b1", log)
		if err == nil || !strings.Contains(err.Error(), "the pool is full") {
			t.Errorf("got %v, want the log's reason", err)
		}
		if sum.Logged != 0 || sum.Clean() || len(log.sizes) != 20 {
			t.Errorf("%d logged after %d attempts, clean %v", sum.Logged, len(log.sizes), sum.Clean())
		}
	})
}

func TestRunStopsOnErrors(t *testing.T) {
	gone := errors.New("connection lost")
	sum, err := run(t, t.Context(), "a1 a2", &fakeLog{err: gone})
	if !errors.Is(err, gone) || sum.Unanswered != 2 || sum.Clean() {
		t.Errorf("got %v, %d unanswered; want the appender's error and 2", err, sum.Unanswered)
	}
	if _, err := run(t, t.Context(), "x1", new(fakeLog)); err == nil || !strings.Contains(err.Error(), "not your tenant") {
		t.Errorf("got %v, want the log's reason", err)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	log := &fakeLog{call: func(int) { cancel() }}
	sum, err := run(t, ctx, "+held "+strings.Repeat("a ", 700), log)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if sum.Logged != 500 || sum.Rejects != 0 || len(log.sizes) != 1 {
		t.Errorf("%d logged in %d calls, %d rejects; want 500 in one call", sum.Logged, len(log.sizes), sum.Rejects)
	}
}

func TestRunGoesOnAfterATornFile(t *testing.T) {
	dir := t.TempDir()
	var inputs []ingest.Input
	for name, data := range map[string]string{"1": "a1 !", "3": "a3"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "2"), []byte("\x1f\x8bnot gzip at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1", "2", "3", "gone"} {
		inputs = append(inputs, ingest.Input{Name: filepath.Join(dir, name)})
	}
	log := new(fakeLog)
	sum, err := ingest.Run(t.Context(), ingest.Config{
		Importer: new(words), Inputs: inputs, Appender: log, Rejects: ingest.NewRejectFile(filepath.Join(dir, "rejects")),
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a1", "a3"}, log.ids); diff != "" || sum.Rejects != 3 || sum.Files != 4 {
		t.Errorf("%d rejects of %d files; sent (-want +got):\n%s", sum.Rejects, sum.Files, diff)
	}
}

func TestWriteTable(t *testing.T) {
	sum, err := run(t, t.Context(), "a1 d1 ?odd c1 -dull", new(fakeLog))
	if err != nil {
		t.Fatal(err)
	}
	sum.RejectFile = "r.ndjson"
	var b bytes.Buffer
	if err := sum.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	want := `operation  outcome  events
use.sign   success  3

files read                  1
events                      3
  logged now                1
  already logged            1
  in conflict with the log  1
skipped: dull               1
rejected records            1  in r.ndjson
conflict: - line 4: event c1: index 7 holds other content under this id
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
