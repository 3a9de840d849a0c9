package feed_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/witness/feed"
)

// start asks with the checkpoint of a size.
func (s *trio) start(t testing.TB, f *feed.Feed, size uint64) error {
	t.Helper()
	return f.Start(context.Background(), s.log.at(size), s.log.note(t, size))
}

// TestStart has witnesses that are at different sizes. Afterwards each is asked from where it
// is, without a 409.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 3)
		f := open(t, s.conf)
		s.w[0].size, s.w[1].size, s.w[2].size = 0, 5, 9
		if err := s.start(t, f, 9); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i, want := range []uint64{9, 5, 9} {
			if got := f.Status()[i].Size; got != want {
				t.Errorf("witness %d is at %d, want %d", i+1, got, want)
			}
		}
		s.cosign(t, f, 12, 6)
		for _, w := range s.w {
			if w.count() != 2 || w.asked[0].OldSize != 0 || len(w.asked[0].Hashes) != 0 {
				t.Errorf("%s was asked %d times, first from %d", w.name, w.count(), w.asked[0].OldSize)
			}
		}
	})
}

// TestStartQuorums holds the rule that those that answered must be a part of every quorum.
func TestStartQuorums(t *testing.T) {
	for name, c := range map[string]struct {
		quorum int
		silent int
		ok     bool
	}{
		"any, one silent":  {1, 1, false},
		"any, all answer":  {1, 0, true},
		"two, one silent":  {2, 1, true},
		"two, two silent":  {2, 2, false},
		"all, two silent":  {3, 2, true},
		"all, all silent":  {3, 3, false},
		"none, all silent": {0, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, c.quorum)
				f := open(t, s.conf)
				for _, w := range s.w[:c.silent] {
					w.always(500, "", "")
				}
				err := s.start(t, f, 9)
				e, few := errors.AsType[*feed.QuorumError](err)
				if (err == nil) != c.ok || few != (err != nil) {
					t.Fatalf("the answer is %v", err)
				}
				if few && !e.RetryAt.After(time.Now()) {
					t.Errorf("it can be asked again at once")
				}
			})
		})
	}
}

// TestStartAgain asks again when too few answered: only those that have not, and only when
// their delay is over.
func TestStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[1].always(404, "", "")
		s.w[2].always(500, "", "")
		err := s.start(t, f, 9)
		synctest.Wait()
		e, ok := errors.AsType[*feed.QuorumError](err)
		if !ok || len(e.Missing) < 4 || !strings.Contains(e.Error(), "w3-pq: answered 500") {
			t.Fatalf("the answer is %v", err)
		}
		if err := s.start(t, f, 9); err == nil || s.w[2].count() != 1 {
			t.Errorf("before its time w3 was asked %d times, %v", s.w[2].count(), err)
		}
		time.Sleep(time.Until(e.RetryAt))
		if err := s.start(t, f, 9); err == nil || s.w[2].count() != 2 {
			t.Errorf("at its time w3 was asked %d times, %v", s.w[2].count(), err)
		}
		s.w[2].mend()
		time.Sleep(time.Second)
		if err := s.start(t, f, 9); err != nil {
			t.Fatal(err)
		}
		if n := s.w[0].count(); n != 1 {
			t.Errorf("w1 was asked %d times", n)
		}
		if n := s.w[1].count(); n != 1 {
			t.Errorf("w2 was asked %d times in a second and a bit", n)
		}
	})
}

// TestStartGrace waits for a witness that nothing depends on for the grace only; what it
// answers later counts.
func TestStartGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].size = 4
		s.w[2].slow(time.Second)
		took(t, "starting", grace, func() {
			if err := s.start(t, f, 9); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(2 * time.Second)
		if st := f.Status()[2]; st.Size != 4 {
			t.Errorf("its state is %+v", st)
		}
	})
}

