package log_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/memstore"
)

// TestSameEventSamePlaceBeyondMemory fills the pool with more events than the sequencer
// remembers, before any of them is written: what was looked up in the index on the way in
// is long out of date when its turn comes.
func TestSameEventSamePlaceBeyondMemory(t *testing.T) {
	const calls, perCall, fresh = 65, log.MaxEvents, 51_000 // fresh is three generations and more
	h := &holdStore{Store: memstore.New(), hold: make(chan struct{}), waiting: make(chan struct{}, 1000)}
	d := logtest.NewDir(t)
	d.Change = func(c *log.Config) { c.MaxPending = 1 << 17 } // one tenant gets three quarters
	l := logtest.Open(t, d, h)
	rng := rand.New(rand.NewPCG(7, 8))
	key := func(n int) string { // some with many events, some with two or three
		if n%2 == 0 {
			return fmt.Sprint("many ", n%701)
		}
		return fmt.Sprint("few ", n%20_011)
	}

	var submitted []*log.Call
	var sentNumbers [][]int
	for call := range calls {
		events, numbersOf := make([]log.Event, perCall), make([]int, perCall)
		for i := range events {
			if numbersOf[i] = call*perCall + i; numbersOf[i] >= fresh {
				numbersOf[i] = rng.IntN(fresh + 2000)
			}
			events[i] = logtest.Prepare(t, logtest.Event(numbersOf[i], key(numbersOf[i])))
		}
		c, err := l.Submit(t.Context(), "tester", events)
		if err != nil {
			t.Fatal(err)
		}
		submitted, sentNumbers = append(submitted, c), append(sentNumbers, numbersOf)
	}
	go func() {
		for range h.waiting {
			time.Sleep(10 * time.Millisecond) // lets the index keep up
			select {
			case h.hold <- struct{}{}:
			case <-l.Failed():
				return
			}
		}
	}()
	places, last := make(map[int]uint64), make(map[string]log.Result)
	next := uint64(0)
	for n, c := range submitted {
		results, err := c.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			number := sentNumbers[n][i]
			at, known := places[number]
			if !known {
				at, next = next, next+1
				places[number] = at
			}
			if r.Err != nil || r.Index != at || r.Duplicate != known {
				t.Fatalf("event %d in call %d: %+v, want index %d, duplicate %v", number, n, r, at, known)
			}
			if before := last[key(number)]; !known {
				if r.KeySequence != before.KeySequence+1 || r.PreviousIndex != before.Index {
					t.Fatalf("event %d in call %d: %+v, the one before of its key is %+v", number, n, r, before)
				}
				last[key(number)] = r
			}
		}
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	close(h.waiting)
	if r := logtest.Check(t, d, h); r.Entries != next || r.Published != next {
		t.Errorf("report %+v, want %d entries", r, next)
	}
}

// TestIndexOfAnotherLog puts the index of one log under another: it does not fit and is
// built anew, whether it reaches less far than the log, as far, or farther.
func TestIndexOfAnotherLog(t *testing.T) {
	for _, n := range []int{1, 20, 30, 31, 40} {
		foreign := logtest.NewDir(t)
		fill(t, foreign, memstore.New(), 0, n)
		d, s := logtest.NewDir(t), memstore.New()
		fill(t, d, s, 100, 130)
		d.DropIndex(t)
		if err := os.Rename(foreign.Index(), d.Index()); err != nil {
			t.Fatal(err)
		}
		l := logtest.Open(t, d, s)
		if r := l.Append1(t, logtest.Event(110, "2")); !r.Duplicate || r.Index != 10 {
			t.Errorf("%d foreign rows: an event of this log: %+v", n, r)
		}
		if r := l.Append1(t, logtest.Event(0, "0")); r.Duplicate || r.Index != 30 || r.KeySequence != 11 {
			t.Errorf("%d foreign rows: an event of the other log: %+v", n, r)
		}
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
		logtest.Check(t, d, s)
	}
}

// stuckFS does not begin to write rows of the index until it is told to.
type stuckFS struct {
	vfs.FS
	free chan struct{}
}

func (s stuckFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.Contains(name, "events-") {
		<-s.free
	}
	return s.FS.Create(name, c)
}

// TestAcknowledgedBeforeTheIndexHasIt lets the index stand still: what it can hold, what
// waits for it, and the batch for which there is no room are acknowledged all the same.
func TestAcknowledgedBeforeTheIndexHasIt(t *testing.T) {
	const round, queue = 10, 4
	fsys := stuckFS{vfs.NewMem(), make(chan struct{})}
	s, d := memstore.New(), logtest.NewDir(t)
	d.IndexFS, d.IndexRound = fsys, round
	l := logtest.Open(t, d, s)
	free := sync.OnceFunc(func() { close(fsys.free) })
	t.Cleanup(free)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// One round is being written and one is full; a batch is being applied, one handed over.
	const batches = 2*round + 1 + queue + 1
	for n := range batches {
		if _, err := l.Append(ctx, "", []log.Event{logtest.Prepare(t, logtest.Event(n, "key"))}); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	free()
	if r := l.Append1(t, logtest.Event(batches, "key")); r.KeySequence != batches+1 {
		t.Errorf("%+v", r)
	}
	if r := l.Append1(t, logtest.Event(3, "key")); !r.Duplicate || r.Index != 3 {
		t.Errorf("an event sent again: %+v", r)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
}
