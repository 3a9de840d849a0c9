package lifecycle_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

var tableFile = filepath.Join(vectorDir, "transitions.json")

// table is every operation on a key in every state, as a vector: of a key without
// versions, of unknown origin, at a source that says nothing of states.
type table struct {
	Description string     `json:"description"`
	Rows        []tableRow `json:"transitions"`
}

// tableRow has the states before as names, and for each the state after, with the
// findings behind it as in a drawing. A state that changes nothing is left out.
type tableRow struct {
	Operation string            `json:"operation"`
	From      map[string]string `json:"from"`
}

func renderTable(t *testing.T) []byte {
	t.Helper()
	out := table{Description: "Every operation in every state; a state in which the operation is allowed and changes nothing is left out. While destruction is pending the key was active before."}
	for op := keytrailv1.Operation(0); op < 1000; op++ {
		if _, ok := keytrailv1.Operation_name[int32(op)]; !ok || op == 0 {
			continue
		}
		row := tableRow{Operation: event.OperationName(op), From: make(map[string]string)}
		for s := keytrailv1.KeyState(0); int(s) < len(keytrailv1.KeyState_name); s++ {
			before := &keytrailv1.LifecycleState{State: s}
			if s == keytrailv1.KeyState_KEY_STATE_DESTROY_PENDING {
				before.PreviousState = keytrailv1.KeyState_KEY_STATE_ACTIVE
			}
			f := lifecycle.Restore(lifecycle.Snapshot{State: before, Known: true})
			findings := f.Apply(&keytrailv1.KeyEvent{
				Operation: op, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
				Time: timestamppb.New(drawingStart), Key: &keytrailv1.Key{Ref: "k"},
			})
			from, to := drawState(before, false), drawState(f.State(), false)
			if from != to || len(findings) > 0 {
				row.From[from] = strings.Join(append([]string{to}, drawFindings(findings)...), " !")
			}
		}
		out.Rows = append(out.Rows, row)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	// States are easier to read with the arrow as it is.
	b = bytes.ReplaceAll(b, []byte(`\u003c`), []byte("<"))
	return append(b, '\n')
}

func TestVectorsTransitions(t *testing.T) {
	want := renderTable(t)
	if *update {
		if err := os.WriteFile(tableFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from\n%s", tableFile, want)
	}
}

// TestTableNamesEveryKeyOperation: an operation of class key that is not in the table
// changes nothing by decision, not because it was forgotten.
func TestTableNamesEveryKeyOperation(t *testing.T) {
	var v table
	if err := json.Unmarshal(renderTable(t), &v); err != nil {
		t.Fatal(err)
	}
	inert := []string{"key.import_prepare", "use.random", "use.hash"}
	for _, row := range v.Rows {
		class, _, _ := strings.Cut(row.Operation, ".")
		if want := (class == "key" || class == "use") && !slices.Contains(inert, row.Operation); want != (len(row.From) > 0) {
			t.Errorf("%s: %v", row.Operation, row.From)
		}
	}
}
