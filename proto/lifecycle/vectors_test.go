package lifecycle_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

var update = flag.Bool("update", false, "rewrite the vectors from the drawings")

const vectorDir = "../../testdata/vectors/lifecycle"

// vector is one life of a key. The messages are in protobuf's JSON form.
type vector struct {
	Description string       `json:"description"`
	Steps       []vectorStep `json:"steps"`
}

type vectorStep struct {
	Event json.RawMessage `json:"event"`
	// State is the LifecycleState after the event, Findings what is odd about it; the
	// text of a finding is for people and not part of the vector.
	State    json.RawMessage   `json:"state"`
	Findings []json.RawMessage `json:"findings"`
}

// TestVectors folds each vector file, and holds that the files are the drawings.
func TestVectors(t *testing.T) {
	known := map[string]bool{tableFile: true}
	for _, d := range drawings {
		file := filepath.Join(vectorDir, d.name+".json")
		known[file] = true
		t.Run(d.name, func(t *testing.T) {
			want := render(t, d.about, parseDrawing(t, d.drawing))
			if *update {
				if err := os.MkdirAll(vectorDir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what the drawing says; see go test -run Vectors -update", file)
			}
			checkVector(t, got)
		})
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[file] {
			t.Errorf("%s belongs to no drawing", file)
		}
	}
}

func render(t *testing.T, about string, lines []drawnLine) []byte {
	t.Helper()
	v := vector{Description: about}
	var f lifecycle.Fold
	for _, l := range lines {
		step := vectorStep{Event: toJSON(t, l.event), Findings: []json.RawMessage{}}
		for _, finding := range f.Apply(l.event) {
			finding.Text = ""
			step.Findings = append(step.Findings, toJSON(t, finding))
		}
		step.State = toJSON(t, f.State())
		v.Steps = append(v.Steps, step)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func toJSON(t *testing.T, m proto.Message) json.RawMessage {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkVector reads a vector as another implementation would.
func checkVector(t *testing.T, file []byte) {
	t.Helper()
	var v vector
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	var f lifecycle.Fold
	for i, step := range v.Steps {
		ev, err := event.ParseJSON(step.Event)
		if err != nil {
			t.Fatal(err)
		}
		if err := event.Validate(ev, ev.Time.AsTime()); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		findings := f.Apply(ev)
		if len(findings) != len(step.Findings) {
			t.Fatalf("step %d: findings %v, want %s", i, findings, step.Findings)
		}
		for j, finding := range findings {
			want := new(keytrailv1.Finding)
			if err := protojson.Unmarshal(step.Findings[j], want); err != nil {
				t.Fatal(err)
			}
			if finding.Text = ""; !proto.Equal(finding, want) {
				t.Errorf("step %d: finding %v, want %v", i, finding, want)
			}
		}
		want := new(keytrailv1.LifecycleState)
		if err := protojson.Unmarshal(step.State, want); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(f.State(), want) {
			t.Errorf("step %d: state %v, want %v", i, f.State(), want)
		}
	}
}
