package view_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// followed is a fakeLog, or one that behaves otherwise in some way.
type followed interface {
	view.Source
	publishedSize() uint64
}

// follow opens a view of a log, runs it, and waits until it has read what is published.
func follow(t testing.TB, l followed, dir string, opts view.Options) *running {
	t.Helper()
	v, err := view.Open(t.Context(), dir, l, opts)
	if err != nil {
		t.Fatalf("opening the view: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{View: v, t: t, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- v.Run(ctx) }()
	t.Cleanup(r.stop)
	r.wait(l)
	return r
}

// running is a view that follows a log.
type running struct {
	*view.View
	t      testing.TB
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

func (r *running) stop() {
	r.once.Do(func() {
		r.cancel()
		if err := <-r.done; err != nil {
			r.t.Errorf("running the view: %v", err)
		}
		if err := r.Close(); err != nil {
			r.t.Errorf("closing the view: %v", err)
		}
	})
}

func (r *running) wait(l followed) {
	r.t.Helper()
	published := l.publishedSize()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Wait(ctx, published); err != nil {
		r.t.Fatalf("waiting for the view to read %d entries, it has %d: %v", published, r.Size(), err)
	}
}

// list returns the indexes of all pages of a list.
func list(t testing.TB, v *view.View, f view.Filter, limit int) []uint64 {
	t.Helper()
	indexes := []uint64{}
	token := ""
	for {
		p, err := v.List(context.Background(), f, limit, token)
		if err != nil {
			t.Fatalf("listing %+v: %v", f, err)
		}
		if len(p.Entries) > limit {
			t.Fatalf("page has %d entries, more than %d", len(p.Entries), limit)
		}
		for _, e := range p.Entries {
			indexes = append(indexes, e.Index)
		}
		if p.Next == "" {
			return indexes
		}
		token = p.Next
	}
}

// want is what list should return: a plain scan.
func (l *fakeLog) want(f view.Filter, size uint64) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	indexes := []uint64{}
	for i, ev := range l.events[:size] {
		if ev != nil && wanted(f, ev) {
			indexes = append(indexes, uint64(i))
		}
	}
	if f.Descending {
		slices.Reverse(indexes)
	}
	return indexes
}

func wanted(f view.Filter, ev *keytrailv1.KeyEvent) bool {
	if f.Tenant != "" && f.Tenant != ev.Tenant {
		return false
	}
	if f.KeyRef != "" && (ev.Key == nil || f.KeyRef != ev.Key.Ref) {
		return false
	}
	if f.Actor != "" && (ev.Actor == nil || (f.Actor != ev.Actor.Id && f.Actor != ev.Actor.Display)) {
		return false
	}
	if len(f.Operations) > 0 {
		any := false
		for _, op := range f.Operations {
			any = any || op == ev.Operation || slices.Contains(ev.Also, op)
		}
		if !any {
			return false
		}
	}
	if len(f.Outcomes) > 0 && !slices.Contains(f.Outcomes, ev.Outcome) {
		return false
	}
	at := ev.Time.AsTime()
	if !f.From.IsZero() && at.Before(f.From) {
		return false
	}
	return f.To.IsZero() || at.Before(f.To)
}

// drawFilter draws a filter over a log of size entries.
func drawFilter(rt *rapid.T, size uint64) view.Filter {
	maybe := func(label string, values ...string) string {
		return rapid.SampledFrom(append(values, "", "", "")).Draw(rt, label)
	}
	f := view.Filter{
		Tenant:     maybe("tenant", append(world.tenants, "nobody")...),
		KeyRef:     maybe("key", append(world.refs, "nokey")...),
		Actor:      maybe("actor", append(world.actors, "noone")...),
		Descending: rapid.Bool().Draw(rt, "descending"),
	}
	if rapid.Bool().Draw(rt, "operations?") {
		f.Operations = rapid.SliceOfN(rapid.SampledFrom(world.operations), 1, 3).Draw(rt, "operations")
	}
	if rapid.Bool().Draw(rt, "outcomes?") {
		f.Outcomes = rapid.SliceOfN(rapid.SampledFrom(world.outcomes), 1, 2).Draw(rt, "outcomes")
	}
	if rapid.Bool().Draw(rt, "from?") {
		f.From = epoch.Add(time.Duration(rapid.Uint64Range(0, size).Draw(rt, "from")) * time.Second)
	}
	if rapid.Bool().Draw(rt, "to?") {
		f.To = epoch.Add(time.Duration(rapid.Uint64Range(0, size).Draw(rt, "to")) * time.Second)
		if f.To.Before(f.From) {
			f.From, f.To = f.To, f.From
		}
	}
	return f
}

// TestListIsAPlainScan compares lists over several segments with a scan of the log.
func TestListIsAPlainScan(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(1, 2)), 2<<16+777)
	size := l.publish(0)
	v := follow(t, l, "view", view.Options{FS: vfs.NewMem()})
	rapid.Check(t, func(rt *rapid.T) {
		f := drawFilter(rt, size)
		limit := rapid.SampledFrom([]int{99, 500, 1000}).Draw(rt, "limit")
		if diff := cmp.Diff(l.want(f, size), list(t, v.View, f, limit)); diff != "" {
			rt.Fatalf("%+v\n%s", f, diff)
		}
	})
}

