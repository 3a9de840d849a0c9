package log_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
	"github.com/keytrail/keytrail/witness/feed"
)

// overlapping is a log whose checkpoint of two entries is being stored and whose checkpoint of
// three has been cosigned meanwhile.
type overlapping struct {
	*faultLog
	witnesses []*logtest.Witness
	// release lets the store go on.
	release func()
}

// overlap brings a log there. prepare is called before the store that is held begins, and
// then when it is held.
func overlap(t *testing.T, prepare, then func(l *faultLog)) *overlapping {
	t.Helper()
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 2, 3)
	f := storagetest.NewFaults(memstore.New())
	l := openFaultLog(t, d, f, logtest.NewHistory())
	l.try(t, 0, 1)
	l.AwaitPublished(t, 1)
	waitFor(t, "all cosignatures of the first", func() bool { return lines(t, l.Published().Note) == 8 })
	held, entered := make(chan struct{}), make(chan struct{}, 100)
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	f.Before(storagetest.OpSwap, func(context.Context) {
		entered <- struct{}{}
		<-held
	})
	prepare(l)
	l.try(t, 1, 2)
	<-entered
	// A cosignature that comes late must not make the log wait for the store.
	waitFor(t, "every witness for the first", func() bool {
		return !slices.ContainsFunc(l.Witnesses(), func(s feed.Status) bool { return s.Size < 2 })
	})
	time.Sleep(5 * time.Millisecond) // in which the log hears of it
	then(l)
	l.try(t, 2, 3)
	o := &overlapping{faultLog: l, witnesses: ws, release: release}
	return o
}

func nothing(*faultLog) {}

// cosignedBy counts the witnesses that have cosigned at least so many entries.
func (o *overlapping) cosignedBy(size uint64) (n int) {
	for _, w := range o.witnesses {
		if w.Logs()[0].Size >= size {
			n++
		}
	}
	return n
}

// lines counts the signatures of a checkpoint.
func lines(t *testing.T, note []byte) int {
	t.Helper()
	_, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	return len(sigs)
}

// TestRoundsOverlap holds the store of a checkpoint: the next one is signed and cosigned
// meanwhile, and no further one; neither is shown before the first is stored, and then they
// are in order.
func TestRoundsOverlap(t *testing.T) {
	o := overlap(t, nothing, nothing)
	waitFor(t, "the quorum for the next", func() bool { return o.cosignedBy(3) >= 2 })
	led := o.dir.ReadLedger(t)
	o.try(t, 3, 8)
	time.Sleep(50 * time.Millisecond) // in which a log that does not wait signs
	if got := o.Published().Size; got != 1 {
		t.Errorf("published %d, nothing larger than 1 is stored", got)
	}
	if o.cosignedBy(4) > 0 || !bytes.Equal(o.dir.ReadLedger(t), led) {
		t.Error("a third checkpoint was begun")
	}
	o.release()
	o.check(t, 8)
}

// TestOverlapFaults lets one of two rounds that overlap fail: the log stops, publishes nothing
// out of order, and opens again with what the witnesses have cosigned.
func TestOverlapFaults(t *testing.T) {
	for name, c := range map[string]struct {
		prepare, then func(*faultLog)
		cause         error
		// quorum says that the second round is cosigned before the first is stored.
		quorum bool
		stored uint64
	}{
		"the first is not stored": {
			func(l *faultLog) { l.faults.FailNext(storagetest.OpSwap, false) }, nothing, storagetest.ErrInjected, true, 1,
		},
		"the first is stored, and nobody hears of it": {
			func(l *faultLog) { l.faults.FailNext(storagetest.OpSwap, true) }, nothing, storagetest.ErrInjected, true, 2,
		},
		"the second is not stored": {
			func(l *faultLog) { l.faults.FailAt(storagetest.OpSwap, 2, false) }, nothing, storagetest.ErrInjected, true, 2,
		},
		"the second is stored, and nobody hears of it": {
			func(l *faultLog) { l.faults.FailAt(storagetest.OpSwap, 2, true) }, nothing, storagetest.ErrInjected, true, 3,
		},
		"the second does not reach the ledger": {
			nothing, func(l *faultLog) { l.CloseLedger(t) }, fs.ErrClosed, false, 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := overlap(t, c.prepare, c.then)
			if c.quorum {
				waitFor(t, "the quorum for the next", func() bool { return o.cosignedBy(3) >= 2 })
			}
			o.release()
			if err := o.Wait(t); !errors.Is(err, c.cause) {
				t.Errorf("Run returned %v, want %v", err, c.cause)
			}
			cp, _, err := checkpoint.ParseNote(cell(t, o.faults.Reopen()))
			if err != nil || cp.Size != c.stored || o.Published().Size > cp.Size {
				t.Errorf("stored %d, %v, shown %d; want %d to be stored", cp.Size, err, o.Published().Size, c.stored)
			}
			o.reopen(t).check(t, 6)
		})
	}
}

// TestLateCosignaturesAreAdded has a log with nothing else to do publish its checkpoint again
// with the cosignatures that the quorum did not wait for.
func TestLateCosignaturesAreAdded(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 2, 3)
	ws[2].Hang()
	s := memstore.New()
	h := logtest.NewHistory()
	l := logtest.Open(t, d, h.Watch(t, s))
	l.Append1(t, logtest.Event(0, "k"))
	first := l.AwaitPublished(t, 1)
	if n := lines(t, first.Note); n > 6 {
		t.Errorf("%d lines in spite of a witness that hangs", n)
	}
	ws[2].Up()
	waitFor(t, "all cosignatures", func() bool { return lines(t, l.Published().Note) == 8 })
	pub := l.Published()
	if pub.Checkpoint != first.Checkpoint || !pub.At.Equal(first.At) {
		t.Errorf("published %+v, first %+v", pub, first)
	}
	if got := cosigned(t, pub.Note, policyOf(d)); len(got.Cosignatures) != 6 {
		t.Errorf("%d good cosignatures", len(got.Cosignatures))
	}
	if !bytes.Equal(cell(t, s), pub.Note) {
		t.Error("what is shown is not what is stored")
	}
	l.Append1(t, logtest.Event(1, "k"))
	l.AwaitPublished(t, 2)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
	h.Check(t, s)
}

// TestStoreFailsWhilePaced has a store fail while the interval to the next checkpoint is an
// hour: the log stops at once.
func TestStoreFailsWhilePaced(t *testing.T) {
	d := logtest.NewDir(t)
	d.Change = func(c *log.Config) { c.MinInterval = time.Hour }
	f := storagetest.NewFaults(memstore.New())
	f.FailNext(storagetest.OpSwap, false)
	l := logtest.Open(t, d, f)
	if err := l.Wait(t); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Run returned %v", err)
	}
}