// TestAhead has a witness that cosigned more than the log knows of.
func TestAhead(t *testing.T) {
	for _, proven := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newTrio(t, 2)
			f := open(t, s.conf)
			s.w[1].size = 20
			s.w[0].slow(time.Second)
			s.w[2].slow(time.Second)
			var proof []byte
			if proven {
				proof = s.log.note(t, 20)
				s.w[1].monitor = proof
			}
			want := &feed.AheadError{Witness: "w2,w2-pq", URL: s.w[1].url, Size: 20, Ours: 9, Note: proof}
			took(t, "starting", 0, func() {
				e, ok := errors.AsType[*feed.AheadError](s.start(t, f, 9))
				if !ok || e.Witness != want.Witness || e.URL != want.URL || e.Size != 20 || e.Ours != 9 || !bytes.Equal(e.Note, proof) {
					t.Errorf("the answer is %+v, want %+v", e, want)
				}
			})
			if _, ok := errors.AsType[*feed.AheadError](s.start(t, f, 9)); !ok {
				t.Error("the second answer is another")
			}
			if st := f.Status()[1]; !st.Conflict {
				t.Errorf("its state is %+v", st)
			}
			if (f.Proof() != nil) != proven {
				t.Errorf("the proof is %v", f.Proof())
			}
		})
	}
}

// TestStartEmpty has a log that has signed nothing: no witness is asked to cosign the empty
// tree, and one that shows a checkpoint of the log is ahead.
func TestStartEmpty(t *testing.T) {
	for name, c := range map[string]struct {
		monitor func(*testLog) []byte
		refused bool
	}{
		"never cosigned":   {func(*testLog) []byte { return nil }, false},
		"cosigned entries": {func(l *testLog) []byte { return l.note(t, 20) }, true},
		"the empty tree":   {func(l *testLog) []byte { return l.note(t, 0) }, false},
		"another log's": {func(l *testLog) []byte {
			return bytes.Replace(l.note(t, 20), []byte(testOrigin), []byte("other.example/log"), 1)
		}, false},
		"rubbish": {func(*testLog) []byte { return []byte("hello\n") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2)
				f := open(t, s.conf)
				s.w[0].monitor = c.monitor(s.log)
				err := s.start(t, f, 0)
				synctest.Wait()
				e, ahead := errors.AsType[*feed.AheadError](err)
				if ahead != c.refused || (err == nil) == c.refused {
					t.Fatalf("the answer is %v", err)
				}
				if ahead && (e.Size != 20 || e.Ours != 0 || !bytes.Equal(e.Note, s.w[0].monitor)) {
					t.Errorf("the answer is %+v", e)
				}
				for _, w := range s.w {
					if w.count() > 0 || (!ahead && w.looked != 1) {
						t.Errorf("%s was asked %d times and looked at %d times", w.name, w.count(), w.looked)
					}
				}
			})
		})
	}
}

// TestStartEmptyUnreachable has two of three witnesses that do not say what they have.
func TestStartEmptyUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		s.conf.Transport = network{s.w[0].name + ".test": s.w[0], s.w[1].name + ".test": http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			http.Error(rw, "broken", http.StatusBadGateway)
		})}
		f := open(t, s.conf)
		e, ok := errors.AsType[*feed.QuorumError](s.start(t, f, 0))
		if !ok {
			t.Fatalf("the answer is %v", e)
		}
		// Whether the first has answered already does not matter.
		for _, why := range []string{"w2: its monitoring endpoint answered 502", "w3: no route"} {
			if !strings.Contains(e.Error(), why) {
				t.Errorf("the answer is %v, want %q", e, why)
			}
		}
	})
}

// TestAheadLate has it answer when the others have answered, so that the log goes on.
func TestAheadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[1].size = 20
		s.w[1].slow(time.Second)
		s.w[1].monitor = s.log.note(t, 20)
		if err := s.start(t, f, 9); err != nil {
			t.Fatal(err)
		}
		took(t, "cosigning", 0, func() { s.cosign(t, f, 10, 4) })
		took(t, "the proof", time.Second-grace, func() { <-f.Conflict() })
		if p := f.Proof(); p.Size != 20 {
			t.Errorf("the proof is %v", p)
		}
	})
}

