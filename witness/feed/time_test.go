package feed_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness/feed"
)

// times notes when a fake is asked.
func (f *fake) times() *[]time.Time {
	var times []time.Time
	answer := f.answer
	f.set(func(f *fake) {
		f.answer = func(n int, rw http.ResponseWriter, req *http.Request, u *consistency.Bundle) bool {
			f.set(func(*fake) { times = append(times, time.Now()) })
			return answer != nil && answer(n, rw, req, u)
		}
	})
	return &times
}

// TestBackoff has a witness fail twenty times while the others cosign, and looks at when it
// was asked.
func TestBackoff(t *testing.T) {
	for name, c := range map[string]struct {
		status         int
		header         string
		first, longest time.Duration
	}{
		"500":                   {500, "", 100 * time.Millisecond, 30 * time.Second},
		"500 with a time":       {500, "3600", 100 * time.Millisecond, 30 * time.Second},
		"400":                   {400, "", 100 * time.Millisecond, 30 * time.Second},
		"302":                   {302, "", 100 * time.Millisecond, 30 * time.Second},
		"403":                   {403, "", 10 * time.Second, 10 * time.Minute},
		"404":                   {404, "", 10 * time.Second, 10 * time.Minute},
		"429":                   {429, "", 100 * time.Millisecond, 30 * time.Second},
		"429 at once":           {429, "0", 100 * time.Millisecond, 30 * time.Second},
		"429 in the past":       {429, "Sun, 06 Nov 1994 08:49:37 GMT", 100 * time.Millisecond, 30 * time.Second},
		"429 with nonsense":     {429, "soon", 100 * time.Millisecond, 30 * time.Second},
		"503 after ten minutes": {503, "600", 10 * time.Minute, 10 * time.Minute},
		"429 after ten minutes": {429, "600", 10 * time.Minute, 10 * time.Minute},
		"429 after a year":      {429, "31536000", time.Hour, time.Hour},
		"429 after 2^40":        {429, "1099511627776", 100 * time.Millisecond, 30 * time.Second},
		"429 in the year 2100":  {429, "Fri, 01 Jan 2100 00:00:00 GMT", time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2).light(t, 2)
				f := open(t, s.conf)
				s.w[2].always(c.status, c.header, "no")
				times := s.w[2].times()
				size := uint64(0)
				for range 20 {
					size++
					s.cosign(t, f, size, 2)
					synctest.Wait()
					time.Sleep(time.Until(f.Status()[2].RetryAt) - time.Nanosecond)
					size++
					s.cosign(t, f, size, 2)
					time.Sleep(time.Nanosecond)
				}
				if len(*times) != 20 {
					t.Fatalf("it was asked %d times", len(*times))
				}
				delay := c.first
				for i := 1; i < len(*times); i++ {
					gap := (*times)[i].Sub((*times)[i-1])
					if gap < delay/2 || gap > delay {
						t.Fatalf("gap %d is %v, want between half of %v and that", i, gap, delay)
					}
					delay = min(2*delay, c.longest)
				}
				// Success ends the row of failures.
				s.w[2].mend()
				time.Sleep(c.longest)
				s.cosign(t, f, 998, 3)
				s.w[2].always(500, "", "")
				s.cosign(t, f, 999, 2)
				synctest.Wait()
				if at := f.Status()[2].RetryAt; time.Until(at) > 100*time.Millisecond {
					t.Errorf("after a success and a failure it is asked again in %v", time.Until(at))
				}
			})
		})
	}
}

// TestRetryAt has two of three witnesses fail, which leaves no quorum. Nobody may be asked
// before RetryAt, and then it must be enough that one of the two is back.
func TestRetryAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[1].always(429, "30", "")
		s.w[2].always(429, "600", "")
		begin := time.Now()
		e := wantNoQuorum(t, f, s.log, 5)
		if !e.RetryAt.Equal(begin.Add(30 * time.Second)) {
			t.Errorf("the quorum can be met %v on, want 30 s", e.RetryAt.Sub(begin))
		}
		synctest.Wait()
		s.w[1].mend()
		time.Sleep(time.Until(e.RetryAt) - time.Second)
		again := wantNoQuorum(t, f, s.log, 6)
		synctest.Wait()
		if s.w[0].count() != 1 || s.w[1].count() != 1 || s.w[2].count() != 1 {
			t.Errorf("there were %d, %d, %d requests, want one each", s.w[0].count(), s.w[1].count(), s.w[2].count())
		}
		if !again.RetryAt.Equal(e.RetryAt) || len(again.Missing) != 4 {
			t.Errorf("meanwhile the answer is %+v", again)
		}
		time.Sleep(time.Until(e.RetryAt))
		s.cosign(t, f, 7, 4)
		time.Sleep(10 * time.Minute)
		s.w[2].mend()
		s.cosign(t, f, 8, 6)
	})
}

