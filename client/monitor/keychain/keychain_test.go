package keychain_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client/monitor/keychain"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
	"github.com/keytrail/keytrail/proto/record"
)

func open(t testing.TB, dir string) *keychain.Checker {
	t.Helper()
	c, err := keychain.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closed(t testing.TB, c *keychain.Checker) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// history makes records of random keys as a log would write them.
type history struct {
	rnd   *rand.Rand
	chain map[string][]uint64
	folds map[string]*lifecycle.Fold
	want  map[string]uint64 // findings
}

var operations = []keytrailv1.Operation{
	keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.Operation_OPERATION_KEY_ROTATE, keytrailv1.Operation_OPERATION_USE_SIGN,
	keytrailv1.Operation_OPERATION_USE_SIGN, keytrailv1.Operation_OPERATION_KEY_DESTROY, keytrailv1.Operation_OPERATION_KEY_IMPORT,
}

func (h *history) next(index uint64) (*record.Record, *keytrailv1.KeyEvent) {
	ev := &keytrailv1.KeyEvent{
		Tenant: fmt.Sprint("t", h.rnd.IntN(2)), Key: &keytrailv1.Key{Ref: fmt.Sprint("k", h.rnd.IntN(40))},
		Operation: operations[h.rnd.IntN(len(operations))], Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS, Time: timestamppb.New(began),
	}
	r := &record.Record{Index: index, LoggedAt: began.Add(time.Duration(index) * time.Second)}
	if h.rnd.IntN(10) == 0 {
		ev.Key = nil
		return r, ev
	}
	key := ev.GetTenant() + " " + ev.GetKey().GetRef()
	chain := h.chain[key]
	r.KeySequence = uint64(len(chain)) + 1
	if len(chain) > 0 {
		r.PreviousIndex = chain[len(chain)-1]
	}
	h.chain[key] = append(chain, index)
	return r, ev
}

// fold counts the findings without any store.
func (h *history) fold(ev *keytrailv1.KeyEvent) {
	if ev.GetKey() == nil {
		return
	}
	key := ev.GetTenant() + " " + ev.GetKey().GetRef()
	if h.folds[key] == nil {
		h.folds[key] = new(lifecycle.Fold)
	}
	for _, f := range h.folds[key].Apply(ev) {
		h.want[f.GetKind().String()]++
	}
}

// TestRestarts checks a history with commits, restarts and places lost since the last
// commit, and comes to what a check in one go comes to.
func TestRestarts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	h := &history{rnd: rand.New(rand.NewPCG(seed, 0)), chain: map[string][]uint64{}, folds: map[string]*lifecycle.Fold{}, want: map[string]uint64{}}
	type step struct {
		r  *record.Record
		ev *keytrailv1.KeyEvent
	}
	var steps []step
	for i := range uint64(3000) {
		r, ev := h.next(i)
		steps = append(steps, step{r, ev})
	}
	erased := func(i uint64) bool { return i%97 == 5 }
	dir := t.TempDir()
	c := open(t, dir)
	for c.Next() < uint64(len(steps)) {
		s := steps[c.Next()]
		if erased(s.r.Index) {
			c.Skip(true)
		} else if err := c.Check(s.r, s.ev); err != nil {
			t.Fatal(err)
		}
		switch h.rnd.IntN(60) {
		case 0, 1, 2:
			if err := c.Commit(); err != nil {
				t.Fatal(err)
			}
		case 3:
			closed(t, c)
			c = open(t, dir)
		}
	}
	if err := c.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if !erased(s.r.Index) {
			h.fold(s.ev)
		}
	}
	got := c.Counts()
	if len(got.Faults) != 0 || got.Records+got.Erased != uint64(len(steps)) || got.Erased != 31 {
		t.Errorf("%+v", got)
	}
	want := make(map[string]uint64)
	for k, n := range h.want {
		want[keychain.FindingName(k)] = n
	}
	if diff := cmp.Diff(want, got.Findings); diff != "" || len(want) < 3 {
		t.Errorf("findings: %s", diff)
	}
	closed(t, c)
	again := open(t, dir)
	defer closed(t, again)
	if diff := cmp.Diff(got, again.Counts()); diff != "" {
		t.Error(diff)
	}
}

func use(index, sequence, previous uint64) (*record.Record, *keytrailv1.KeyEvent) {
	r := &record.Record{Index: index, LoggedAt: began, KeySequence: sequence, PreviousIndex: previous}
	return r, &keytrailv1.KeyEvent{
		Tenant: "t", Key: &keytrailv1.Key{Ref: "k"}, Time: timestamppb.New(began),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
	}
}

// TestGapOverUnread tries numbers after entries 0 (the key's first), 1 and 2 (erased), with
// the erased ones on disk or not.
func TestGapOverUnread(t *testing.T) {
	for _, commit := range []bool{false, true} {
		for _, row := range []struct {
			sequence, previous uint64
			ok                 bool
		}{
			{2, 0, true},  // the erased ones were of other keys
			{2, 1, false}, // its number leaves no room for entry 1
			{3, 2, true},  // one of them was number 2
			{3, 1, true},
			{4, 2, true},  // both were
			{4, 1, false}, // entry 1 cannot have been number 3
			{5, 2, false}, // two entries cannot have been three
			{3, 0, false}, // number 2 is not entry 0
			{1, 0, false},
		} {
			c := open(t, t.TempDir())
			if err := c.Check(use(0, 1, 0)); err != nil {
				t.Fatal(err)
			}
			c.Skip(true)
			c.Skip(false)
			if commit {
				if err := c.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Check(use(3, row.sequence, row.previous)); err != nil {
				t.Fatal(err)
			}
			if got := c.Counts().Faults[keychain.FaultSequence] == 0; got != row.ok {
				t.Errorf("committed %v, number %d after entry %d: ok %v", commit, row.sequence, row.previous, got)
			}
			closed(t, c)
		}
	}
}

func TestOutOfTurn(t *testing.T) {
	c := open(t, t.TempDir())
	defer closed(t, c)
	if err := c.Check(use(1, 1, 0)); err == nil {
		t.Error("record 1 was taken before record 0")
	}
}

func BenchmarkCheck(b *testing.B) {
	c := open(b, b.TempDir())
	defer closed(b, c)
	b.ReportAllocs()
	last := make([]uint64, 1000)
	var i uint64
	for b.Loop() {
		k := i % 1000
		r, ev := use(i, i/1000+1, last[k])
		ev.Key.Ref = fmt.Sprint(k)
		if err := c.Check(r, ev); err != nil {
			b.Fatal(err)
		}
		last[k] = i
		if i++; i%1024 == 0 {
			if err := c.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if n := len(c.Counts().Faults); n > 0 {
		b.Fatalf("%+v", c.Counts())
	}
}
