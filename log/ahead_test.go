package log_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

// pending is how many events wait in the pool.
func pending(t *testing.T, l *logtest.Log) int {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(l.Metrics()...)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "keytrail_log_pending_events" {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Fatal("no metric of what waits")
	return 0
}

// TestAhead holds a commit until a part of the next batch has been made, which has events of
// the first one again, the same and with other content, and keys of it.
func TestAhead(t *testing.T) {
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{}, 10)}
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, h)
	release := sync.OnceFunc(func() { close(h.hold) })
	defer release() // the log's end waits for the commit
	const n = 300
	first := submit(t, l, eventsOf(t, "a", 0, n))
	<-h.waiting
	other := logtest.Event(5, "key")
	other.Tenant, other.RequestId = "a", "another"
	again := submit(t, l, append(eventsOf(t, "a", 0, 3), logtest.Prepare(t, other)))
	next := submit(t, l, eventsOf(t, "a", n, n))
	for deadline := time.Now().Add(30 * time.Second); pending(t, l) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing of the next batch is made while one is being written")
		}
	}
	if done(t, first) || done(t, again) || done(t, next) {
		t.Fatal("a call is answered before its events are durable")
	}
	release()
	want, err := first.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if r := got[i]; !r.Duplicate || r.Index != want[i].Index || r.KeySequence != want[i].KeySequence || !r.LoggedAt.Equal(want[i].LoggedAt) {
			t.Errorf("event %d again: %+v, first %+v", i, r, want[i])
		}
	}
	conflict, ok := errors.AsType[*log.ConflictError](got[3].Err)
	if !ok || conflict.Index != want[5].Index {
		t.Errorf("event 5 with other content: %+v", got[3])
	}
	last, err := next.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range last {
		if r.Index != uint64(n+i) || r.KeySequence != uint64(n+i+1) || r.PreviousIndex != uint64(n+i-1) || r.LoggedAt.Before(want[n-1].LoggedAt) {
			t.Fatalf("event %d: %+v", n+i, r)
		}
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := logtest.Check(t, d, h.Store); r.Entries != 2*n {
		t.Errorf("%d entries", r.Entries)
	}
}

var errDisk = errors.New("the disk is gone")

// failStore commits nothing.
type failStore struct{ storage.Store }

func (failStore) Commit(context.Context, *storage.Batch) error { return errDisk }

// TestAheadOfAFailure: when a commit fails, what was made of the next batch is refused as well.
func TestAheadOfAFailure(t *testing.T) {
	broken := &failStore{Store: memstore.New()}
	h := &holdStore{Store: broken, hold: make(chan struct{}), waiting: make(chan struct{}, 10)}
	l := logtest.Open(t, logtest.NewDir(t), h)
	release := sync.OnceFunc(func() { close(h.hold) })
	defer release() // the log's end waits for the commit
	first := submit(t, l, eventsOf(t, "a", 0, 1))
	<-h.waiting
	next := submit(t, l, eventsOf(t, "a", 1, 300))
	for deadline := time.Now().Add(30 * time.Second); pending(t, l) > 250; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing of the next batch is made while one is being written")
		}
	}
	release()
	for _, c := range []*log.Call{first, next} {
		if _, err := c.Wait(t.Context()); !errors.Is(err, log.ErrStopped) || !errors.Is(err, errDisk) {
			t.Errorf("the call ended with %v", err)
		}
	}
	if err := l.Stop(); !errors.Is(err, errDisk) {
		t.Errorf("the log ended with %v", err)
	}
	if head, err := broken.Head(t.Context()); err != nil || head.Size != 0 {
		t.Errorf("the store has %d entries, %v", head.Size, err)
	}
}
