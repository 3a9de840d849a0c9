package lifecycle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// A drawing is the life of one key, one event a line:
//
//	OPERATION [v1[,v2]] [what the source says] [!finding[/v1]] [=> state [v1:state]]
//
// "key." may be left out of the operation. What the source says is any of ?failure,
// ?denied, ?partial, ?pending, ?noeffect; before=WORD and after=WORD for the state,
// origin=generated, also=key.generate, call=NAME (source_operation), and +10s or -10s for
// the time since the line before (1s if absent). A line "source NAME" sets source.system.
// The findings of a line must be exactly those drawn; the state after it only where it is
// drawn. States are "active" or, with the one before it, "destroy_pending<active";
// "unavailable" may follow. Versions, where one is drawn, are all drawn.
type drawnLine struct {
	text     string
	event    *keytrailv1.KeyEvent
	findings []string
	state    string
}

// drawingStart is the time before the first event of a drawing.
var drawingStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func parseDrawing(t testing.TB, drawing string) []drawnLine {
	t.Helper()
	var lines []drawnLine
	at := drawingStart
	system := "test"
	for text := range strings.Lines(drawing) {
		text = strings.TrimSpace(text)
		if name, ok := strings.CutPrefix(text, "source "); ok {
			system = name
		} else if text != "" && !strings.HasPrefix(text, "#") {
			l := parseLine(t, text, &at)
			l.event.SchemaVersion = 1
			l.event.EventId = fmt.Sprint("e", len(lines)+1)
			l.event.Tenant = "acme"
			l.event.Source = &keytrailv1.Source{System: system}
			l.event.Time = timestamppb.New(at)
			lines = append(lines, l)
		}
	}
	return lines
}

func parseLine(t testing.TB, text string, at *time.Time) drawnLine {
	t.Helper()
	l := drawnLine{text: text}
	var drawn string
	drawn, l.state, _ = strings.Cut(text, " => ")
	fields := strings.Fields(drawn)
	key := &keytrailv1.Key{Ref: "k"}
	l.event = &keytrailv1.KeyEvent{
		Operation: operation(t, fields[0]), Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS, Key: key,
	}
	step := time.Second
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, "=")
		switch {
		case f == "?noeffect":
			l.event.NoEffect = true
		case f[0] == '?':
			l.event.Outcome = outcome(t, f[1:])
		case f[0] == '!':
			l.findings = append(l.findings, f[1:])
		case f[0] == '+' || f[0] == '-':
			step = duration(t, f)
		case name == "before":
			key.StateBefore = value
		case name == "after":
			key.StateAfter = value
		case name == "call":
			l.event.SourceOperation = value
		case name == "also":
			l.event.Also = append(l.event.Also, operation(t, value))
		case name == "origin":
			key.Origin = keytrailv1.KeyOrigin(keytrailv1.KeyOrigin_value["KEY_ORIGIN_"+strings.ToUpper(value)])
		case f[0] == 'v':
			key.Versions = strings.Split(strings.ReplaceAll(f, "v", ""), ",")
		default:
			t.Fatalf("%s: what is %q?", text, f)
		}
	}
	if len(key.Versions) == 1 {
		key.Version, key.Versions = key.Versions[0], nil
	}
	*at = at.Add(step)
	return l
}

func operation(t testing.TB, name string) keytrailv1.Operation {
	t.Helper()
	if !strings.Contains(name, ".") && name != "other" {
		name = "key." + name
	}
	op, err := event.ParseOperation(name)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func outcome(t testing.TB, name string) keytrailv1.Outcome {
	t.Helper()
	o, err := event.ParseOutcome(name)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func duration(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// drawState is how a drawing spells a state; versions only if it has any.
func drawState(s *keytrailv1.LifecycleState, versions bool) string {
	out := []string{drawUnit(s.State, s.PreviousState)}
	if s.Unavailable {
		out = append(out, "unavailable")
	}
	for _, v := range s.Versions {
		if versions {
			out = append(out, "v"+v.Version+":"+drawUnit(v.State, v.PreviousState))
		}
	}
	return strings.Join(out, " ")
}

func drawUnit(s, previous keytrailv1.KeyState) string {
	short := func(s keytrailv1.KeyState) string {
		return strings.ToLower(strings.TrimPrefix(s.String(), "KEY_STATE_"))
	}
	if previous != 0 {
		return short(s) + "<" + short(previous)
	}
	return short(s)
}

// drawFindings is how a drawing spells findings.
func drawFindings(findings []*keytrailv1.Finding) []string {
	var out []string
	for _, f := range findings {
		s := strings.ToLower(strings.TrimPrefix(f.Kind.String(), "KIND_"))
		if f.Version != "" {
			s += "/v" + f.Version
		}
		out = append(out, s)
	}
	return out
}

// checkDrawing folds a drawing and compares each line.
func checkDrawing(t *testing.T, drawing string) {
	t.Helper()
	var f lifecycle.Fold
	for i, l := range parseDrawing(t, drawing) {
		findings := f.Apply(l.event)
		if got := drawFindings(findings); !slices.Equal(got, l.findings) {
			t.Errorf("line %d: %s\nfindings: %v\n%v", i+1, l.text, got, findings)
		}
		got := drawState(f.State(), strings.Contains(l.state, ":"))
		if l.state != "" && got != strings.TrimSpace(l.state) {
			t.Errorf("line %d: %s\nstate: %s", i+1, l.text, got)
		}
		for _, finding := range findings {
			if !strings.HasSuffix(finding.Text, ".") || strings.Contains(finding.Text, "%!") {
				t.Errorf("text is no sentence: %q", finding.Text)
			}
		}
	}
}
