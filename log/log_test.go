package log_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

func TestAppendGivesIndexAndChain(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	keys := []string{"a", "b", "", "a", "a", "", "b"}
	type place struct{ Index, Sequence, Previous uint64 }
	want := []place{{0, 1, 0}, {1, 1, 0}, {2, 0, 0}, {3, 2, 0}, {4, 3, 3}, {5, 0, 0}, {6, 2, 1}}
	var got []place
	for i, k := range keys {
		r := l.Append1(t, logtest.Event(i, k))
		if r.LoggedAt.IsZero() || r.Duplicate || r.Err != nil {
			t.Errorf("event %d: %+v", i, r)
		}
		got = append(got, place{r.Index, r.KeySequence, r.PreviousIndex})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("places (-want +got):\n%s", d)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := logtest.Check(t, d, s); r.Entries != 7 || r.Published != 7 || r.Signatures != 2 || r.Keys != 2 {
		t.Errorf("fsck: %+v", r)
	}
}

func TestSameEventSamePlace(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	first := l.Append1(t, logtest.Event(1, "k"))
	l.Append1(t, logtest.Event(2, "k"))

	again := func(l *logtest.Log, when string) {
		t.Helper()
		want := first
		want.Duplicate = true
		if got := l.Append1(t, logtest.Event(1, "k")); !cmp.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
		other := logtest.Event(1, "k")
		other.Outcome = keytrailv1.Outcome_OUTCOME_DENIED
		r := l.Append1(t, other)
		var conflict *log.ConflictError
		if !errors.As(r.Err, &conflict) || conflict.Index != first.Index {
			t.Errorf("%s: other content: %+v", when, r)
		}
	}
	again(l, "same process")

	// Both in one call, and one after the other in one batch.
	x, y := logtest.Prepare(t, logtest.Event(3, "k")), logtest.Prepare(t, logtest.Event(3, "k"))
	res, err := l.Append(t.Context(), "", []log.Event{x, y})
	if err != nil || res[0].Duplicate || !res[1].Duplicate || res[0].Index != res[1].Index {
		t.Errorf("twice in one call: %+v, %v", res, err)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	l = logtest.Open(t, d, s)
	again(l, "after a restart")
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	d.DropIndex(t)
	l = logtest.Open(t, d, s)
	again(l, "after the index was lost")
	if got := l.DurableSize(); got != 3 {
		t.Errorf("size %d, want 3", got)
	}
}

func TestSameEventFromManyAtOnce(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	const events, senders = 200, 8
	var wg sync.WaitGroup
	got := make([][]uint64, senders)
	for w := range senders {
		got[w] = make([]uint64, events)
		wg.Go(func() {
			for i := range events {
				n := (i + w*17) % events
				res, err := l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(n, "k"))})
				if err != nil || res[0].Err != nil {
					t.Errorf("event %d: %+v, %v", n, res, err)
					return
				}
				got[w][n] = res[0].Index
			}
		})
	}
	wg.Wait()
	for w := 1; w < senders; w++ {
		if d := cmp.Diff(got[0], got[w]); d != "" {
			t.Fatalf("senders 0 and %d were given different places:\n%s", w, d)
		}
	}
	if n := l.DurableSize(); n != events {
		t.Errorf("size %d, want %d", n, events)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
}

func TestPublishedCoversAcknowledged(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	if _, err := l.Receipt(t.Context(), 0); !errors.Is(err, log.ErrUnpublished) {
		t.Errorf("receipt of nothing: %v", err)
	}
	for i := range 50 {
		r := l.Append1(t, logtest.Event(i, "k"))
		size, err := l.WaitPublished(t.Context(), r.Index)
		if err != nil || size <= r.Index {
			t.Fatalf("WaitPublished(%d) = %d, %v", r.Index, size, err)
		}
		checkReceipt(t, l, r.Index)
	}
	for i := range uint64(50) {
		checkReceipt(t, l, i)
	}
	pub := l.Published()
	if _, _, _, err := l.Consistency(t.Context(), 0, pub.Size+1); !errors.Is(err, log.ErrUnpublished) {
		t.Errorf("consistency beyond what is published: %v", err)
	}
	if _, _, _, _, err := l.Inclusion(t.Context(), pub.Size, 0); !errors.Is(err, log.ErrUnpublished) {
		t.Errorf("inclusion beyond what is published: %v", err)
	}
}

