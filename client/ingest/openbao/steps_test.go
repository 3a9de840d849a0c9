package openbao_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// step is one call of the run that wrote the samples, told by the client that made it.
type step struct {
	Step       int      `json:"step"`
	Operation  string   `json:"operation"`
	Namespace  string   `json:"namespace"`
	Actor      string   `json:"actor"`
	Key        string   `json:"key"`
	Visible    any      `json:"key_version_visible"`
	Outcome    string   `json:"outcome"`
	Effect     string   `json:"effect"`
	Also       []string `json:"also"`
	AuditLines []int    `json:"audit_lines"`
	RequestIDs []string `json:"request_ids"`
}

// told is what an event and a step can be compared by.
type told struct {
	Operation, Key, Actor, Outcome, Tenant string
	Versions                               []string
	NoEffect                               bool
}

// invisible is where the log, or the event's vocabulary, cannot say what the client of
// the run knew. Everything else must agree.
var invisible = map[int]struct {
	reason string
	change func(*told)
}{
	120: {"two of three items were signed; HTTP says 200", func(w *told) { w.Outcome = "partial" }},
	130: {"items of a batch failed; HTTP says 206", func(w *told) { w.Outcome = "partial" }},
	137: {"a wrapping token bears no name", func(w *told) { w.Actor = "" }},
	153: {"the key's name is only inside the backup", func(w *told) { w.Key = "" }},
	382: {"pki: the key has no name, its id is hashed", func(w *told) { w.Key = "" }},
	384: {"pki: the key has no name, its id is hashed", func(w *told) { w.Key = "" }},
	196: {"login failed: the name was only claimed", func(w *told) { w.Actor = "" }},
	197: {"login failed: the name was only claimed", func(w *told) { w.Actor = "" }},
	198: {"login failed: not even a name", func(w *told) { w.Actor = "" }},
	199: {"no token, no actor", func(w *told) { w.Actor = "" }},
	200: {"invented token, no actor", func(w *told) { w.Actor = "" }},
	202: {"the token's name in the log", func(w *told) { w.Actor = "token-nightly" }},
	204: {"the token's name in the log", func(w *told) { w.Actor = "token-two-uses" }},
	205: {"the token's name in the log", func(w *told) { w.Actor = "token-two-uses" }},
	206: {"used-up token, no actor", func(w *told) { w.Actor = "" }},
	208: {"the token's name in the log", func(w *told) { w.Actor = "token-batchy" }},
	210: {"the token's name in the log", func(w *told) { w.Actor = "token-leaver" }},
	211: {"revoked token, no actor", func(w *told) { w.Actor = "" }},
	212: {"expired token, no actor", func(w *told) { w.Actor = "" }},
	418: {"called without a token", func(w *told) { w.Actor = "" }},
}

// latestOnly is the operations whose lines show the key's latest version, which is not
// the version that they acted on.
var latestOnly = []string{"meta.read", "meta.update", "key.rotation_config", "key.destroy_schedule", "key.destroy_cancel"}

// want is a step as its event should tell it.
func (s step) want() told {
	w := s.plain()
	if d, ok := invisible[s.Step]; ok {
		d.change(&w)
	}
	return w
}

// plain is a step as an event would tell it if the log told everything.
func (s step) plain() told {
	w := told{Operation: s.Operation, Key: s.Key, Actor: s.Actor, Outcome: s.Outcome, Tenant: s.Namespace}
	if w.Tenant == "" {
		w.Tenant = "platform"
	}
	if w.Outcome == "not_found" {
		w.Outcome = "failure"
	}
	w.NoEffect = s.Effect == "none"
	if !w.NoEffect && w.Key != "" && !slices.Contains(latestOnly, s.Operation) {
		w.Versions = visibleVersions(s.Visible)
	}
	return w
}

