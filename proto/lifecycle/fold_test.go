package lifecycle_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// randomEvents draws a life, likely or not.
func randomEvents(t *rapid.T) []*keytrailv1.KeyEvent {
	operations := []keytrailv1.Operation{keytrailv1.Operation_OPERATION_OTHER}
	for op := range keytrailv1.Operation_name {
		switch event.Class(keytrailv1.Operation(op)) {
		case "key", "use", "meta":
			operations = append(operations, keytrailv1.Operation(op))
		}
	}
	slices.Sort(operations)
	oneOf := func(name string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, name) }
	words := []string{"", "", "", "Enabled", "DISABLED", "PendingDeletion", "PendingImport", "PreActive",
		"Compromised", "Destroyed", "Unavailable", "?", "KEY_STATE_DESTROYED_COMPROMISED"}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var events []*keytrailv1.KeyEvent
	for range rapid.IntRange(0, 30).Draw(t, "events") {
		at = at.Add(time.Duration(rapid.IntRange(-10, 60).Draw(t, "seconds")) * time.Second)
		ev := &keytrailv1.KeyEvent{
			Source:          &keytrailv1.Source{System: oneOf("system", "aws.kms", "gcp.kms", "openbao")},
			Time:            timestamppb.New(at),
			Operation:       rapid.SampledFrom(operations).Draw(t, "operation"),
			SourceOperation: oneOf("call", "", "DeleteKey", "DeleteImportedKeyMaterial"),
			Outcome:         keytrailv1.Outcome(rapid.SampledFrom([]int{1, 1, 1, 1, 2, 3, 4, 5}).Draw(t, "outcome")),
			NoEffect:        rapid.IntRange(0, 9).Draw(t, "no effect") == 0,
			Key: &keytrailv1.Key{
				Ref:         "k",
				Origin:      keytrailv1.KeyOrigin(rapid.IntRange(0, 4).Draw(t, "origin")),
				StateBefore: rapid.SampledFrom(words).Draw(t, "before"),
				StateAfter:  rapid.SampledFrom(words).Draw(t, "after"),
			},
		}
		switch rapid.IntRange(0, 3).Draw(t, "versions") {
		case 1:
			ev.Key.Version = oneOf("version", "1", "2", "3")
		case 2:
			ev.Key.Versions = []string{"1", "3"}
		}
		if rapid.IntRange(0, 5).Draw(t, "also") == 0 {
			ev.Also = []keytrailv1.Operation{rapid.SampledFrom(operations).Draw(t, "also")}
		}
		events = append(events, ev)
	}
	return events
}

// TestResume: a fold that is saved and restored between any two events says the same.
func TestResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := new(lifecycle.Fold)
		paged := new(lifecycle.Fold)
		for i, ev := range randomEvents(t) {
			want, got := whole.Apply(ev), paged.Apply(ev)
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("event %d, findings of the whole and of the resumed fold:\n%s", i, diff)
			}
			if diff := cmp.Diff(whole.Snapshot(), paged.Snapshot(), protocmp.Transform()); diff != "" {
				t.Fatalf("event %d, the whole and the resumed fold:\n%s", i, diff)
			}
			snapshot := paged.Snapshot()
			paged = lifecycle.Restore(snapshot)
			// What was handed out is a copy.
			snapshot.State.State = keytrailv1.KeyState_KEY_STATE_UNSPECIFIED
			snapshot.State.Versions = nil
		}
	})
}

// returns are the operations by which something destroyed can live again.
func returns(ev *keytrailv1.KeyEvent) bool {
	for _, op := range append([]keytrailv1.Operation{ev.Operation}, ev.Also...) {
		switch op {
		case keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.Operation_OPERATION_KEY_REGISTER_EXTERNAL,
			keytrailv1.Operation_OPERATION_KEY_IMPORT, keytrailv1.Operation_OPERATION_KEY_RESTORE:
			return true
		default:
		}
	}
	return false
}

func isDestroyed(s keytrailv1.KeyState) bool {
	return s == keytrailv1.KeyState_KEY_STATE_DESTROYED || s == keytrailv1.KeyState_KEY_STATE_DESTROYED_COMPROMISED
}

