package openbao_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// encode is the bytes of events, in order.
func encode(t testing.TB, c *collector) [][]byte {
	t.Helper()
	var out [][]byte
	for _, it := range c.items {
		b, err := event.Append(nil, it.Event)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// TestSameBytes: an event depends on its line and on nothing else: not on the import, nor
// on line ends, nor on whether the request line is there.
func TestSameBytes(t *testing.T) {
	log := sample(t, "audit.ndjson")
	want := encode(t, readClean(t, byNamespace(), log))
	for name, other := range map[string][]byte{
		"again":                  log,
		"CRLF":                   bytes.ReplaceAll(log, []byte("\n"), []byte("\r\n")),
		"blank lines":            bytes.ReplaceAll(log, []byte("\n"), []byte("\n\n \n")),
		"no line end at the end": bytes.TrimSuffix(log, []byte("\n")),
	} {
		if !slices.EqualFunc(want, encode(t, readClean(t, byNamespace(), other)), bytes.Equal) {
			t.Errorf("%s: events differ", name)
		}
	}
	paired := readClean(t, byNamespace(), []byte(strings.Join(sampleLines(t, "audit.ndjson", seq(3, 818)...), "\n")))
	var responses []string
	for _, l := range sampleLines(t, "audit.ndjson", seq(3, 818)...) {
		if strings.Contains(l, `"type":"response"`) {
			responses = append(responses, l)
		}
	}
	alone := readClean(t, byNamespace(), []byte(strings.Join(responses, "\n")))
	got := encode(t, alone)
	for _, b := range encode(t, paired) {
		if !slices.ContainsFunc(got, func(g []byte) bool { return bytes.Equal(g, b) }) {
			ev, _ := event.Parse(b)
			if attribute(ev, "probe") == "" {
				t.Errorf("without request lines there is no such event: %v", ev)
			}
		}
	}
}

// TestBadLines: a line that cannot be read is rejected with its number, and the rest goes
// on.
func TestBadLines(t *testing.T) {
	good := sampleLines(t, "audit.ndjson", 101, 102)
	set := func(path []string, name string, v any) string {
		return edit(t, good[1], func(m map[string]any) { part(m, path...)[name] = v })
	}
	for _, row := range []struct{ name, line, reason string }{
		{"garbage", "no log at all", "no JSON object"},
		{"cut off", good[1][:400], "unexpected end"},
		{"two records", good[1] + good[1], "after top-level value"},
		{"array", "[1,2]", "no JSON object"},
		{"wrong types", `{"type":7}`, "not an audit record"},
		{"no type", `{"time":"2026-11-22T04:32:19Z"}`, "no type"},
		{"KMIP engine", `{"time":"2021-11-18T03:58:45Z","type":"kmip-response","request":{}}`, `type "kmip-response"`},
		{"no id", set([]string{"request"}, "id", ""), "no request.id"},
		{"no time", set(nil, "time", ""), "time is not"},
		{"before 1990", set(nil, "time", "1970-01-01T00:00:00Z"), "before 1990"},
		{"not UTF-8", strings.Replace(good[1], "payments-pan", "payments-\xff", 1), "not UTF-8"},
		{"long key", set([]string{"request"}, "path", "transit/keys/"+strings.Repeat("k", 600)), "key.ref"},
		{"control character in a key", set([]string{"request"}, "path", "transit/keys/a\x00b"), "key.ref"},
		{"turned writing in a name", set([]string{"auth"}, "entity_id", "a\u202eb"), "actor.id"},
		{"long id", set([]string{"request"}, "id", strings.Repeat("i", 300)), "event_id"},
		{"long namespace", set([]string{"request", "namespace"}, "path", strings.Repeat("n", 200)), "tenant"},
		{"huge", `{"a":"` + strings.Repeat("x", ingest.MaxRecordSize) + `"}`, "longer than 1048576"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := read(t, byNamespace(), []byte(good[0]+"\n"+row.line+"\n"+good[1]+"\n"))
			if len(c.items) != 1 || c.items[0].Line != 3 {
				t.Errorf("%d events", len(c.items))
			}
			if len(c.rejects) != 1 {
				t.Fatalf("%d rejects, want 1", len(c.rejects))
			}
			r := c.rejects[0]
			if r.Line != 2 || r.File != "audit.log" || !strings.Contains(r.Reason, row.reason) {
				t.Errorf("line %d: %s", r.Line, r.Reason)
			}
			if len(r.Raw) == 0 || len(r.Raw) > ingest.MaxRecordSize || !strings.HasPrefix(row.line, string(r.Raw)) {
				t.Errorf("%d bytes of the line", len(r.Raw))
			}
		})
	}
}

// TestLongestLine: the limit itself is allowed, with any line end.
func TestLongestLine(t *testing.T) {
	line := sampleLines(t, "audit.ndjson", 102)[0]
	line = strings.Repeat(" ", ingest.MaxRecordSize-len(line)) + line
	for _, end := range []string{"", "\n", "\r\n"} {
		one(t, byNamespace(), line+end)
		if c := read(t, byNamespace(), []byte(" "+line+end)); len(c.rejects) != 1 {
			t.Errorf("one byte more: %d rejects", len(c.rejects))
		}
	}
}

// TestLongText: free text is cut, names are not.
func TestLongText(t *testing.T) {
	line := edit(t, sampleLines(t, "audit.ndjson", 228)[0], func(m map[string]any) {
		m["error"] = strings.Repeat("é", 3000)
		part(m, "request")["path"] = "transit/frobnicate/" + strings.Repeat("p", 5000)
	})
	ev := one(t, byNamespace(), line)
	for name, s := range map[string]string{"message": ev.GetError().GetMessage(), "path": attribute(ev, "path")} {
		if len(s) > 2048 || len(s) < 2040 || !strings.HasSuffix(s, "…") {
			t.Errorf("%s is %d bytes", name, len(s))
		}
	}
}

// TestDuplicates: lines that come twice give the same events twice; the log knows them.
func TestDuplicates(t *testing.T) {
	l := sampleLines(t, "audit.ndjson", 101, 102)
	for name, lines := range map[string][]string{
		"each line":  {l[0], l[0], l[1], l[1]},
		"whole file": {l[0], l[1], l[0], l[1]},
	} {
		got := encode(t, readClean(t, byNamespace(), []byte(strings.Join(lines, "\n"))))
		if len(got) != 2 || !bytes.Equal(got[0], got[1]) {
			t.Errorf("%s: %d events", name, len(got))
		}
	}
}

// TestAcrossFiles: a call that a rotation of the log cut in two is one event when both
// files are read, and two that do not contradict each other when they are imported apart.
func TestAcrossFiles(t *testing.T) {
	l := sampleLines(t, "audit.ndjson", 101, 102)
	c := &collector{t: t}
	i := openbao.New(byNamespace())
	for n, line := range l {
		if err := i.Read(t.Context(), fmt.Sprintf("audit.%d", n), strings.NewReader(line), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Flush(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if len(c.items) != 1 || c.items[0].File != "audit.1" || c.items[0].Line != 1 {
		t.Fatalf("read together: %v", c.items)
	}
	apart := one(t, byNamespace(), l[0])
	answered := one(t, byNamespace(), l[1])
	if apart.GetOutcome() != keytrailv1.Outcome_OUTCOME_PENDING || apart.GetKey().GetVersion() != "" {
		t.Errorf("request alone: %v", apart)
	}
	if apart.GetRequestId() != answered.GetRequestId() || apart.GetEventId() == answered.GetEventId() {
		t.Errorf("ids %q and %q of request %q", apart.GetEventId(), answered.GetEventId(), apart.GetRequestId())
	}
}

// TestUnansweredDenial: a refusal is told by the request line already.
func TestUnansweredDenial(t *testing.T) {
	ev := one(t, byNamespace(), sampleLines(t, "audit.ndjson", 111)...)
	if ev.GetOutcome() != keytrailv1.Outcome_OUTCOME_DENIED {
		t.Errorf("%v", ev.GetOutcome())
	}
}

// TestPendingByTime: a request that has waited longer than a call can take comes out
// before what follows it.
func TestPendingByTime(t *testing.T) {
	l := sampleLines(t, "audit.ndjson", 101, 104)
	late := edit(t, l[1], func(m map[string]any) { m["time"] = "2026-11-22T04:43:00Z" })
	c := readClean(t, byNamespace(), []byte(l[0]+"\n"+late))
	if len(c.items) != 2 || c.items[0].Line != 1 {
		t.Errorf("%v", c.items)
	}
}

// countingSink counts and keeps nothing.
type countingSink struct{ items, rejects int }

func (s *countingSink) Item(context.Context, ingest.Item) error     { s.items++; return nil }
func (s *countingSink) Reject(context.Context, ingest.Reject) error { s.rejects++; return nil }

// TestPendingIsBounded: requests that nobody answers do not fill the memory, whether they
// are many or large.
func TestPendingIsBounded(t *testing.T) {
	request := func(n, padding int) string {
		return fmt.Sprintf(`{"time":"2026-11-22T04:32:19Z","type":"request","request":{"id":"%d","operation":"update",`+
			`"path":"transit/encrypt/k","mount_type":"transit","mount_point":"transit/","x":"%s"}}`+"\n",
			n, strings.Repeat("x", padding))
	}
	for name, row := range map[string]struct{ count, padding, least int }{
		"many":  {100_010, 0, 10},
		"large": {70, 1_000_000, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			go func() {
				for n := range row.count {
					if _, err := io.WriteString(w, request(n, row.padding)); err != nil {
						return
					}
				}
				w.Close()
			}()
			var s countingSink
			i := openbao.New(byNamespace())
			if err := i.Read(t.Context(), "audit.log", r, &s); err != nil {
				t.Fatal(err)
			}
			if s.items < row.least {
				t.Errorf("%d events before the end of the file, want at least %d", s.items, row.least)
			}
			if err := i.Flush(t.Context(), &s); err != nil {
				t.Fatal(err)
			}
			if s.items != row.count || s.rejects != 0 {
				t.Errorf("%d events, %d rejects of %d requests", s.items, s.rejects, row.count)
			}
		})
	}
}

// TestKeepRaw: the line goes into the event, unless it is too long for it or the device
// shows secrets.
func TestKeepRaw(t *testing.T) {
	opts := byNamespace()
	opts.KeepRaw = true
	line := sampleLines(t, "audit.ndjson", 102)[0]
	raw := one(t, opts, "@cee: "+line+"\r\n").GetRaw()
	sum := sha256.Sum256([]byte(line))
	if string(raw.GetContent()) != line || !bytes.Equal(raw.GetSha256(), sum[:]) || raw.GetMediaType() != "application/json" {
		t.Errorf("%v", raw)
	}
	if got := one(t, byNamespace(), line).GetRaw(); got.GetContent() != nil || !bytes.Equal(got.GetSha256(), sum[:]) {
		t.Errorf("without KeepRaw: %v", got)
	}
	for name, change := range map[string]func(m map[string]any){
		"too long":       func(m map[string]any) { part(m, "request", "data")["x"] = strings.Repeat("x", 40_000) },
		"token":          func(m map[string]any) { part(m, "request")["client_token"] = "s.SECRET" },
		"token of auth":  func(m map[string]any) { part(m, "auth")["client_token"] = "s.SECRET" },
		"new token":      func(m map[string]any) { part(m, "response", "auth")["client_token"] = "s.SECRET" },
		"wrapping token": func(m map[string]any) { part(m, "response", "wrap_info")["token"] = "s.SECRET" },
		"plaintext":      func(m map[string]any) { part(m, "request", "data")["plaintext"] = "SECRET" },
		"batch": func(m map[string]any) {
			part(m, "request", "data")["batch_input"] = []any{map[string]any{"plaintext": "SECRET"}}
		},
	} {
		ev := one(t, opts, edit(t, line, change))
		if ev.GetRaw().GetContent() != nil || attribute(ev, "raw_withheld") == "" {
			t.Errorf("%s: kept", name)
		}
		b, err := event.Append(nil, ev)
		if err != nil || bytes.Contains(b, []byte("SECRET")) {
			t.Errorf("%s: the secret is in the event (%v)", name, err)
		}
	}
}

// TestTokenInPath: old clients put tokens into the path.
func TestTokenInPath(t *testing.T) {
	opts := byNamespace()
	opts.KeepRaw = true
	line := edit(t, sampleLines(t, "audit.ndjson", 100)[0], func(m map[string]any) {
		part(m, "request")["path"] = "auth/token/lookup/s.SECRET"
	})
	ev := one(t, opts, line)
	b, err := event.Append(nil, ev)
	if err != nil || bytes.Contains(b, []byte("SECRET")) {
		t.Errorf("the token is in the event (%v)", err)
	}
	if ev.GetSourceOperation() != "read auth/token/lookup/:secret" {
		t.Errorf("%s", ev.GetSourceOperation())
	}
}

// failingSink refuses everything.
type failingSink struct{ err error }

func (s failingSink) Item(context.Context, ingest.Item) error     { return s.err }
func (s failingSink) Reject(context.Context, ingest.Reject) error { return s.err }

// TestErrors: what the sink, the reader and the context say ends the reading.
func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	log := sample(t, "lifecycle.ndjson")
	if err := openbao.New(byNamespace()).Read(t.Context(), "a", bytes.NewReader(log), failingSink{broken}); !errors.Is(err, broken) {
		t.Errorf("sink, item: %v", err)
	}
	if err := openbao.New(byNamespace()).Read(t.Context(), "a", strings.NewReader("x\n"), failingSink{broken}); !errors.Is(err, broken) {
		t.Errorf("sink, reject: %v", err)
	}
	r := io.MultiReader(bytes.NewReader(log), iotest.ErrReader(broken))
	err := openbao.New(byNamespace()).Read(t.Context(), "a", r, &countingSink{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "reading a line 57") {
		t.Errorf("reader: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := openbao.New(byNamespace()).Read(ctx, "a", bytes.NewReader(log), &countingSink{}); !errors.Is(err, context.Canceled) {
		t.Errorf("context: %v", err)
	}
}

// FuzzRead: no bytes make the importer panic, every event is valid, every line is an
// event, a reject, a blank or a request that was answered, and reading again gives the
// same.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"lifecycle.ndjson", "audit-second-prefixed.log"} {
		lines := bytes.SplitAfter(sample(f, name), []byte("\n"))
		for n := 0; n+2 <= len(lines); n += 2 {
			f.Add(bytes.Join(lines[n:n+2], nil))
		}
	}
	all := bytes.SplitAfter(sample(f, "audit.ndjson"), []byte("\n"))
	for _, n := range []int{2, 110, 159, 230, 248, 250, 262, 264, 272, 286, 290, 332, 334, 354, 378, 384, 386, 396, 758, 772, 819, 824} {
		f.Add(all[n-1])
	}
	f.Add([]byte("{\"\n{}\n\r\n[]\x00"))
	opts := byNamespace()
	opts.KeepRaw = true
	f.Fuzz(func(t *testing.T, log []byte) {
		c := read(t, opts, log)
		seen := make(map[int]bool)
		for _, it := range c.items {
			seen[it.Line] = true
		}
		for _, r := range c.rejects {
			if r.Reason == "" || seen[r.Line] {
				t.Errorf("line %d: reason %q", r.Line, r.Reason)
			}
			seen[r.Line] = true
		}
		if len(seen) != len(c.items)+len(c.rejects) {
			t.Errorf("%d lines gave %d events and %d rejects", len(seen), len(c.items), len(c.rejects))
		}
		for n, line := range bytes.Split(log, []byte("\n")) {
			if !seen[n+1] && len(bytes.TrimSpace(line)) > 0 && !bytes.Contains(bytes.ToLower(line), []byte("equest")) {
				t.Errorf("line %d is lost: %q", n+1, line)
			}
		}
		if !slices.EqualFunc(encode(t, c), encode(t, read(t, opts, log)), bytes.Equal) {
			t.Error("reading again gives other events")
		}
	})
}