// visibleVersions are those that the client found in the answer's line, without repeats
// and without the 0 of items that failed.
func visibleVersions(v any) []string {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var out []string
	for _, one := range list {
		n, ok := one.(float64)
		if s := strconv.Itoa(int(n)); ok && n > 0 && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func tell(ev *keytrailv1.KeyEvent) told {
	g := told{
		Operation: event.OperationName(ev.GetOperation()),
		Key:       ev.GetKey().GetRef(),
		Actor:     ev.GetActor().GetDisplay(),
		Outcome:   event.OutcomeName(ev.GetOutcome()),
		Tenant:    ev.GetTenant(),
		NoEffect:  ev.GetNoEffect(),
		Versions:  slices.Clone(ev.GetKey().GetVersions()),
	}
	if v := ev.GetKey().GetVersion(); v != "" {
		g.Versions = []string{v}
	}
	return g
}

// byBound is the operations whose versions follow from a bound in clear and not from a
// version in the line: see refineTrim and refineConfig.
var byBound = map[int][]string{
	74:  {"1", "2"}, // min_encryption_version 3, min_available_version 0
	76:  {"1"},      // trimmed to min_available_version 2
	126: {"1"},      // min_encryption_version 2
}

func TestSteps(t *testing.T) {
	c := readClean(t, byNamespace(), sample(t, "audit.ndjson"))
	if ids := byID(c); len(ids) != len(c.items) {
		t.Errorf("%d items with %d different ids", len(c.items), len(ids))
	}
	byLine := make(map[int]*keytrailv1.KeyEvent)
	for _, it := range c.items {
		byLine[it.Line] = it.Event
	}
	calls := 0
	scan := bufio.NewScanner(bytes.NewReader(sample(t, "steps.ndjson")))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var s step
		if err := json.Unmarshal(scan.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		if len(s.AuditLines) == 0 {
			continue
		}
		// The last line is the call's. Before it stand the probe of a device that is being
		// enabled, or the CLI's fetching of a wrapping key.
		last := s.AuditLines[len(s.AuditLines)-1]
		ev := byLine[last]
		if ev == nil || !slices.Contains(s.RequestIDs, ev.GetEventId()) {
			t.Errorf("step %d (%s): no event at line %d", s.Step, s.Operation, last)
			continue
		}
		for _, n := range s.AuditLines[:len(s.AuditLines)-1] {
			first := byLine[n]
			if first == nil {
				continue
			}
			calls++
			want := map[string]string{"log.enable": "other", "key.import": "key.import_prepare"}[s.Operation]
			if got := event.OperationName(first.GetOperation()); got != want {
				t.Errorf("step %d: line %d is %s, want %s", s.Step, n, got, want)
			}
		}
		calls++
		want := s.want()
		if v, ok := byBound[s.Step]; ok {
			want.Versions = v
		}
		if diff := cmp.Diff(want, tell(ev)); diff != "" {
			t.Errorf("step %d, lines %v (-steps +event):\n%s", s.Step, s.AuditLines, diff)
		}
		if d, ok := invisible[s.Step]; ok && cmp.Equal(s.plain(), s.want()) {
			t.Errorf("step %d is listed as %q, but nothing differs", s.Step, d.reason)
		}
		if notFound := ev.GetError().GetCode() == "not_found"; notFound != (s.Outcome == "not_found") {
			t.Errorf("step %d: outcome %s, error %v", s.Step, s.Outcome, ev.GetError())
		}
		if diff := cmp.Diff(alsoOf(s), alsoNames(ev)); diff != "" {
			t.Errorf("step %d: also (-steps +event):\n%s", s.Step, diff)
		}
	}
	if calls != len(c.items) {
		t.Errorf("%d calls, %d events", calls, len(c.items))
	}
}

// alsoOf are a step's further effects in the event's words. Keys that died with their
// mount or namespace are not in the log, only the container's name is.
func alsoOf(s step) []string {
	var out []string
	for _, a := range s.Also {
		name, rest, _ := strings.Cut(a, " ")
		if name == "key.destroy" && rest != "" {
			continue
		}
		out = append(out, name)
	}
	return out
}

func alsoNames(ev *keytrailv1.KeyEvent) []string {
	var out []string
	for _, op := range ev.GetAlso() {
		out = append(out, event.OperationName(op))
	}
	return out
}

// TestLifecycle compares the life of one key with what its client expects, call by call.
func TestLifecycle(t *testing.T) {
	var expected struct {
		Events []struct {
			Event     int    `json:"event"`
			RequestID string `json:"request_id"`
			Operation string `json:"operation"`
			Actor     string `json:"actor"`
			Outcome   string `json:"outcome"`
			Version   *int   `json:"key_version"`
			Lines     []int  `json:"lines"`
		} `json:"event_list"`
	}
	if err := json.Unmarshal(sample(t, "expected.json"), &expected); err != nil {
		t.Fatal(err)
	}
	c := readClean(t, byNamespace(), sample(t, "lifecycle.ndjson"))
	if len(c.items) != len(expected.Events) {
		t.Fatalf("%d events, want %d", len(c.items), len(expected.Events))
	}
	// Where the log does not tell the version: decryptions and HMACs hide it in a hashed
	// prefix, a failed call has no answer.
	hidden := []int{4, 6, 10, 13, 20, 28}
	for i, want := range expected.Events {
		got := c.items[i]
		w := told{
			Operation: want.Operation, Key: "acme/transit/payments-pan", Actor: want.Actor,
			Outcome: want.Outcome, Tenant: "acme",
		}
		if want.Version != nil && !slices.Contains(hidden, want.Event) {
			w.Versions = []string{fmt.Sprint(*want.Version)}
		}
		if want.Event == 19 {
			w.Versions = []string{"1", "2"} // both fell below min_encryption_version
		}
		if diff := cmp.Diff(w, tell(got.Event)); diff != "" {
			t.Errorf("event %d (-expected +event):\n%s", want.Event, diff)
		}
		if got.Event.GetEventId() != want.RequestID {
			t.Errorf("event %d has id %s, want %s", want.Event, got.Event.GetEventId(), want.RequestID)
		}
		if last := want.Lines[len(want.Lines)-1]; got.Line != last {
			t.Errorf("event %d is of line %d, want %d", want.Event, got.Line, last)
		}
	}
}