// TestRetryAtWithoutHope has both witnesses that are needed excluded.
func TestRetryAtWithoutHope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[1].always(422, "", "")
		s.w[2].always(422, "", "")
		if e := wantNoQuorum(t, f, s.log, 5); time.Until(e.RetryAt) < time.Minute {
			t.Errorf("asking again makes sense in %v", time.Until(e.RetryAt))
		}
	})
}

// TestBudget has requests a day limited, catching up included. The smaller limit of the URL
// counts: two requests at once, then one in 30 minutes.
func TestBudget(t *testing.T) {
	for _, perDay := range []map[string]uint32{{"w": 48}, {"w": 4800, "w-pq": 48}, {"w": 48, "w-pq": 4800}} {
		synctest.Test(t, func(t *testing.T) { testBudget(t, perDay) })
	}
}

func testBudget(t *testing.T, perDay map[string]uint32) {
	l := newLog(t, "")
	w := newFake(t, "w")
	w.size = 3
	p := testPolicy(t, l, 1, w.party)
	f := open(t, feed.Config{Policy: p, Tree: l, Transport: newNetwork(w), PerDay: perDay})
	wantCosigned(t, f, l, p, 5, 2) // two requests: 0 was the wrong size
	for size := uint64(6); size < 10; size++ {
		e := wantNoQuorum(t, f, l, size)
		if wait := time.Until(e.RetryAt); wait < 29*time.Minute || wait > 31*time.Minute {
			t.Fatalf("the next request is in %v, want 30 min", wait)
		}
		if st := f.Status()[0]; !st.RetryAt.Equal(e.RetryAt) {
			t.Errorf("the state says %v", st.RetryAt)
		}
		time.Sleep(time.Until(e.RetryAt))
		wantCosigned(t, f, l, p, size, 2)
	}
	time.Sleep(24 * time.Hour)
	w.set(func(w *fake) { w.size = 1 })
	wantCosigned(t, f, l, p, 20, 2)
	if n := w.count(); n != 8 {
		t.Errorf("%d requests, want 8", n)
	}
	wantNoQuorum(t, f, l, 21)
}

// TestBudgetEndsCatchUp has the limit end between a 409 and the second request; the size is
// remembered.
func TestBudgetEndsCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, "")
		w := newFake(t, "w")
		w.size = 3
		p := testPolicy(t, l, 1, w.party)
		f := open(t, feed.Config{Policy: p, Tree: l, Transport: newNetwork(w), PerDay: map[string]uint32{"w": 24}})
		e := wantNoQuorum(t, f, l, 5)
		if wait := time.Until(e.RetryAt); wait < 59*time.Minute || wait > 61*time.Minute {
			t.Errorf("the next request is in %v, want an hour", wait)
		}
		time.Sleep(time.Until(e.RetryAt))
		wantCosigned(t, f, l, p, 6, 2)
	})
}

// took runs fn and checks how long it took.
func took(t *testing.T, what string, want time.Duration, fn func()) {
	t.Helper()
	begin := time.Now()
	fn()
	if d := time.Since(begin); d != want {
		t.Errorf("%s took %v, want %v", what, d, want)
	}
}

// TestGrace has a witness that is quick enough, then late, then in time again.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[0].slow(5 * ms)
		s.w[2].slow(15 * ms)
		took(t, "with all in time", 15*ms, func() { s.cosign(t, f, 1, 6) })
		s.w[2].slow(100 * ms)
		took(t, "with one late", 5*ms+grace, func() { s.cosign(t, f, 2, 4) })
		took(t, "with one late and busy", 5*ms, func() { s.cosign(t, f, 3, 4) })
		if n := s.w[2].count(); n != 2 {
			t.Errorf("a busy witness was asked: %d requests", n)
		}
		time.Sleep(time.Second)
		if st := f.Status()[2]; st.Size != 2 || st.Problem != "" || st.Latency != 100*ms {
			t.Errorf("after its late answer its state is %+v", st)
		}
		took(t, "with one that was late", 5*ms, func() { s.cosign(t, f, 4, 4) })
		time.Sleep(time.Second)
		s.w[2].slow(6 * ms)
		took(t, "before it was in time", 5*ms, func() { s.cosign(t, f, 5, 4) })
		time.Sleep(time.Second)
		took(t, "after it was in time", 6*ms, func() { s.cosign(t, f, 6, 6) })
		for _, u := range s.w[2].asked {
			if size := mustParse(u).Size; size > 1 && u.OldSize != max(1, size-1) && size != 4 {
				t.Errorf("size %d was asked for from %d", size, u.OldSize)
			}
		}
	})
}

