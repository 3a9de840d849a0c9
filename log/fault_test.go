package log_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// faultLog is a log with a store that fails when a test wants it to.
type faultLog struct {
	*logtest.Log
	dir     *logtest.Dir
	faults  *storagetest.Faults
	history *logtest.History
	// acked is what the log acknowledged: event number to place.
	acked map[int]log.Result
}

func openFaultLog(t *testing.T, d *logtest.Dir, f *storagetest.Faults, h *logtest.History) *faultLog {
	t.Helper()
	l := logtest.Open(t, d, h.Watch(t, f))
	return &faultLog{Log: l, dir: d, faults: f, history: h, acked: make(map[int]log.Result)}
}

// try appends events from to (exclusive), one call each, and notes what is acknowledged.
func (l *faultLog) try(t *testing.T, from, to int) (failed int) {
	t.Helper()
	for i := from; i < to; i++ {
		res, err := l.Append(t.Context(), "tester", []log.Event{logtest.Prepare(t, logtest.Event(i, fmt.Sprint(i%3)))})
		switch {
		case errors.Is(err, log.ErrStopped):
			failed++
		case err != nil || res[0].Err != nil:
			t.Fatalf("event %d: %+v, %v", i, res, err)
		default:
			l.acked[i] = res[0]
		}
	}
	return failed
}

// reopen opens the log as a new process would.
func (l *faultLog) reopen(t *testing.T) *faultLog {
	t.Helper()
	again := openFaultLog(t, l.dir, l.faults.Reopen(), l.history)
	again.acked = l.acked
	return again
}

// check sends every event again and sees that each has one place, and the old one if it
// was acknowledged.
func (l *faultLog) check(t *testing.T, to int) {
	t.Helper()
	places := make(map[uint64]int)
	for i := range to {
		r := l.Append1(t, logtest.Event(i, fmt.Sprint(i%3)))
		if old, ok := l.acked[i]; ok && (old.Index != r.Index || !r.Duplicate || old.KeySequence != r.KeySequence) {
			t.Errorf("event %d was acknowledged as %+v, is now %+v", i, old, r)
		}
		if other, taken := places[r.Index]; taken {
			t.Errorf("events %d and %d are both at %d", other, i, r.Index)
		}
		places[r.Index] = i
		if again := l.Append1(t, logtest.Event(i, fmt.Sprint(i%3))); !again.Duplicate || again.Index != r.Index {
			t.Errorf("event %d: %+v, and once more %+v", i, r, again)
		}
	}
	if n := l.DurableSize(); n != uint64(to) {
		t.Errorf("the log has %d entries, want %d", n, to)
	}
	l.AwaitPublished(t, uint64(to))
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := logtest.Check(t, l.dir, l.Store); r.Published != uint64(to) {
		t.Errorf("published %d of %d", r.Published, to)
	}
	l.history.Check(t, l.Store)
}

// TestFaults lets each step between an event and its checkpoint fail, in both ways: not
// done, and done all the same.
func TestFaults(t *testing.T) {
	const before, total = 7, 12
	store := func(op storagetest.Op, persisted bool) func(*testing.T, *faultLog) {
		return func(_ *testing.T, l *faultLog) { l.faults.FailNext(op, persisted) }
	}
	for _, c := range []struct {
		name   string
		inject func(t *testing.T, l *faultLog)
		// later makes the failure one that was persisted.
		later func(t *testing.T, l *faultLog)
		cause error // nil: any
	}{
		{name: "Commit not persisted", inject: store(storagetest.OpCommit, false), cause: storagetest.ErrInjected},
		{name: "Commit persisted", inject: store(storagetest.OpCommit, true), cause: storagetest.ErrInjected},
		{name: "SwapCell not persisted", inject: store(storagetest.OpSwap, false), cause: storagetest.ErrInjected},
		{name: "SwapCell persisted", inject: store(storagetest.OpSwap, true), cause: storagetest.ErrInjected},
		{name: "reading the head", inject: store(storagetest.OpHead, false), cause: storagetest.ErrInjected},
		{name: "reading a tile", inject: store(storagetest.OpTile, false), cause: storagetest.ErrInjected},
		{name: "ledger not written", inject: closeLedger, cause: fs.ErrClosed},
		{name: "ledger written", inject: closeLedger, later: writeLedger, cause: fs.ErrClosed},
	} {
		for _, restarts := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d restarts", c.name, restarts), func(t *testing.T) {
				d := logtest.NewDir(t)
				l := openFaultLog(t, d, storagetest.NewFaults(memstore.New()), logtest.NewHistory())
				l.try(t, 0, before)
				l.AwaitPublished(t, before)
				c.inject(t, l)
				l.try(t, before, total)
				published := l.Published().Size
				if err := l.Wait(t); err == nil || (c.cause != nil && !errors.Is(err, c.cause)) {
					t.Errorf("Run returned %v, want %v", err, c.cause)
				}
				if failed := l.try(t, total, total+1); failed != 1 {
					t.Error("a stopped log took an event")
				}
				if got := l.Published().Size; got < before || got < published {
					t.Errorf("published went back to %d", got)
				}
				if c.later != nil {
					c.later(t, l)
				}
				for range restarts - 1 {
					l = l.reopen(t)
					if err := l.Stop(); err != nil {
						t.Fatal(err)
					}
				}
				l.reopen(t).check(t, total)
			})
		}
	}
}

