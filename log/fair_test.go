package log_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/memstore"
)

// eventOf is event n of a tenant, on one key.
func eventOf(t *testing.T, tenant string, n int) log.Event {
	ev := logtest.Event(n, "key")
	ev.Tenant = tenant
	return logtest.Prepare(t, ev)
}

func eventsOf(t *testing.T, tenant string, from, n int) []log.Event {
	events := make([]log.Event, n)
	for i := range events {
		events[i] = eventOf(t, tenant, from+i)
	}
	return events
}

// done says whether a call is answered.
func done(t *testing.T, c *log.Call) bool {
	t.Helper()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Wait(over)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return err == nil
}

func submit(t *testing.T, l *logtest.Log, events []log.Event) *log.Call {
	t.Helper()
	c, err := l.Submit(t.Context(), "", events)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFloodAndTrickle lets one tenant fill the pool, in large calls or in small ones. Who
// comes then is in the next batch, and what the flood has waiting keeps its order.
func TestFloodAndTrickle(t *testing.T) {
	for _, perCall := range []int{1, 50, log.MaxEvents} {
		t.Run(fmt.Sprint("calls of ", perCall), func(t *testing.T) {
			h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{})}
			l := logtest.Open(t, logtest.NewDir(t), h)
			// nextBatch returns when the batch that is held is answered and the next one made.
			nextBatch := func() {
				h.hold <- struct{}{}
				<-h.waiting
			}
			var floods []*log.Call
			floods = append(floods, submit(t, l, eventsOf(t, "flood", 0, perCall)))
			<-h.waiting
			for n := perCall; n < 30_000; n += perCall {
				floods = append(floods, submit(t, l, eventsOf(t, "flood", n, perCall)))
			}
			small, other := submit(t, l, eventsOf(t, "small", 0, 3)), submit(t, l, eventsOf(t, "other", 0, 1))
			nextBatch()
			nextBatch()
			if !done(t, small) || !done(t, other) {
				t.Error("who came after a flood was not in the next batch")
			}
			if !done(t, floods[1]) {
				t.Error("the flood was not in the next batch")
			}
			late := submit(t, l, eventsOf(t, "small", 10, 1))
			nextBatch()
			nextBatch()
			if !done(t, late) {
				t.Error("who came late was not in the next batch")
			}
			if done(t, floods[len(floods)-1]) {
				t.Error("the flood has ended: the test does not test")
			}
			go func() {
				for range h.waiting {
				}
			}()
			close(h.hold)
			for i, c := range floods {
				res, err := c.Wait(t.Context())
				if err != nil || res[0].KeySequence != uint64(i*perCall+1) {
					t.Fatalf("call %d: %+v, %v", i, res, err)
				}
			}
			if err := l.Stop(); err != nil {
				t.Fatal(err)
			}
			close(h.waiting)
		})
	}
}

// TestFloodLeavesRoom: whoever floods is refused by name, and the next ones find room.
func TestFloodLeavesRoom(t *testing.T) {
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{}, 1000)}
	d := logtest.NewDir(t)
	d.Change = func(c *log.Config) { c.MaxPending = 1000 }
	l := logtest.Open(t, d, h)
	defer close(h.hold)
	submit(t, l, eventsOf(t, "first", 0, 1))
	<-h.waiting                                    // nothing is taken from the pool from here on
	for i, least := range []int{750, 185, 40, 8} { // three quarters of what there is
		tenant := fmt.Sprint("flood ", i)
		var over *log.OverloadError
		n := 0
		for ; over == nil; n++ {
			_, err := l.Submit(t.Context(), "", eventsOf(t, tenant, n, 1))
			if err != nil && !errors.As(err, &over) {
				t.Fatal(err)
			}
			if n > 1000 {
				t.Fatal("the flood was never refused")
			}
		}
		if over.Tenant != tenant || over.Waiting < least || !errors.Is(over, log.ErrOverloaded) {
			t.Errorf("after %d events: %+v", n, over)
		}
		// A call of several tenants is taken whole or not at all.
		mixed := append(eventsOf(t, "small", 10*i, 1), eventsOf(t, tenant, 5000, 1)...)
		if _, err := l.Submit(t.Context(), "", mixed); !errors.As(err, &over) || over.Tenant != tenant {
			t.Errorf("a call of which half is of the flood: %v", err)
		}
		submit(t, l, eventsOf(t, "small", 10*i, 1))
	}
}

// TestCallOfSeveralTenants: each event has its result, and each tenant's events their order.
func TestCallOfSeveralTenants(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	var calls []*log.Call
	for n := range 50 {
		var events []log.Event
		for i := range 7 {
			events = append(events, eventOf(t, fmt.Sprint("tenant ", (i+n)%3), 7*n+i))
		}
		calls = append(calls, submit(t, l, events))
	}
	sequence := make(map[int]uint64)
	places := make(map[uint64]bool)
	for n, c := range calls {
		results, err := c.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			tenant := (i + n) % 3
			if sequence[tenant]++; r.Err != nil || r.KeySequence != sequence[tenant] || places[r.Index] {
				t.Errorf("call %d, event %d: %+v, want number %d", n, i, r, sequence[tenant])
			}
			places[r.Index] = true
		}
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := logtest.Check(t, d, s); r.Entries != 350 {
		t.Errorf("%d entries", r.Entries)
	}
}

func TestQuota(t *testing.T) {
	d := logtest.NewDir(t)
	d.Change = func(c *log.Config) {
		c.Quota = func(tenant string) log.Rate {
			if tenant == "bounded" {
				return log.Rate{PerSecond: 1e-6, Burst: 10}
			}
			return log.Rate{}
		}
	}
	l := logtest.Open(t, d, memstore.New())
	submit(t, l, eventsOf(t, "bounded", 0, 9))
	submit(t, l, eventsOf(t, "bounded", 9, 500)) // there is room for one: it is taken whole
	var over *log.OverloadError
	_, err := l.Submit(t.Context(), "", eventsOf(t, "bounded", 600, 1))
	if !errors.As(err, &over) || over.Tenant != "bounded" || over.RetryAfter <= 0 || over.Rate.Burst != 10 {
		t.Errorf("over the quota: %v", err)
	}
	again, err := l.Append(t.Context(), "", eventsOf(t, "bounded", 3, 1))
	if err == nil && !again[0].Duplicate { // it may be written already, and then costs nothing
		t.Errorf("an event sent again: %+v", again)
	}
	for n := range 100 {
		submit(t, l, eventsOf(t, "free", 100*n, 100))
	}
}
