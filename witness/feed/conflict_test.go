package feed_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness/feed"
)

// reply is what a fake answers to one request.
type reply struct {
	status int
	body   string
}

// script answers requests in order, and leaves those after the last to the fake.
func (f *fake) script(replies ...reply) {
	f.set(func(f *fake) {
		begin := len(f.asked)
		f.answer = func(n int, rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle) bool {
			if n -= begin; n > len(replies) {
				return false
			}
			rw.WriteHeader(replies[n-1].status)
			_, _ = io.WriteString(rw, replies[n-1].body)
			return true
		}
	})
}

// TestContradictions has one of three witnesses, which cosigned size 5, answer size 8 with
// what cannot be true, without showing any proof. It alone is excluded.
func TestContradictions(t *testing.T) {
	for name, c := range map[string]struct {
		replies []reply
		why     string
	}{
		"409 without a size":          {[]reply{{409, ""}}, "states no size"},
		"409 with words":              {[]reply{{409, "conflict\n"}}, "states no size"},
		"409 with a leading zero":     {[]reply{{409, "03\n"}}, "states no size"},
		"409 without newline":         {[]reply{{409, "3"}}, "states no size"},
		"409 with two newlines":       {[]reply{{409, "3\n\n"}}, "states no size"},
		"409 with a sign":             {[]reply{{409, "+3\n"}}, "states no size"},
		"409 with 2^64":               {[]reply{{409, "18446744073709551616\n"}}, "states no size"},
		"409 larger than ours":        {[]reply{{409, "9\n"}}, "no more than 8"},
		"409 with the size sent":      {[]reply{{409, "5\n"}}, "states that it cosigned size 5"},
		"409 twice with our size":     {[]reply{{409, "8\n"}, {409, "8\n"}}, "states that it cosigned size 8"},
		"409 and then the same again": {[]reply{{409, "3\n"}, {409, "3\n"}}, "states that it cosigned size 3"},
		"422 after a fresh size":      {[]reply{{409, "3\n"}, {422, ""}}, "does not extend size 3"},
		"422 at our size":             {[]reply{{409, "8\n"}, {422, ""}}, "does not extend size 8"},
		"422 and the same size":       {[]reply{{422, ""}, {409, "5\n"}}, "states that it cosigned size 5"},
		"422 twice":                   {[]reply{{422, ""}, {422, ""}}, "does not extend size 0"},
		"422, another size, 422":      {[]reply{{422, ""}, {409, "3\n"}, {422, ""}}, "does not extend size 3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2)
				f := open(t, s.conf)
				s.cosign(t, f, 5, 6)
				s.w[2].script(c.replies...)
				s.cosign(t, f, 8, 4)
				synctest.Wait()
				if n := s.w[2].count(); n != 1+len(c.replies) {
					t.Errorf("%d requests, want %d", n, 1+len(c.replies))
				}
				st := f.Status()[2]
				if !st.Conflict || !strings.Contains(st.Problem, c.why) {
					t.Errorf("its state is %+v, want a conflict because it %s", st, c.why)
				}
				if s.w[2].looked == 0 {
					t.Error("nobody looked for a proof")
				}
				asked := s.w[2].count()
				time.Sleep(time.Hour)
				s.cosign(t, f, 9, 4)
				if s.w[2].count() != asked {
					t.Error("it was asked again")
				}
				if p := f.Proof(); p != nil {
					t.Errorf("without a checkpoint there is a proof: %v", p)
				}
				if got := metric(t, f, "keytrail_log_witness_conflict", "w3,w3-pq"); got != 1 {
					t.Errorf("the metric says %v", got)
				}
				if got := metric(t, f, "keytrail_log_witness_conflict", "w1,w1-pq"); got != 0 {
					t.Errorf("the metric of a good witness says %v", got)
				}
			})
		})
	}
}