func closeLedger(t *testing.T, l *faultLog) { l.CloseLedger(t) }

// writeLedger does what the failed write was to do.
func writeLedger(t *testing.T, l *faultLog) {
	head, err := l.Store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	led, err := ledger.Open(l.dir.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	if err := led.Advance(ledger.State{Size: head.Size, Root: head.Root}); err != nil {
		t.Fatal(err)
	}
}

// TestFaultsWhileOpening lets every step of opening fail: nothing is changed by that.
func TestFaultsWhileOpening(t *testing.T) {
	for _, op := range []storagetest.Op{storagetest.OpHead, storagetest.OpTile, storagetest.OpCell, storagetest.OpPayloads} {
		for n := 1; ; n++ {
			d, inner := logtest.NewDir(t), memstore.New()
			fill(t, d, inner, 0, 300)
			d.DropIndex(t)
			note, led := cell(t, inner), d.ReadLedger(t)
			f := storagetest.NewFaults(inner)
			f.FailAt(op, n, false)
			l, err := logtest.TryOpen(t, d, f)
			if err == nil {
				_ = l.Stop()
				if n == 1 {
					t.Errorf("opening does not use %s", op)
				}
				break
			}
			if !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("%s %d: %v", op, n, err)
			}
			if string(cell(t, inner)) != string(note) || string(d.ReadLedger(t)) != string(led) {
				t.Errorf("%s %d: a failed opening changed something", op, n)
			}
			fill(t, d, inner, 300, 301)
		}
	}
}

// TestFaultOfReadingADuplicate: what only one caller needs fails for that caller alone.
func TestFaultOfReadingADuplicate(t *testing.T) {
	f := storagetest.NewFaults(memstore.New())
	l := openFaultLog(t, logtest.NewDir(t), f, logtest.NewHistory())
	l.try(t, 0, 3)
	// A restart, so that the sequencer does not remember it.
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	l = l.reopen(t)
	l.faults.FailNext(storagetest.OpPayloads, false)
	_, err := l.Append(t.Context(), "tester", []log.Event{logtest.Prepare(t, logtest.Event(1, "1"))})
	if !errors.Is(err, storagetest.ErrInjected) || errors.Is(err, log.ErrStopped) {
		t.Errorf("got %v", err)
	}
	l.check(t, 5)
}

// TestFaultOfAnotherWriter lets somebody else extend the store under a running log.
func TestFaultOfAnotherWriter(t *testing.T) {
	d, inner := logtest.NewDir(t), memstore.New()
	fill(t, d, inner, 0, 10)
	l := logtest.Open(t, d, inner)
	l.AwaitPublished(t, 10)
	old, err := inner.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leaf := make([]byte, 33)
	next := storage.Head{Size: 11, Root: [32]byte{1}, Time: old.Time}
	err = inner.Commit(t.Context(), &storage.Batch{Old: old, Entries: []storage.Entry{{Leaf: leaf, Payload: leaf}}, New: next})
	if err != nil {
		t.Fatal(err)
	}
	// The sequencer meets the conflict or the publisher the wrong tree, whichever is first.
	noticed := func(err error) bool {
		_, refusal := errors.AsType[*log.RefusalError](err)
		return refusal || errors.Is(err, storage.ErrConflict)
	}
	_, err = l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(11, ""))})
	if !errors.Is(err, log.ErrStopped) || !noticed(err) {
		t.Errorf("got %v, want ErrStopped and the cause", err)
	}
	if err := l.Wait(t); !noticed(err) {
		t.Errorf("Run returned %v", err)
	}
	if l.Published().Size != 10 {
		t.Errorf("published %d", l.Published().Size)
	}
}

// TestFaultOfDamagedIndex flips bytes in the middle of a file of the index: the log stops
// rather than take an event twice, and the next start is as if the index had been lost.
func TestFaultOfDamagedIndex(t *testing.T) {
	l := openFaultLog(t, logtest.NewDir(t), storagetest.NewFaults(memstore.New()), logtest.NewHistory())
	const events = 500 // several pages of a run
	l.try(t, 0, events)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	runs, err := filepath.Glob(filepath.Join(l.dir.Index(), "events-*"))
	if err != nil || len(runs) == 0 {
		t.Fatalf("the index has no runs: %v", err)
	}
	for _, path := range runs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := len(b) / 3; i < len(b)/2; i++ {
			b[i] ^= 0x55
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l = l.reopen(t)
	if failed := l.try(t, 0, events); failed == 0 {
		t.Fatal("an event was looked up in a damaged index")
	}
	if err := l.Wait(t); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("Run returned %v, want index.ErrDamaged", err)
	}
	l.reopen(t).check(t, events+5)
}
