package view_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// step is one event of a history, as compared.
type step struct {
	Index    uint64
	State    *keytrailv1.LifecycleState
	Findings []*keytrailv1.Finding
}

// wantHistory folds a key's events from scratch.
func (l *fakeLog) wantHistory(tenant, ref string, size uint64) []step {
	l.mu.Lock()
	defer l.mu.Unlock()
	var steps []step
	var fold lifecycle.Fold
	for i, ev := range l.events[:size] {
		if ev != nil && ev.Tenant == tenant && ev.Key != nil && ev.Key.Ref == ref {
			findings := fold.Apply(ev)
			steps = append(steps, step{uint64(i), fold.State(), findings})
		}
	}
	return steps
}

// history returns all pages of a history.
func history(t testing.TB, v *view.View, tenant, ref string, limit int) []step {
	t.Helper()
	var steps []step
	for token := ""; ; {
		p, err := v.History(context.Background(), tenant, ref, limit, token)
		if errors.Is(err, fs.ErrNotExist) && token == "" {
			return nil
		}
		if err != nil {
			t.Fatalf("reading the history of %s: %v", ref, err)
		}
		for _, e := range p.Events {
			steps = append(steps, step{e.Index, e.State, e.Findings})
		}
		if token = p.Next; token == "" {
			return steps
		}
	}
}

// TestHistoryIsAFoldFromScratch compares histories of random keys at random page sizes,
// with other readers of the same key between the pages and events erased.
func TestHistoryIsAFoldFromScratch(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		l := newFakeLog()
		l.addRandom(t, rng, rapid.IntRange(1, 1500).Draw(rt, "size"))
		size := l.publish(0)
		v := follow(t, l, "view", view.Options{FS: vfs.NewMem()})
		defer v.stop()
		for range 4 {
			tenant := rapid.SampledFrom(append(world.tenants, "nobody")).Draw(rt, "tenant")
			ref := rapid.SampledFrom(append(world.refs, "nokey")).Draw(rt, "ref")
			limit := rapid.IntRange(1, 50).Draw(rt, "limit")
			got := history(t, v.View, tenant, ref, limit)
			if diff := cmp.Diff(l.wantHistory(tenant, ref, size), got, protocmp.Transform()); diff != "" {
				rt.Fatalf("history of %s/%s by %d: %s", tenant, ref, limit, diff)
			}
			l.erase(rapid.Uint64Range(0, size-1).Draw(rt, "erase"))
			v.Erased()
		}
	})
}

// TestLongHistory reads the history of a key of 15,000 events among others, over two
// segments; then its middle from a view that was just opened.
func TestLongHistory(t *testing.T) {
	l := newFakeLog()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 1<<16 + 40_000 {
		ev := &keytrailv1.KeyEvent{EventId: fmt.Sprint(i), Tenant: "acme", Time: timestamppb.New(epoch),
			Operation: keytrailv1.Operation_OPERATION_USE_ENCRYPT, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
			Key: &keytrailv1.Key{Ref: fmt.Sprint(i % 7)}}
		if ev.Key.Ref == "3" {
			ev = randomEvent(rng, i)
			ev.Tenant, ev.Key = "acme", &keytrailv1.Key{Ref: "3", Version: fmt.Sprint(rng.IntN(4))}
		}
		l.add(t, ev)
	}
	size := l.publish(0)
	mem := vfs.NewMem()
	v := follow(t, l, "view", view.Options{FS: mem})
	want := l.wantHistory("acme", "3", size)
	got := history(t, v.View, "acme", "3", 1000)
	if len(got) != len(want) {
		t.Fatalf("history has %d events, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Index != want[i].Index || !proto.Equal(got[i].State, want[i].State) || len(got[i].Findings) != len(want[i].Findings) {
			t.Fatalf("event %d of the history is %v, want %v", i, got[i], want[i])
		}
	}
	token := ""
	for range 12 {
		p, err := v.History(t.Context(), "acme", "3", 1000, token)
		if err != nil {
			t.Fatal(err)
		}
		token = p.Next
	}
	l.add(t, randomEvent(rng, 0))
	v.stop()
	again := follow(t, l, "view", view.Options{FS: mem})
	p, err := again.History(t.Context(), "acme", "3", 10, token)
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, e := range p.Events {
		got = append(got, step{e.Index, e.State, e.Findings})
	}
	if diff := cmp.Diff(want[12000:12010], got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestHistoryTokens: a token goes with its key and with no list.
func TestHistoryTokens(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(2, 2)), 1000)
	l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	p, err := v.History(t.Context(), "acme", "k1", 3, "")
	if err != nil || p.Next == "" {
		t.Fatalf("no next page: %v", err)
	}
	for _, c := range []struct{ tenant, ref, token, field string }{
		{"acme", "k2", p.Next, "page_token"},
		{"globex", "k1", p.Next, "page_token"},
		{"acmek", "1", p.Next, "page_token"},
		{"", "k1", "", "tenant"},
		{"acme", "", "", "key_ref"},
	} {
		_, err := v.History(t.Context(), c.tenant, c.ref, 3, c.token)
		if bad, ok := errors.AsType[*view.ArgumentError](err); !ok || bad.Field != c.field {
			t.Errorf("%s/%s: error is %v, want one about %s", c.tenant, c.ref, err, c.field)
		}
	}
	if _, err := v.List(t.Context(), view.Filter{Tenant: "acme", KeyRef: "k1"}, 3, p.Next); err == nil {
		t.Error("a list took the token of a history")
	}
	if _, err := v.History(t.Context(), "acme", "nokey", 3, ""); !errors.Is(err, view.ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("history of a key without events: %v, want view.ErrNotFound", err)
	}
}