// TestHanging has the quorum need a witness whose earlier request still hangs: a later call
// waits for it, and no second request is sent meanwhile.
func TestHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].slow(2 * time.Second)
		s.cosign(t, f, 1, 4)
		s.w[1].always(500, "", "")
		begin := time.Now()
		s.cosign(t, f, 2, 4)
		// The rest of the first request and all of its own.
		if d := time.Since(begin); d != 4*time.Second-grace {
			t.Errorf("it took %v", d)
		}
		if n := s.w[2].count(); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

// TestHangingFails has the earlier request end without an answer: the later call does not ask
// before the delay after a failure is over.
func TestHangingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].slow(time.Hour)
		s.cosign(t, f, 1, 4)
		s.w[1].always(500, "", "")
		took(t, "waiting", feed.DefaultTimeout-grace, func() { wantNoQuorum(t, f, s.log, 2) })
		if n := s.w[2].count(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// TestHangingStart is the same for two calls of Start.
func TestHangingStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 1)
		f := open(t, s.conf)
		s.w[2].slow(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Start(ctx, s.log.at(1), s.log.note(t, 1)); err == nil {
			t.Error("the start succeeds")
		}
		took(t, "waiting", feed.DefaultTimeout-time.Second, func() {
			if err := s.start(t, f, 1); err == nil {
				t.Error("the second start succeeds")
			}
		})
		if n := s.w[2].count(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// TestTimeout has a needed witness hang for ever.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 3)
		s.conf.Timeout = time.Second
		f := open(t, s.conf)
		s.w[1].slow(time.Hour)
		took(t, "without an answer", time.Second, func() { wantNoQuorum(t, f, s.log, 5) })
		if st := f.Status()[1]; st.Problem != "no whole answer in time" {
			t.Errorf("its state is %+v", st)
		}
	})
}

// TestQuorumNone asks witnesses that nothing depends on, and waits for the grace only.
func TestQuorumNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 0)
		f := open(t, s.conf)
		s.cosign(t, f, 1, 6)
		s.w[0].slow(time.Second)
		took(t, "with one late", grace, func() { s.cosign(t, f, 2, 4) })
		for _, w := range s.w {
			w.always(500, "", "")
		}
		time.Sleep(2 * time.Second)
		took(t, "with none", 0, func() { s.cosign(t, f, 3, 0) })
		took(t, "with none to ask", 0, func() { s.cosign(t, f, 4, 0) })
	})
}

// TestMissingKey has a witness answer for one of its two keys only.
func TestMissingKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].keys = s.w[2].keys[:1]
		s.cosign(t, f, 1, 5)
		if st := f.Status()[2]; st.Problem != "answers without a line of w3-pq" || st.LastSuccess.IsZero() {
			t.Errorf("its state is %+v", st)
		}
		// Without w1 its other key is needed; it is asked less and less often.
		s.w[0].always(429, "3600", "")
		var last time.Duration
		for size := uint64(2); size < 12; size++ {
			last = time.Until(wantNoQuorum(t, f, s.log, size).RetryAt)
			synctest.Wait()
			asked := s.w[2].count()
			wantNoQuorum(t, f, s.log, size)
			synctest.Wait()
			if n := s.w[2].count(); n != asked {
				t.Fatalf("before its time it was asked again: %d requests after %d", n, asked)
			}
			time.Sleep(last)
		}
		if last < 5*time.Second || last > 30*time.Second {
			t.Errorf("after ten times without the line the next is in %v", last)
		}
		s.w[2].keys = newParty(t, "w3", "").keys
		s.cosign(t, f, 20, 4)
		s.cosign(t, f, 21, 4)
		if st := f.Status()[2]; st.Problem != "" {
			t.Errorf("its state is %+v", st)
		}
	})
}

// TestMissingNames checks what a QuorumError tells people.
func TestMissingNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[0].always(500, "", "out of\norder")
		s.w[1].always(404, "", "")
		e := wantNoQuorum(t, f, s.log, 5)
		want := []string{
			`w1: answered 500 ("out of\norder") (http://w1.test)`, `w1-pq: answered 500 ("out of\norder") (http://w1.test)`,
			`w2: does not serve this log: answered 404 ("") (http://w2.test)`, `w2-pq: does not serve this log: answered 404 ("") (http://w2.test)`,
		}
		// Whether the third has answered already does not matter to the quorum.
		if len(e.Missing) < 4 || !slices.Equal(e.Missing[:4], want) {
			t.Errorf("it says %q, want %q", e.Missing, want)
		}
		// At once: the quorum cannot be met, and nothing is wrong with the third.
		time.Sleep(time.Millisecond)
		e = wantNoQuorum(t, f, s.log, 6)
		if !slices.Equal(e.Missing, want) {
			t.Errorf("the second time it says %q, want %q", e.Missing, want)
		}
	})
}