// TestStartWithoutQuorum waits for every witness when no quorum says who is enough.
func TestStartWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 0)
		f := open(t, s.conf)
		s.w[1].size = 20
		s.w[1].slow(time.Second)
		took(t, "starting", time.Second, func() {
			if e, ok := errors.AsType[*feed.AheadError](s.start(t, f, 9)); !ok || e.Size != 20 {
				t.Errorf("the answer is %+v", e)
			}
		})
	})
}

// TestStartContradiction has witnesses answer the question for their size with what it
// cannot be.
func TestStartContradiction(t *testing.T) {
	for name, r := range map[string]reply{
		"409 without a size": {409, "no\n"},
		"409 with 0":         {409, "0\n"},
		"422":                {422, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2)
				f := open(t, s.conf)
				s.w[1].script(r)
				if err := s.start(t, f, 9); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if st := f.Status()[1]; !st.Conflict || st.Size != 0 {
					t.Errorf("its state is %+v", st)
				}
			})
		})
	}
}

// TestStartWithoutURL has a policy with a witness that nobody can ask, and that has therefore
// cosigned nothing.
func TestStartWithoutURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 1)
		s.w[2].url = ""
		s.conf.Policy = testPolicy(t, s.log, 1, s.w[0].party, s.w[1].party, s.w[2].party)
		f := open(t, s.conf)
		if err := s.start(t, f, 9); err != nil {
			t.Fatal(err)
		}
		s.cosign(t, f, 10, 4)
		s.w[0].always(500, "", "")
		s.w[1].always(500, "", "")
		if e := wantNoQuorum(t, f, s.log, 11); !strings.Contains(e.Error(), "w3: the policy has no URL for it") {
			t.Errorf("it says %v", e)
		}
	})
}

// TestStartFailsAtOnce does not wait for a witness whose answer cannot be enough.
func TestStartFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 1)
		f := open(t, s.conf)
		s.w[0].always(500, "", "")
		s.w[1].slow(time.Second)
		took(t, "starting", 0, func() {
			if _, ok := errors.AsType[*feed.QuorumError](s.start(t, f, 9)); !ok {
				t.Error("the start succeeds")
			}
		})
	})
}

// TestStartEnds has the caller give up.
func TestStartEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 1)
		f := open(t, s.conf)
		s.w[1].slow(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := f.Start(ctx, s.log.at(9), s.log.note(t, 9))
		if e, ok := errors.AsType[*feed.QuorumError](err); !ok || !strings.Contains(e.Error(), "w2: has not answered yet") || strings.Contains(e.Error(), "w1") {
			t.Errorf("the answer is %v", err)
		}
	})
}