// TestDestroyedStaysDestroyed, and other things that hold along every life.
func TestDestroyedStaysDestroyed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f lifecycle.Fold
		noBirths := 0
		for i, ev := range randomEvents(t) {
			before := f.State()
			original := proto.Clone(ev)
			findings := f.Apply(ev)
			after := f.State()
			if !proto.Equal(ev, original) {
				t.Fatalf("event %d was changed", i)
			}
			if isDestroyed(before.State) && !isDestroyed(after.State) && !returns(ev) {
				t.Fatalf("event %d: %v took the key from %v to %v", i, ev.Operation, before.State, after.State)
			}
			for _, v := range before.Versions {
				j := slices.IndexFunc(after.Versions, func(w *keytrailv1.VersionState) bool { return w.Version == v.Version })
				if isDestroyed(v.State) && j >= 0 && !isDestroyed(after.Versions[j].State) && !returns(ev) {
					t.Fatalf("event %d: %v took version %s from %v to %v", i, ev.Operation, v.Version, v.State, after.Versions[j].State)
				}
			}
			pending := after.State == keytrailv1.KeyState_KEY_STATE_DESTROY_PENDING
			if !pending && after.PreviousState != 0 {
				t.Fatalf("event %d: previous state %v of a key in state %v", i, after.PreviousState, after.State)
			}
			took := ev.Outcome == keytrailv1.Outcome_OUTCOME_SUCCESS || ev.Outcome == keytrailv1.Outcome_OUTCOME_PARTIAL
			if (!took && ev.Outcome != keytrailv1.Outcome_OUTCOME_PENDING || ev.NoEffect && took) &&
				(before.State != after.State || len(before.Versions) != len(after.Versions)) {
				t.Fatalf("event %d: %v, which did nothing, changed the state", i, ev)
			}
			for _, finding := range findings {
				if finding.Kind == keytrailv1.Finding_KIND_NO_BIRTH {
					noBirths++
				}
			}
		}
		if noBirths > 1 {
			t.Fatalf("%d findings of no birth", noBirths)
		}
	})
}

func TestEventsWithoutKeyAreIgnored(t *testing.T) {
	var f lifecycle.Fold
	f.Apply(&keytrailv1.KeyEvent{Operation: keytrailv1.Operation_OPERATION_USE_RANDOM, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS})
	if diff := cmp.Diff(lifecycle.Snapshot{State: &keytrailv1.LifecycleState{}}, f.Snapshot(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestStateNames(t *testing.T) {
	seen := make(map[string]bool)
	for s := range keytrailv1.KeyState_name {
		name := lifecycle.StateName(keytrailv1.KeyState(s))
		if name == "" || seen[name] || strings.HasPrefix(name, "state(") {
			t.Errorf("state %d is called %q", s, name)
		}
		seen[name] = true
	}
}

// TestTexts shows what people read.
func TestTexts(t *testing.T) {
	var f lifecycle.Fold
	var got []string
	for _, l := range parseDrawing(t, `
		source aws.kms
		rotate v2
		deactivate v2
		use.encrypt v2
		activate v2
		destroy v2
		use.decrypt v2
		import v2
		meta.read -1h
		meta.read +2h after=Disabled`) {
		for _, finding := range f.Apply(l.event) {
			got = append(got, finding.Text)
		}
	}
	want := []string{
		"The first event of the key is key.rotate: the log does not hold how the key came to be.",
		"use.encrypt succeeded although version 2 was deactivated, which forbids this use.",
		"key.activate succeeded although version 2 was deactivated, which does not allow it.",
		"key.destroy destroyed version 2, which was active, without the scheduling that its source requires.",
		"use.decrypt succeeded although version 2 was destroyed: it was not, or it came back unseen.",
		"key.import brought version 2 back, which was destroyed.",
		"meta.read happened 1h0m0s before an event that stands earlier in the log.",
		"The source calls the state \"Disabled\" after meta.read; by the events, the key was active.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func BenchmarkApply(b *testing.B) {
	lines := parseDrawing(b, "generate v1\nuse.encrypt v1\nuse.decrypt v1\nrotate v2\nuse.encrypt v2")
	var f lifecycle.Fold
	b.ReportAllocs()
	for b.Loop() {
		for _, l := range lines[1:3] {
			f.Apply(l.event)
		}
	}
}