// TestListPagesAreStable grows the log between pages: the pages together are the list as
// it was when the first was made.
func TestListPagesAreStable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		l := newFakeLog()
		l.addRandom(t, rng, rapid.IntRange(1, 300).Draw(rt, "size"))
		size := l.publish(0)
		v := follow(t, l, "view", view.Options{FS: vfs.NewMem()})
		defer v.stop()
		f := drawFilter(rt, size)
		limit := rapid.IntRange(1, 20).Draw(rt, "limit")
		got := []uint64{}
		for token := ""; ; {
			p, err := v.List(context.Background(), f, limit, token)
			if err != nil {
				rt.Fatal(err)
			}
			if p.Size != size {
				rt.Fatalf("page covers %d entries, the first one %d", p.Size, size)
			}
			for _, e := range p.Entries {
				got = append(got, e.Index)
			}
			if token = p.Next; token == "" {
				break
			}
			l.addRandom(t, rng, 7)
			l.publish(0)
			v.wait(l)
		}
		if diff := cmp.Diff(l.want(f, size), got); diff != "" {
			rt.Fatalf("%+v\n%s", f, diff)
		}
	})
}

// TestListShowsTheRecord compares an entry with what was appended, and checks that
// unpublished entries are not shown.
func TestListShowsTheRecord(t *testing.T) {
	l := newFakeLog()
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		ev := randomEvent(rng, i)
		ev.Key = &keytrailv1.Key{Ref: "k"}
		ev.Tenant = "acme"
		l.add(t, ev)
	}
	l.publish(19)
	v := follow(t, l, t.TempDir(), view.Options{})
	p, err := v.List(t.Context(), view.Filter{Tenant: "acme"}, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Entries) != 19 || p.Next != "" || p.Size != 19 {
		t.Fatalf("%d entries, next %q, size %d; want 19 entries on one page", len(p.Entries), p.Next, p.Size)
	}
	for i, e := range p.Entries {
		if !proto.Equal(e.Event, l.events[i]) {
			t.Errorf("entry %d: event is %v, want %v", i, e.Event, l.events[i])
		}
		if e.Index != uint64(i) || e.KeySequence != uint64(i+1) || e.Producer != "test" || !e.LoggedAt.Equal(l.events[i].Time.AsTime()) {
			t.Errorf("entry %d: record is %+v", i, e.Record)
		}
	}
}

