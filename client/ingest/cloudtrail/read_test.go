package cloudtrail_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/proto/event"
)

// numbered is a valid record with an id and a time of its own.
func numbered(i int) string {
	r := strings.Replace(record(`"eventName":"Decrypt"`), `"e-1"`, fmt.Sprintf(`"e-%d"`, i), 1)
	return strings.Replace(r, "10:00:00", fmt.Sprintf("10:%02d:00", i), 1)
}

// found sums up what came of a file: the ids and places of events, and of rejects the
// place and the reason.
func found(s *sink) (events, rejects []string) {
	for _, it := range s.items {
		events = append(events, fmt.Sprintf("%s@%d", it.Event.GetEventId(), it.Line))
	}
	for _, r := range s.rejects {
		events := fmt.Sprintf("%d: %s", r.Line, r.Reason)
		rejects = append(rejects, events)
	}
	return events, rejects
}

func TestShapes(t *testing.T) {
	r1, r2, r3 := numbered(1), numbered(2), numbered(3)
	quoted := func(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }
	pretty := strings.ReplaceAll(strings.ReplaceAll(r1, ",", ",\n  "), "{", "{\n  ")
	all := []string{"e-1@1", "e-2@2", "e-3@3"}
	for _, c := range []struct {
		name, data      string
		events, rejects []string
	}{
		{"empty", "", nil, nil},
		{"blank", " \n\n", nil, nil},
		{"lines", r1 + "\n" + r2 + "\n" + r3 + "\n", all, nil},
		{"lines without a last end, CRLF, byte order mark", "\xef\xbb\xbf" + r1 + "\r\n" + r2 + "\r\n" + r3, all, nil},
		{"document", `{"Records":[` + r1 + "," + r2 + "," + r3 + "]}", all, nil},
		{"document with space", "{ \"Records\" :\n [ " + r1 + " ,\n" + r2 + "\n,\n" + r3 + " ] }\n", all, nil},
		{"documents in a row", `{"Records":[` + r1 + `]}{"Records":[` + r2 + "]}\n{\"Records\":[" + r3 + "]}", all, nil},
		{"list later in the document", `{"NextToken":"{[","Records":[` + r1 + "]}", []string{"e-1@1"}, nil},
		{"empty document", `{"Records":[]}`, nil, nil},
		{"array", "[" + r1 + "," + r2 + "," + r3 + "]", all, nil},
		{"pretty record", pretty + "\n" + r2, []string{"e-1@1", fmt.Sprintf("e-2@%d", strings.Count(pretty, "\n")+2)}, nil},
		{"records in one line", r1 + r2 + " " + r3, []string{"e-1@1", "e-2@1", "e-3@1"}, nil},
		{"lookup-events", `{"Events":[{"EventId":"e-1","CloudTrailEvent":"` + quoted(r1) + `"}],"NextToken":"x"}`, []string{"e-1@1"}, nil},
		{"log stream", `{"messageType":"DATA_MESSAGE","logEvents":[{"id":"0","message":"` + quoted(r1) + `"}]}`, []string{"e-1@1"}, nil},
		{"EventBridge", `{"version":"0","detail-type":"AWS API Call via CloudTrail","detail":` + r1 + "}\n", []string{"e-1@1"}, nil},
		{"EventBridge in an array", `[{"version":"0","detail":` + r1 + `}]`, []string{"e-1@1"}, nil},

		{"broken line", r1 + "\n{\"eventVersion\":\"1.11\",\"eventID\":\n" + r3, []string{"e-1@1", "e-3@3"},
			[]string{"2: the record breaks off where another begins"}},
		{"line cut in a string", r1[:80] + "\n" + r2 + "\n" + r3, all[1:], []string{"1: the record breaks off where another begins"}},
		{"no JSON", "hello\n" + r2 + "\nbye", []string{"e-2@2"}, []string{"1: not JSON", "3: not JSON"}},
		{"garbage after a record", r1 + " x\n" + r2, all[:2], []string{"1: not JSON"}},
		{"truncated line", r1 + "\n" + r2[:90], all[:1], []string{"2: the file ends in the middle of this record"}},
		{"broken element", `{"Records":[` + r1 + `,{"eventID":},` + r3 + "]}", []string{"e-1@1", "e-3@3"},
			[]string{"2: reading JSON: invalid character '}' looking for beginning of value"}},
		{"quote missing in an element", `{"Records":[` + r1 + "," + strings.Replace(r2, `"eventName":"Decrypt"`, `"eventName":"Decrypt`, 1) + "," + r3 + "]}",
			[]string{"e-1@1", "e-3@3"}, []string{"2: the record breaks off where another begins"}},
		{"element breaks off", `{"Records":[` + r1 + "," + r2[:100] + "," + r3 + "]}", []string{"e-1@1", "e-3@3"},
			[]string{"2: the record breaks off where another begins"}},
		{"elements of other kinds", `{"Records":[null,7,"a,b]",[1,{}],` + r1 + "]}", []string{"e-1@5"},
			[]string{"1: not a JSON object", "2: not a JSON object", "3: not a JSON object", "4: not a JSON object"}},
		{"truncated document", `{"Records":[` + r1 + "," + r2[:90], all[:1], []string{"2: the file ends in the middle of this record"}},
		{"truncated between elements", `{"Records":[` + r1 + ",", all[:1], []string{"2: the file ends before its list of records does"}},
		{"truncated after the list", `{"Records":[` + r1 + "]", all[:1], []string{"1: the file ends before the document does"}},
		{"field twice", strings.Replace(r1, `"eventName"`, `"eventID":"e-9","eventName"`, 1), nil, []string{"1: the record names a field twice"}},
		{"field twice, deep", record(`"eventName":"Encrypt","requestParameters":{"keyId":"a","keyId":"b"}`), nil, []string{"1: the record names a field twice"}},
		{"not UTF-8", strings.Replace(r1, "maren", "\xff", 1), nil, []string{"1: the record is not valid UTF-8"}},
		{"another log", `{"time":"2026-01-01T00:00:00Z","type":"request"}`, nil, []string{"1: not a CloudTrail record: it has no eventSource"}},
		{"no id", strings.Replace(r1, `"eventID":"e-1",`, "", 1), nil, []string{"1: the record has no eventID"}},
		{"id too long", strings.Replace(r1, `"e-1"`, `"`+strings.Repeat("e", 257)+`"`, 1), nil, []string{"1: eventID is 257 bytes long; the limit is 256"}},
		{"id with a control character", strings.Replace(r1, `"e-1"`, `"e\u0007"`, 1), nil, []string{"1: eventID holds control or invisible characters"}},
		{"no name", record(`"eventName":7`), nil, []string{"1: the record has no eventName"}},
		{"bad time", strings.Replace(r1, "2026-05-01T", "", 1), nil, []string{`1: eventTime "10:01:00Z" is not a time`}},
		{"time before the log's time", strings.Replace(r1, "2026-", "1926-", 1), nil, []string{"1: eventTime 1926-05-01T10:01:00Z is out of bounds"}},
		{"inner record broken", `{"CloudTrailEvent":"{"}`, nil, []string{"1: CloudTrailEvent: reading JSON: unexpected EOF"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := read(t, tenant, []byte(c.data))
			events, rejects := found(s)
			if diff := cmp.Diff(c.events, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.rejects, rejects); diff != "" {
				t.Errorf("rejects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostileSizes(t *testing.T) {
	r1, r2 := numbered(1), numbered(2)
	long := strings.Replace(numbered(7), `"Decrypt"`, `"Decrypt","note":"`+strings.Repeat("x", 3<<20)+`"`, 1)
	deep := strings.Replace(numbered(8), `"Decrypt"`, `"Decrypt","requestParameters":`+strings.Repeat("[", 100000)+strings.Repeat("]", 100000), 1)
	huge := strings.Replace(numbered(3), `"Decrypt"`, `"Decrypt","requestParameters":{"numberOfBytes":1e999999999}`, 1)
	for name, data := range map[string]string{
		"document": `{"Records":[` + strings.Join([]string{r1, long, deep, huge, r2}, ",") + "]}",
		"lines":    strings.Join([]string{r1, long, deep, huge, r2}, "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			s := read(t, tenant, []byte(data))
			events, _ := found(s)
			if diff := cmp.Diff([]string{"e-1@1", "e-2@5", "e-3@4"}, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if len(s.rejects) != 2 {
				t.Fatalf("got %d rejects, want the long and the deep record", len(s.rejects))
			}
			for _, r := range s.rejects {
				if len(r.Raw) > ingest.MaxRecordSize {
					t.Errorf("line %d: a reject of %d bytes", r.Line, len(r.Raw))
				}
			}
		})
	}
}

// Reading must not depend on how the bytes come.
func TestSmallReads(t *testing.T) {
	data := testdata(t, "events.ndjson")[:20000]
	want, wantRejects := found(read(t, tenant, data))
	for _, doc := range [][]byte{data, append(append([]byte(`{"Records":[`), bytes.ReplaceAll(data, []byte("\n"), []byte(","))...), "]}"...)} {
		imp, _ := cloudtrail.New(tenant)
		s := new(sink)
		if err := imp.Read(t.Context(), "f", iotest.OneByteReader(bytes.NewReader(doc)), s); err != nil {
			t.Fatal(err)
		}
		if err := imp.Flush(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		got, rejects := found(s)
		if diff := cmp.Diff(want, got); diff != "" || len(rejects) != len(wantRejects) {
			t.Errorf("one byte at a time (-want +got):\n%s%v", diff, rejects)
		}
	}
}

func TestTruncatedGzip(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprintf(w, `{"Records":[%s`, numbered(1))
	for i := range 59 {
		fmt.Fprintf(w, ",%s", numbered(i))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(z.Bytes()[:z.Len()-40]))
	if err != nil {
		t.Fatal(err)
	}
	imp, _ := cloudtrail.New(tenant)
	s := new(sink)
	if err := imp.Read(t.Context(), "f", r, s); err != nil {
		t.Fatal(err)
	}
	if len(s.rejects) != 1 || !strings.Contains(s.rejects[0].Reason, io.ErrUnexpectedEOF.Error()) {
		t.Errorf("rejects %+v, want one that gives the read error", s.rejects)
	}
}

func TestSinkErrorEnds(t *testing.T) {
	stop := errors.New("stop")
	imp, _ := cloudtrail.New(tenant)
	err := imp.Read(t.Context(), "f", strings.NewReader("x\n"+numbered(1)), failing{stop})
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the sink's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := imp.Read(ctx, "f", strings.NewReader(numbered(1)), failing{stop}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

type failing struct{ err error }

func (f failing) Item(context.Context, ingest.Item) error     { return f.err }
func (f failing) Reject(context.Context, ingest.Reject) error { return f.err }

// More events than the window holds leave before the end, in order where they can.
func TestWindowIsBounded(t *testing.T) {
	imp, _ := cloudtrail.New(tenant)
	s := new(sink)
	var b strings.Builder
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const n = 21000
	for i := range n {
		r := strings.Replace(record(`"eventName":"Decrypt"`), `"e-1"`, fmt.Sprintf(`"e-%d"`, i), 1)
		at := start.Add(time.Duration(i^7) * time.Second)
		b.WriteString(strings.Replace(r, "2026-05-01T10:00:00Z", at.Format(time.RFC3339), 1) + "\n")
	}
	if err := imp.Read(t.Context(), "f", strings.NewReader(b.String()), s); err != nil {
		t.Fatal(err)
	}
	if len(s.items) == 0 {
		t.Error("nothing left the window")
	}
	if err := imp.Flush(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if len(s.items) != n {
		t.Fatalf("got %d events, want %d", len(s.items), n)
	}
	for i := 1; i < n; i++ {
		if s.items[i].Event.GetTime().AsTime().Before(s.items[i-1].Event.GetTime().AsTime()) {
			t.Fatalf("event %d is out of order", i)
		}
	}
}

// The trail as delivered: three files, read in one import, link a deletion to its cause.
func TestTrailDirectory(t *testing.T) {
	dir := filepath.Join(root(t), "testdata", "audit", "cloudtrail", "trail")
	inputs, skipped, err := ingest.Inputs([]string{dir}, cloudtrail.SkipFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(inputs) != 3 || len(skipped) != 1 || !strings.Contains(skipped[0].Reason, "digest") {
		t.Fatalf("inputs %v, skipped %v; want 3 and the digest", inputs, skipped)
	}
	imp, _ := cloudtrail.New(tenant)
	s := new(sink)
	for _, in := range inputs {
		r, err := in.Open(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := imp.Read(t.Context(), in.Name, r, s); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	if err := imp.Flush(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range s.items {
		got = append(got, event.OperationName(it.Event.GetOperation()))
	}
	if diff := cmp.Diff([]string{"key.generate", "key.destroy_schedule", "key.destroy"}, got); diff != "" || len(s.rejects) != 0 {
		t.Fatalf("events (-want +got):\n%s%v", diff, s.rejects)
	}
	if cause := s.items[2].Event.GetCausedBy().GetEventId(); cause != s.items[1].Event.GetEventId() {
		t.Errorf("the deletion was caused by %q, want %q", cause, s.items[1].Event.GetEventId())
	}
	want := map[string]int{"not about keys": 2, "only looks at the settings of a trail": 1, "CloudTrail Insights, no calls": 1}
	if diff := cmp.Diff(want, s.skips); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

// Records of other services are skipped whatever they hold, but not what only looks alike.
func TestForeignRecords(t *testing.T) {
	other := strings.Replace(numbered(1), "kms.amazonaws.com", "s3.amazonaws.com", 1)
	escaped := strings.Replace(numbered(2), "kms.amazonaws.com", `kms\u002eamazonaws.com`, 1)
	mentions := strings.Replace(other, "user/maren", "user/kms.amazonaws.com", 1)
	nested := `{"detail-type":"x","inner":` + other + "}"
	s := read(t, tenant, []byte(strings.Join([]string{other, escaped, mentions, nested, other[:50] + "}"}, "\n")))
	events, rejects := found(s)
	if diff := cmp.Diff([]string{"e-2@2"}, events); diff != "" || s.skips["not about keys"] != 2 {
		t.Errorf("skips %v; events (-want +got):\n%s", s.skips, diff)
	}
	want := []string{"4: not a CloudTrail record: it has no eventSource", "5: reading JSON: unexpected EOF"}
	if len(rejects) != 2 || rejects[0] != want[0] {
		t.Errorf("rejects %q, want %q", rejects, want)
	}
}

// A digest that is given by name is no reject.
func TestDigestByContent(t *testing.T) {
	s := read(t, tenant, []byte(`{"awsAccountId":"000100020003","digestStartTime":"2026-03-02T12:00:00Z","logFiles":[{"a":1}]}`))
	if s.skips["a CloudTrail digest, no records"] != 1 || len(s.rejects) != 0 {
		t.Errorf("skips %v, rejects %v", s.skips, s.rejects)
	}
}

func TestLookupEvents(t *testing.T) {
	s := read(t, tenant, testdata(t, "lookup-events.json"))
	if len(s.items) != 2 || len(s.rejects) != 0 {
		t.Fatalf("got %d events, rejects %v; want 2", len(s.items), s.rejects)
	}
	// The same record by another way is the same event.
	byID := make(map[string]string)
	for _, it := range read(t, tenant, testdata(t, "events.ndjson")).items {
		byID[it.Event.GetEventId()] = string(lines(t, []ingest.Item{it}))
	}
	for _, it := range s.items {
		if diff := cmp.Diff(byID[it.Event.GetEventId()], string(lines(t, []ingest.Item{it}))); diff != "" {
			t.Errorf("event differs (-as line +looked up):\n%s", diff)
		}
	}
}
