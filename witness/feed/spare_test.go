package feed_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/witness/feed"
)

const ms = time.Millisecond

// spares is a trio without grace, two of three the quorum, each with one key.
func spares(t *testing.T, quorum int) (*trio, *feed.Feed) {
	s := newTrio(t, quorum).light(t, quorum)
	s.conf.Grace = 0
	return s, open(t, s.conf)
}

// gathered checks how many signatures of a size are there.
func (s *trio) gathered(t *testing.T, f *feed.Feed, size uint64, want int) {
	t.Helper()
	synctest.Wait()
	sigs := f.Gathered(s.log.at(size))
	if len(sigs) != want {
		t.Errorf("%d signatures of size %d, want %d", len(sigs), size, want)
	}
	for i, g := range sigs {
		if i > 0 && sigs[i-1].Name >= g.Name {
			t.Errorf("%s stands after %s", g.Name, sigs[i-1].Name)
		}
	}
}

func (s *trio) counts() string {
	return fmt.Sprint(s.w[0].count(), s.w[1].count(), s.w[2].count())
}

// TestSpare asks the third witness when the quorum is met, waits for it never, and adds what
// it answers to the checkpoint that it was asked about, if that is still the latest.
func TestSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		s.w[0].slow(3 * ms)
		s.w[1].slow(3 * ms)
		s.w[2].slow(time.Second)
		if f.Gathered(s.log.at(1)) != nil {
			t.Error("there are signatures before the first call")
		}
		took(t, "the quorum", 3*ms, func() { s.cosign(t, f, 1, 2) })
		s.gathered(t, f, 1, 2)
		if got := s.counts(); got != "1 1 1" {
			t.Errorf("requests: %s", got)
		}
		select {
		case <-f.More():
			t.Error("more is said to be there")
		default:
		}
		took(t, "the third", time.Second, func() { <-f.More() })
		s.gathered(t, f, 1, 3)
		time.Sleep(time.Second)

		took(t, "the next", 3*ms, func() { s.cosign(t, f, 2, 2) })
		synctest.Wait()
		took(t, "the one after it", 3*ms, func() { s.cosign(t, f, 3, 2) })
		time.Sleep(3 * time.Second)
		s.gathered(t, f, 3, 3) // after the answer about 2
		if f.Gathered(s.log.at(2)) != nil {
			t.Error("there are signatures of an older checkpoint")
		}
		for _, u := range s.w[2].asked {
			if size := mustParse(u).Size; u.OldSize != size-1 {
				t.Errorf("size %d was asked for from %d", size, u.OldSize)
			}
		}
	})
}

// TestSpareInterval has a log publish every millisecond: the spare witness is asked now and
// then, always about the newest, and about the last one in the end.
func TestSpareInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		times := s.w[2].times()
		for size := uint64(1); size <= 200; size++ {
			s.cosign(t, f, size, 2)
			time.Sleep(ms)
			synctest.Wait()
			if n := s.w[2].count(); n > 0 && len(f.Gathered(s.log.at(size))) == 3 && f.Status()[2].Size != size {
				t.Errorf("it has size %d, the newest is %d", f.Status()[2].Size, size)
			}
		}
		time.Sleep(feed.SpareInterval)
		s.gathered(t, f, 200, 3)
		for i := 1; i < len(*times); i++ {
			if gap := (*times)[i].Sub((*times)[i-1]); gap < feed.SpareInterval || gap > feed.SpareInterval+2*ms {
				t.Errorf("it was asked again after %v", gap)
			}
		}
		if got := s.counts(); got != "200 200 3" {
			t.Errorf("requests: %s", got)
		}
	})
}

// TestSpareAtOnce has one of the first fail, in three ways.
func TestSpareAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*fake)
		first time.Duration // until the quorum
		next  time.Duration
	}{
		"it refuses": {func(w *fake) { w.always(500, "", "") }, 0, 0},
		"it lies":    {func(w *fake) { w.always(422, "", "") }, 0, 0},
		"it hangs":   {func(w *fake) { w.slow(time.Hour) }, 5 * ms, 0},
		"it is slow": {func(w *fake) { w.slow(6 * ms) }, 5 * ms, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := spares(t, 2)
				c.spoil(s.w[0])
				took(t, "the quorum", c.first, func() { s.cosign(t, f, 1, 2) })
				took(t, "the next", c.next, func() { s.cosign(t, f, 2, 2) })
				if got := s.counts(); got != "1 2 2" {
					t.Errorf("requests: %s", got)
				}
			})
		})
	}
}