func TestListRefusesBadArguments(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(5, 6)), 500)
	l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	p, err := v.List(t.Context(), view.Filter{Tenant: "acme"}, 5, "")
	if err != nil || p.Next == "" {
		t.Fatalf("no next page: %v", err)
	}
	flipped := []byte(p.Next)
	flipped[20] ^= 1
	for _, c := range []struct {
		name  string
		f     view.Filter
		limit int
		token string
		field string
	}{
		{"token of another filter", view.Filter{Tenant: "globex"}, 5, p.Next, "page_token"},
		{"token of the other order", view.Filter{Tenant: "acme", Descending: true}, 5, p.Next, "page_token"},
		{"token altered", view.Filter{Tenant: "acme"}, 5, string(flipped), "page_token"},
		{"token cut", view.Filter{Tenant: "acme"}, 5, p.Next[:len(p.Next)-1], "page_token"},
		{"token with a line break", view.Filter{Tenant: "acme"}, 5, p.Next[:10] + "\n" + p.Next[11:], "page_token"},
		{"garbage", view.Filter{Tenant: "acme"}, 5, "garbage", "page_token"},
		{"limit", view.Filter{}, 1001, "", "page_size"},
		{"negative limit", view.Filter{}, -1, "", "page_size"},
		{"times", view.Filter{From: epoch.Add(1), To: epoch}, 5, "", "time_to"},
		{"operation", view.Filter{Operations: make([]keytrailv1.Operation, 1)}, 5, "", "operations"},
		{"outcome", view.Filter{Outcomes: make([]keytrailv1.Outcome, 1)}, 5, "", "outcomes"},
	} {
		_, err := v.List(t.Context(), c.f, c.limit, c.token)
		if bad, ok := errors.AsType[*view.ArgumentError](err); !ok || bad.Field != c.field {
			t.Errorf("%s: error is %v, want one about %s", c.name, err, c.field)
		}
	}
	// Another page size is no other question, nor are operations in another order.
	ops := []keytrailv1.Operation{keytrailv1.Operation_OPERATION_KEY_ROTATE, keytrailv1.Operation_OPERATION_META_READ}
	p, err = v.List(t.Context(), view.Filter{Operations: ops}, 5, "")
	if err != nil || p.Next == "" {
		t.Fatalf("no next page: %v", err)
	}
	slices.Reverse(ops)
	if _, err := v.List(t.Context(), view.Filter{Operations: ops}, 9, p.Next); err != nil {
		t.Errorf("same question with another page size: %v", err)
	}
}

// TestEmptyLog lists a log that has published nothing.
func TestEmptyLog(t *testing.T) {
	v := follow(t, newFakeLog(), t.TempDir(), view.Options{})
	for _, f := range []view.Filter{{}, {Descending: true}, {Tenant: "acme", KeyRef: "k"}} {
		p, err := v.List(t.Context(), f, 0, "")
		if err != nil || len(p.Entries) != 0 || p.Next != "" {
			t.Errorf("%+v: page is %+v, %v; want an empty one", f, p, err)
		}
	}
}

// TestErasedEntryDisappears erases an entry that the view has indexed.
func TestErasedEntryDisappears(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(7, 8)), 100)
	size := l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	f := view.Filter{Tenant: "acme"}
	before := l.want(f, size)
	l.erase(before[3])
	v.Erased()
	if diff := cmp.Diff(slices.Delete(slices.Clone(before), 3, 4), list(t, v.View, f, 10)); diff != "" {
		t.Error(diff)
	}
}

// TestQueriesWhileFollowing asks while the view reads: every answer is right for the
// size that it says it covers.
func TestQueriesWhileFollowing(t *testing.T) {
	l := newFakeLog()
	rng := rand.New(rand.NewPCG(9, 10))
	l.addRandom(t, rng, 1<<16+3000)
	l.publish(1<<16 - 2000)
	v := follow(t, l, "view", view.Options{FS: vfs.NewMem()})
	var wg sync.WaitGroup
	wg.Go(func() {
		for size := uint64(1<<16 - 2000); size < l.size(); size += 97 {
			l.publish(size)
			v.wait(l)
		}
		l.publish(0)
	})
	f := view.Filter{Tenant: "globex", KeyRef: "k3", Descending: true}
	for v.Size() < l.size() {
		p, err := v.List(t.Context(), f, 20, "")
		if err != nil {
			t.Fatal(err)
		}
		want := l.want(f, p.Size)[:20]
		for i, e := range p.Entries {
			if e.Index != want[i] {
				t.Fatalf("at size %d: entry %d of the list is %d, want %d", p.Size, i, e.Index, want[i])
			}
		}
	}
	wg.Wait()
}
