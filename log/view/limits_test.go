package view_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

func simpleEvent(i int, tenant, ref string) *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		EventId: fmt.Sprint(i), Tenant: tenant, Time: timestamppb.New(epoch),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key: &keytrailv1.Key{Ref: ref},
	}
}

// TestTenantsWithOneTerm: two tenants whose keys of one name share a row, because the
// row's key holds 4 bytes of the tenant's hash, do not see each other's events.
func TestTenantsWithOneTerm(t *testing.T) {
	var a, b string
	seen := make(map[[4]byte]string)
	for i := 0; a == ""; i++ {
		name := fmt.Sprintf("tenant-%d", i)
		h := sha256.Sum256([]byte(name))
		prefix := [4]byte(h[:])
		if other, ok := seen[prefix]; ok {
			a, b = other, name
		}
		seen[prefix] = name
	}
	l := newFakeLog()
	for i := range 100 {
		l.add(t, simpleEvent(i, []string{a, b, b}[i%3], "master"))
	}
	size := l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	for _, tenant := range []string{a, b} {
		f := view.Filter{Tenant: tenant, KeyRef: "master"}
		if diff := cmp.Diff(l.want(f, size), list(t, v.View, f, 7)); diff != "" {
			t.Errorf("list of %s: %s", tenant, diff)
		}
		got := history(t, v.View, tenant, "master", 7)
		if diff := cmp.Diff(l.wantHistory(tenant, "master", size), got, protocmp.Transform()); diff != "" {
			t.Errorf("history of %s: %s", tenant, diff)
		}
	}
}

// TestPageBytes: pages of large events end early, and together hold all of them.
func TestPageBytes(t *testing.T) {
	l := newFakeLog()
	for i := range 200 {
		ev := simpleEvent(i, "acme", "k")
		ev.Attributes = []*keytrailv1.Attribute{{Name: "filler", Value: strings.Repeat("x", 20_000)}}
		l.add(t, ev)
	}
	size := l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	f := view.Filter{Tenant: "acme"}
	p, err := v.List(t.Context(), f, 1000, "")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(p.Entries); n < 50 || n > 60 {
		t.Errorf("page of entries of 20 kB has %d of them, want about 1 MiB", n)
	}
	if diff := cmp.Diff(l.want(f, size), list(t, v.View, f, 1000)); diff != "" {
		t.Error(diff)
	}
	if got := len(history(t, v.View, "acme", "k", 1000)); got != 200 {
		t.Errorf("history has %d events, want 200", got)
	}
}

// TestWorkOfOneCall: a call that meets many entries it cannot show ends with what it has,
// also when they are those that lead to a history's page.
func TestWorkOfOneCall(t *testing.T) {
	l := newFakeLog()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 14_000 {
		ev := randomEvent(rng, i)
		ev.Tenant, ev.Key = "acme", &keytrailv1.Key{Ref: "k"}
		l.add(t, ev)
	}
	size := l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	token := ""
	for range 12 {
		p, err := v.History(t.Context(), "acme", "k", 1000, token)
		if err != nil {
			t.Fatal(err)
		}
		token = p.Next
	}
	for i := range uint64(11_000) {
		l.erase(i)
	}
	v.Erased()

	f := view.Filter{Tenant: "acme", Outcomes: []keytrailv1.Outcome{keytrailv1.Outcome_OUTCOME_DENIED}}
	if diff := cmp.Diff(l.want(f, size), list(t, v.View, f, 100)); diff != "" {
		t.Error(diff)
	}
	p, err := v.List(t.Context(), view.Filter{Tenant: "acme"}, 100, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Entries) != 0 || p.Next == "" {
		t.Errorf("first page has %d entries and next page %q, want none and some", len(p.Entries), p.Next)
	}

	want := l.wantHistory("acme", "k", size)[1000:] // 11,000 to 12,000 are on pages before.
	var got []step
	empty := 0
	for token != "" {
		p, err := v.History(t.Context(), "acme", "k", 1000, token)
		if err != nil {
			t.Fatal(err)
		}
		if token = p.Next; len(p.Events) == 0 {
			empty++
		}
		for _, e := range p.Events {
			got = append(got, step{e.Index, e.State, e.Findings})
		}
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if empty == 0 {
		t.Error("no call ended on the way to the page")
	}
}

func TestMetrics(t *testing.T) {
	l := newFakeLog()
	l.add(t, simpleEvent(0, "acme", "k"))
	l.addHidden(nil)
	l.addHidden(nil)
	l.addHidden([]byte("not a payload"))
	l.add(t, simpleEvent(4, "acme", "k"))
	l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(v.Metrics()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	want := map[string]float64{
		"view_size": 5, "view_lag": 0, "view_erased_entries": 2, "view_unreadable_entries": 1, "view_rebuilds_total": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