// TestQuickFirst has the first witness become slow: the others are asked before it, and it
// is again once it is as quick as they.
func TestQuickFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		size := uint64(0)
		next := func() time.Duration {
			size++
			begin := time.Now()
			s.cosign(t, f, size, 2)
			return time.Since(begin)
		}
		s.w[0].slow(100 * ms)
		next()
		time.Sleep(time.Second)
		next()
		time.Sleep(time.Second)
		before := s.w[1].count()
		for range 10 {
			if d := next(); d != 0 {
				t.Errorf("a quorum of the quick ones took %v", d)
			}
			time.Sleep(200 * ms)
		}
		if n := s.w[1].count() - before; n != 10 {
			t.Errorf("the second was asked %d times in 10", n)
		}
		s.w[0].mend()
		s.w[2].slow(50 * ms)
		for range 100 {
			next()
			time.Sleep(200 * ms)
		}
		if d := next(); d != 0 {
			t.Errorf("with the first quick again a quorum took %v", d)
		}
	})
}

// TestSpareAgain has the spare witness fail while there is nothing new to cosign: it is asked
// again after a while, not before, and what it cosigns then is added.
func TestSpareAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		s.w[2].always(503, "30", "")
		s.cosign(t, f, 1, 2)
		time.Sleep(30*time.Second - ms)
		s.gathered(t, f, 1, 2)
		if got := s.counts(); got != "1 1 1" {
			t.Errorf("requests: %s", got)
		}
		s.w[2].mend()
		time.Sleep(ms)
		s.gathered(t, f, 1, 3)
		time.Sleep(time.Hour)
		if got := s.counts(); got != "1 1 2" {
			t.Errorf("requests: %s", got)
		}
	})
}

// TestFirstFailsLate has one of the first answer with an error after the quorum was met without
// it: it is asked again as a spare one is.
func TestFirstFailsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		s.w[0].set(func(w *fake) {
			w.answer = func(n int, rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle) bool {
				if n == 1 {
					time.Sleep(10 * ms)
					http.Error(rw, "no", http.StatusInternalServerError)
				}
				return n == 1
			}
		})
		took(t, "the quorum", 5*ms, func() { s.cosign(t, f, 1, 2) })
		time.Sleep(time.Second)
		s.gathered(t, f, 1, 3)
		if got := s.counts(); got != "2 1 1" {
			t.Errorf("requests: %s", got)
		}
	})
}

// TestSpareQuorumNone returns at once; the witnesses are asked all the same.
func TestSpareQuorumNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 0)
		took(t, "no quorum", 0, func() { s.cosign(t, f, 1, 0) })
		s.gathered(t, f, 1, 3)
	})
}

// TestNeededOnly has a policy that demands the third witness alone: the others are spare, and
// cannot stand in for it.
func TestNeededOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := spares(t, 2)
		text := ""
		for _, k := range s.log.keys {
			text += fmt.Sprintf("log %s\n", k.VerifierKey())
		}
		for _, w := range s.w {
			text += fmt.Sprintf("witness %s %s %s\n", w.name, w.keys[0].VerifierKey(), w.url)
		}
		var err error
		if s.conf.Policy, err = policy.Parse([]byte(text + "quorum w3\n")); err != nil {
			t.Fatal(err)
		}
		f := open(t, s.conf)
		s.w[2].slow(ms)
		s.w[0].always(500, "", "")
		took(t, "the third", ms, func() { s.cosign(t, f, 1, 1) })
		s.gathered(t, f, 1, 2)
		s.w[2].always(500, "", "")
		e := wantNoQuorum(t, f, s.log, 2)
		if !strings.Contains(e.Error(), "w3: answered 500") {
			t.Errorf("the error is %v", e)
		}
	})
}

// TestCloseSpare closes a feed while spare witnesses wait for their turn, are asked, and are
// waited for. The bubble ends only when no goroutine is left.
func TestCloseSpare(t *testing.T) {
	for name, slow := range map[string]time.Duration{"waiting": 0, "asked": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := spares(t, 2)
				s.w[2].slow(slow)
				s.cosign(t, f, 1, 2)
				synctest.Wait()
				s.cosign(t, f, 2, 2)
				synctest.Wait()
				took(t, "closing", 0, f.Close)
			})
		})
	}
}

// TestSpareContradicts has the spare witness prove another history: Conflict tells, although
// no call needs that witness.
func TestSpareContradicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := spares(t, 2)
		fork := newLog(t, "fork")
		fork.keys = s.log.keys
		s.w[2].always(422, "", "")
		s.w[2].monitor = fork.note(t, 1)
		s.cosign(t, f, 1, 2)
		<-f.Conflict()
		if _, err := f.Cosign(context.Background(), s.log.at(2), s.log.note(t, 2)); err == nil {
			t.Error("the log is cosigned on")
		}
	})
}