func checkReceipt(t *testing.T, l *logtest.Log, index uint64) {
	t.Helper()
	b, err := l.Receipt(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	cp, sigs, err := checkpoint.ParseNote(r.Checkpoint)
	if err != nil || len(sigs) != 2 || cp.Size <= index || r.Index != index {
		t.Fatalf("receipt %d: %+v, %d signatures, %v", index, cp, len(sigs), err)
	}
	for i, k := range l.VerifierKeys() {
		if _, err := k.Verify(cp, sigs[i]); err != nil {
			t.Errorf("receipt %d: %v", index, err)
		}
	}
	_, rec, err := record.Open(r.Extra)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := record.Parse(rec); err != nil || p.Index != index || p.Producer != "tester" {
		t.Errorf("receipt %d holds %+v, %v", index, p, err)
	}
}

// holdStore lets a test decide when a commit goes on.
type holdStore struct {
	storage.Store
	hold    chan struct{}
	waiting chan struct{}
}

func (h *holdStore) Commit(ctx context.Context, b *storage.Batch) error {
	h.waiting <- struct{}{}
	<-h.hold
	return h.Store.Commit(ctx, b)
}

func TestWhoeverWaitsIsInTheNextBatch(t *testing.T) {
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{})}
	l := logtest.Open(t, logtest.NewDir(t), h)
	submit := func(n int) *log.Call {
		c, err := l.Submit(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(n, ""))})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := submit(0)
	<-h.waiting
	var rest []*log.Call
	for n := 1; n <= 100; n++ {
		rest = append(rest, submit(n))
	}
	h.hold <- struct{}{}
	if _, err := first.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-h.waiting
	h.hold <- struct{}{} // one commit for all hundred
	for i, c := range rest {
		res, err := c.Wait(t.Context())
		if err != nil || res[0].Index != uint64(i+1) {
			t.Errorf("call %d: %+v, %v", i, res, err)
		}
	}
}

func TestFullPoolRefuses(t *testing.T) {
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{}, 1000)}
	l := logtest.Open(t, logtest.NewDir(t), h)
	refused := 0
	var calls []*log.Call
	for n := 0; refused == 0; n++ {
		events := make([]log.Event, 0, log.MaxEvents)
		for i := range log.MaxEvents {
			events = append(events, logtest.Prepare(t, logtest.Event(n*log.MaxEvents+i, "")))
		}
		c, err := l.Submit(t.Context(), "", events)
		switch {
		case errors.Is(err, log.ErrOverloaded):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			calls = append(calls, c)
		}
		if n > 2*log.DefaultMaxPending/log.MaxEvents {
			t.Fatal("the pool never refused")
		}
	}
	close(h.hold)
	for _, c := range calls {
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.Append1(t, logtest.Event(1_000_000, "")) // there is room again
}

func TestPoolIsBoundedInBytesToo(t *testing.T) {
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{}, 1000)}
	l := logtest.Open(t, logtest.NewDir(t), h)
	defer close(h.hold)
	large := logtest.Event(0, "")
	for i := range 14 {
		large.Attributes = append(large.Attributes, &keytrailv1.Attribute{
			Name: fmt.Sprintf("filler-%02d", i), Value: strings.Repeat("x", 2000),
		})
	}
	sent := 0
	for n := 0; ; n++ {
		large.EventId = fmt.Sprint("large-", n)
		ev := logtest.Prepare(t, large)
		_, err := l.Submit(t.Context(), "", []log.Event{ev})
		if errors.Is(err, log.ErrOverloaded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent += 28_000; sent > 80<<20 {
			t.Fatalf("%d MiB are waiting and the pool still takes more", sent>>20)
		}
	}
}

func TestStopDrains(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	var calls []*log.Call
	for n := range 500 {
		c, err := l.Submit(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(n, "k"))})
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(1000, ""))}); !errors.Is(err, log.ErrStopping) {
		t.Errorf("append after stop: %v", err)
	}
	if r := logtest.Check(t, d, s); r.Published != 500 {
		t.Errorf("published %d of 500 at the stop", r.Published)
	}
}

func TestTooManyEvents(t *testing.T) {
	l := logtest.Open(t, logtest.NewDir(t), memstore.New())
	if _, err := l.Append(t.Context(), "", make([]log.Event, log.MaxEvents+1)); !errors.Is(err, log.ErrTooMany) {
		t.Errorf("got %v", err)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	var last time.Time
	for i := range 100 {
		r := l.Append1(t, logtest.Event(i, fmt.Sprint(i%3)))
		if r.LoggedAt.Before(last) {
			t.Errorf("entry %d logged at %v, the one before at %v", r.Index, r.LoggedAt, last)
		}
		last = r.LoggedAt
	}
}