// TestStartRealWitnesses asks package witness, and a witness that does not serve the log.
func TestStartRealWitnesses(t *testing.T) {
	l := newLog(t, "")
	fresh, behind, same, ahead := newRealWitness(t, "w1", l), newRealWitness(t, "w2", l), newRealWitness(t, "w3", l), newRealWitness(t, "w4", l)
	behind.seed(t, l, 3)
	same.seed(t, l, 9)
	ahead.seed(t, l, 12)
	p := testPolicy(t, l, 3, fresh.party, behind.party, same.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	if err := f.Start(t.Context(), l.at(9), l.note(t, 9)); err != nil {
		t.Fatal(err)
	}
	wantCosigned(t, f, l, p, 10, 6)

	// Each of them alone would be a quorum, so that the start waits for all.
	p = testPolicy(t, l, 1, fresh.party, behind.party, ahead.party)
	g := open(t, feed.Config{Policy: p, Tree: l, Grace: 10 * time.Second})
	e, ok := errors.AsType[*feed.AheadError](g.Start(t.Context(), l.at(10), l.note(t, 10)))
	if !ok || e.Size != 12 || len(e.Note) == 0 {
		t.Errorf("the answer is %+v", e)
	}
}

// TestNewRefuses gives New what it must not take.
func TestNewRefuses(t *testing.T) {
	s := newTrio(t, 2)
	with := func(change func(*feed.Config)) feed.Config {
		c := s.conf
		c.Origin = testOrigin
		change(&c)
		return c
	}
	witnessAt := func(url string) feed.Config {
		return with(func(c *feed.Config) {
			p := *s.conf.Policy
			p.Witnesses = append([]policy.Witness(nil), p.Witnesses...)
			p.Witnesses[0].URL = url
			c.Policy = &p
		})
	}
	for name, c := range map[string]struct {
		conf feed.Config
		why  string
	}{
		"no policy":           {with(func(c *feed.Config) { c.Policy = nil }), "missing"},
		"no tree":             {with(func(c *feed.Config) { c.Tree = nil }), "missing"},
		"another log":         {with(func(c *feed.Config) { c.Origin = "log.test/other" }), "no key"},
		"negative grace":      {with(func(c *feed.Config) { c.Grace = -1 }), "negative"},
		"negative timeout":    {with(func(c *feed.Config) { c.Timeout = -1 }), "negative"},
		"limit of nobody":     {with(func(c *feed.Config) { c.PerDay = map[string]uint32{"w9": 1} }), "does not know"},
		"limit of nothing":    {with(func(c *feed.Config) { c.PerDay = map[string]uint32{"w1": 0} }), "never be asked"},
		"URL of another kind": {witnessAt("ftp://w1.test"), "http"},
		"URL without a host":  {witnessAt("http:///w1"), "host"},
		"URL with a password": {witnessAt("http://a:b@w1.test"), "host"},
		"URL with a query":    {witnessAt("http://w1.test/?q"), "host"},
		"URL with a fragment": {witnessAt("http://w1.test/#q"), "host"},
		"URL that is none":    {witnessAt("http://w1.test:x"), "port"},
		"quorum without URLs": {with(func(c *feed.Config) {
			c.Policy = testPolicy(t, s.log, 2, s.w[0].party, newParty(t, "w8", ""), newParty(t, "w9", ""))
		}), "quorum cannot be met"},
	} {
		f, err := feed.New(c.conf)
		if err == nil {
			f.Close()
			t.Errorf("%s is accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), c.why) || strings.Contains(err.Error(), "a:b") {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
}

// TestURLs has the prefix of a witness spelled in two ways for its two keys, and with a path.
func TestURLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newLog(t, ""), newFake(t, "w")
		p := testPolicy(t, l, 1, w.party)
		p.Witnesses[0].URL, p.Witnesses[1].URL = "http://w.test/a/b/", "http://w.test/a/b"
		n := network{"w.test": http.StripPrefix("/a/b", w)}
		f := open(t, feed.Config{Policy: p, Tree: l, Transport: n})
		wantCosigned(t, f, l, p, 3, 2)
		if n := w.count(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// TestMetrics counts requests by what came of them.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].size = 3
		s.cosign(t, f, 5, 6)
		s.w[1].answer = func(int, http.ResponseWriter, *http.Request, *consistency.Bundle) bool { return true }
		s.cosign(t, f, 6, 4)
		for _, c := range []struct {
			name, witness string
			want          float64
		}{
			{"keytrail_log_witness_requests_total", "w1,w1-pq", 2},
			{"keytrail_log_witness_requests_total", "w3,w3-pq", 3},
			{"keytrail_log_witness_request_seconds", "w3,w3-pq", 3},
			{"keytrail_log_witness_size", "w2,w2-pq", 5},
			{"keytrail_log_witness_size", "w3,w3-pq", 6},
			{"keytrail_log_witness_lag", "w2,w2-pq", 1},
			{"keytrail_log_witness_lag", "w3,w3-pq", 0},
			{"keytrail_log_witness_last_success_timestamp_seconds", "w1,w1-pq", float64(time.Now().Unix())},
			{"keytrail_log_witness_conflict", "w1,w1-pq", 0},
		} {
			if got := metric(t, f, c.name, c.witness); got != c.want {
				t.Errorf("%s of %s is %v, want %v", c.name, c.witness, got, c.want)
			}
		}
	})
}