// metric returns the value of a gauge or the sum of a counter's values of a witness.
func metric(t *testing.T, f *feed.Feed, name, witness string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(f.Metrics()...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, m := range families {
		for _, v := range m.GetMetric() {
			for _, l := range v.GetLabel() {
				if m.GetName() == name && l.GetName() == "witness" && l.GetValue() == witness {
					sum += v.GetGauge().GetValue() + v.GetCounter().GetValue() + float64(v.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return sum
}

// TestNoContradiction has a witness, of which this process knows size 5, answer size 8 with
// what can be true, if unusual.
func TestNoContradiction(t *testing.T) {
	for name, c := range map[string]struct {
		replies []reply
		size    uint64 // of the witness
		want    []uint64
	}{
		"an answer was lost":               {nil, 8, []uint64{5, 8}},
		"the witness went back":            {nil, 2, []uint64{5, 2}},
		"the witness begins anew":          {nil, 0, []uint64{5, 0}},
		"another request came between":     {[]reply{{409, "6\n"}}, 7, []uint64{5, 6, 7}},
		"422 of a state that was replaced": {[]reply{{422, ""}}, 3, []uint64{5, 0, 3}},
		"422 of a state that began anew":   {[]reply{{422, ""}}, 0, []uint64{5, 0}},
		"another request came to our size": {[]reply{{409, "6\n"}}, 8, []uint64{5, 6, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 3)
				f := open(t, s.conf)
				s.cosign(t, f, 5, 6)
				s.w[2].set(func(f *fake) { f.size = c.size })
				s.w[2].script(c.replies...)
				s.cosign(t, f, 8, 6)
				var olds []uint64
				for _, u := range s.w[2].asked[1:] {
					olds = append(olds, u.OldSize)
					wantProof(t, s.log, u)
				}
				if fmt.Sprint(olds) != fmt.Sprint(c.want) {
					t.Errorf("it was asked from the sizes %d, want %d", olds, c.want)
				}
				if st := f.Status()[2]; st.Problem != "" || st.Conflict || st.Size != 8 {
					t.Errorf("its state is %+v", st)
				}
			})
		})
	}
}

// wantProof checks that a request carries the log's proof for its sizes.
func wantProof(t *testing.T, l *testLog, u *consistency.Bundle) {
	t.Helper()
	cp := mustParse(u)
	want, err := l.Consistency(t.Context(), u.OldSize, cp.Size)
	if err != nil {
		t.Fatal(err)
	}
	if len(want) != len(u.Hashes) {
		t.Fatalf("the proof from %d to %d has %d hashes, want %d", u.OldSize, cp.Size, len(u.Hashes), len(want))
	}
	for i := range want {
		if want[i] != u.Hashes[i] {
			t.Errorf("hash %d of the proof from %d to %d is another", i, u.OldSize, cp.Size)
		}
	}
}

// TestEndlessSizes has a witness state another size each time: that is no contradiction, but
// it ends.
func TestEndlessSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		f := open(t, s.conf)
		s.w[2].script(reply{409, "3\n"}, reply{409, "4\n"}, reply{409, "5\n"}, reply{409, "6\n"})
		s.cosign(t, f, 8, 4)
		synctest.Wait()
		if n := s.w[2].count(); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
		if st := f.Status()[2]; st.Conflict || st.Problem == "" || st.RetryAt.IsZero() {
			t.Errorf("its state is %+v", st)
		}
	})
}

// TestProofs has a witness that contradicts size 8 show a checkpoint at its monitoring endpoint.
func TestProofs(t *testing.T) {
	l, fork := newLog(t, ""), newLog(t, "fork")
	stranger := newLog(t, "fork")
	stranger.keys = []*checkpoint.SignerKey{key(t, "stranger.test", checkpoint.TypeEd25519)}
	sign := func(cp checkpoint.Checkpoint, keys ...*checkpoint.SignerKey) []byte {
		note, err := checkpoint.SignNote(cp, time.Now(), keys...)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	// A key of the log's name that is not the log's.
	namesake, err := checkpoint.NewSignerKey(testOrigin, checkpoint.TypeEd25519, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	_, sigs, err := checkpoint.ParseNote(fork.note(t, 8))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sigs {
		s.Sig[len(s.Sig)-1] ^= 1
	}
	broken := checkpoint.AppendNote(nil, fork.at(8), sigs)
	other := fork.at(8)
	other.Origin = "log.test/other"
	ours, err := l.keys[1].Cosign(other, 1_800_000_000) // the log's key can be a witness, too
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		note  []byte
		proof bool
	}{
		"fork of the same size":        {fork.note(t, 8), true},
		"fork at a smaller size":       {fork.note(t, 5), true},
		"fork at a power of two":       {fork.note(t, 4), true},
		"fork at a larger size":        {fork.note(t, 80), true},
		"larger tree of the same log":  {l.note(t, 80), true},
		"fork, with the old key alone": {sign(fork.at(8), l.keys[1]), true},
		"nothing":                      {nil, false},
		"our own checkpoint":           {l.note(t, 8), false},
		"our own smaller checkpoint":   {l.note(t, 5), false},
		"the empty tree":               {l.note(t, 0), false},
		"not signed by the log":        {sign(fork.at(8), namesake), false},
		"with false signatures":        {broken, false},
		"of another log, with our key": {checkpoint.AppendNote(nil, other, []checkpoint.Signature{ours}), false},
		"of another log":               {sign(other, key(t, "log.test/other", checkpoint.TypeEd25519)), false},
		"garbage":                      {[]byte("hello\n"), false},
		"huge":                         {bytes.Repeat([]byte("x"), 1<<20), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTrio(t, 2)
				s.log, s.conf.Tree = l, l
				f := open(t, s.conf)
				s.w[2].monitor = c.note
				s.w[2].script(reply{422, ""})
				signed := l.note(t, 8)
				_, err := f.Cosign(t.Context(), l.at(8), signed)
				synctest.Wait()
				closed := false
				select {
				case <-f.Conflict():
					closed = true
				default:
				}
				p := f.Proof()
				if closed != c.proof || (p != nil) != c.proof {
					t.Fatalf("channel closed %v, proof %v; want %v", closed, p, c.proof)
				}
				if !c.proof {
					if err != nil {
						t.Errorf("cosigning: %v", err)
					}
					s.cosign(t, f, 9, 4)
					return
				}
				theirs, _, err := checkpoint.ParseNote(c.note)
				if err != nil {
					t.Fatal(err)
				}
				if p.Size != theirs.Size || p.Root != theirs.Root || !bytes.Equal(p.Note, c.note) || !bytes.Equal(p.Ours, signed) || p.Witness != "w3,w3-pq" || p.URL != s.w[2].url {
					t.Errorf("the proof is %+v", p)
				}
				_, err = f.Cosign(t.Context(), l.at(9), l.note(t, 9))
				if e, ok := errors.AsType[*feed.ConflictError](err); !ok || e != p {
					t.Errorf("after the proof Cosign says %v", err)
				}
				if err := f.Start(t.Context(), l.at(9), l.note(t, 9)); !errors.Is(err, error(p)) {
					t.Errorf("after the proof Start says %v", err)
				}
			})
		})
	}
}

// TestLateProof has the monitoring endpoint lag behind.
func TestLateProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		fork := newLog(t, "fork")
		f := open(t, s.conf)
		s.w[2].script(reply{422, ""})
		s.w[2].monitor = s.log.note(t, 3)
		s.cosign(t, f, 8, 4)
		time.Sleep(50 * time.Minute)
		if p := f.Proof(); p != nil {
			t.Fatalf("there is a proof: %v", p)
		}
		s.cosign(t, f, 9, 4)
		s.w[2].set(func(w *fake) { w.monitor = fork.note(t, 8) })
		begin := time.Now()
		<-f.Conflict()
		if took := time.Since(begin); took > 10*time.Minute {
			t.Errorf("the proof was found after %v", took)
		}
		looked := s.w[2].looked
		time.Sleep(time.Hour)
		if s.w[2].looked != looked {
			t.Error("it looks for a proof that it has")
		}
	})
}

// TestForkAtRealWitness has a witness that cosigned one history refuse the other.
func TestForkAtRealWitness(t *testing.T) {
	for name, size := range map[string]uint64{"same size": 9, "smaller": 5, "larger": 11} {
		t.Run(name, func(t *testing.T) {
			l, fork := newLog(t, ""), newLog(t, "fork")
			w := newRealWitness(t, "w", l)
			w.seed(t, fork, size)
			p := testPolicy(t, l, 1, w.party)
			f := open(t, feed.Config{Policy: p, Tree: l})
			_, err := f.Cosign(t.Context(), l.at(9), l.note(t, 9))
			e, ok := errors.AsType[*feed.ConflictError](err)
			if !ok || e.Size != size || e.Root != fork.at(size).Root {
				t.Errorf("the answer is %v", err)
			}
			if st := f.Status()[0]; !st.Conflict {
				t.Errorf("its state is %+v", st)
			}
		})
	}
}

// TestNeverTwoTrees asks the feed itself to send what must not be sent.
func TestNeverTwoTrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTrio(t, 2)
		fork := newLog(t, "fork")
		f := open(t, s.conf)
		s.cosign(t, f, 5, 6)
		for name, l := range map[string]*testLog{"smaller": s.log, "another of the size": fork} {
			size := uint64(5)
			if l == s.log {
				size = 4
			}
			if _, err := f.Cosign(t.Context(), l.at(size), l.note(t, size)); err == nil {
				t.Errorf("%s: was cosigned", name)
			}
		}
		if _, err := f.Cosign(t.Context(), s.log.at(6), s.log.note(t, 7)); err == nil {
			t.Error("a note of another checkpoint was cosigned")
		}
		cosigned := checkpoint.AppendNote(nil, s.log.at(6), mustSignatures(lines(s.log.at(6), time.Now(), s.w[0].keys...)))
		if _, err := f.Cosign(t.Context(), s.log.at(6), cosigned); err == nil {
			t.Error("a note without the log's signature was sent")
		}
		if n := s.w[0].count(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

func mustSignatures(lines []byte) []checkpoint.Signature {
	sigs, err := checkpoint.ParseSignatures(lines)
	if err != nil {
		panic(err)
	}
	return sigs
}
