package index_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/keytrail/keytrail/log/index"
)

// sifted is an index of small rounds, whose filter says perhaps of nearly everything, so that
// sieves and runs have to answer.
var sifted = index.Options{RoundRecords: 4}.WithFilterOf(64)

// siftedSize is how many records give it more runs of the last level than a sieve holds.
const siftedSize = 20 * 4 * 64

// applyInStep applies as applyTo does, and has merges keep up, so that runs are no larger
// than they need to be.
func applyInStep(t *testing.T, x *index.Index, size uint64) {
	t.Helper()
	for at := x.Cursor().Size; at < size; at += 32 {
		applyTo(t, x, min(at+32, size), 3)
		x.WaitMerged(t)
	}
}

func waitSieves(t *testing.T, x *index.Index) (sieves int) {
	t.Helper()
	x.WaitMerged(t)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		sieves, runs, of := x.Sieves()
		if runs == of {
			return sieves
		}
	}
	t.Fatal("sieves are never made")
	return 0
}

// TestSieves looks up events while sieves are made and replaced, and after a restart, which
// makes them anew.
func TestSieves(t *testing.T) {
	const dir = "index"
	opts := sifted
	opts.FS = vfs.NewMem()
	x := open(t, dir, opts)
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for n := uint64(0); ; n += 7 {
				select {
				case <-stop:
					return
				default:
				}
				if seen := x.Applied(); seen > 0 {
					id := eventID(n % seen)
					if at, ok, err := x.Event(&id, entries{}); !ok || at != n%seen || err != nil {
						t.Errorf("event %d, of %d applied: %d, %v, %v", n%seen, seen, at, ok, err)
						return
					}
				}
			}
		})
	}
	applyInStep(t, x, siftedSize)
	if n := waitSieves(t, x); n < 2 {
		t.Errorf("%d sieves: too few records to test what is meant", n)
	}
	close(stop)
	readers.Wait()
	checkAll(t, x, siftedSize)
	closeIndex(t, x)
	left := largest(t, opts.FS, dir, "sieve-")
	x = open(t, dir, opts)
	waitSieves(t, x)
	checkAll(t, x, siftedSize)
	if _, err := opts.FS.Stat(left); err == nil {
		t.Errorf("%s was left by the last process", left)
	}
	if err := x.Reset(); err != nil {
		t.Fatal(err)
	}
	checkAll(t, x, 0)
	if names, err := opts.FS.List(dir); err != nil || strings.Contains(strings.Join(names, " "), "sieve-") {
		t.Errorf("after a reset there are %v, %v", names, err)
	}
	applyTo(t, x, 1000, 5)
	waitSieves(t, x)
	checkAll(t, x, 1000)
	closeIndex(t, x)
}

// TestFlippedSieve flips a bit of a sieve that is in use: that is noticed once, and every
// answer is right, because the runs still speak for themselves.
func TestFlippedSieve(t *testing.T) {
	for _, fromEnd := range []int64{1, 64, 1000} {
		var messages bytes.Buffer
		opts := sifted
		opts.FS, opts.Logger = vfs.NewMem(), slog.New(slog.NewTextHandler(&messages, nil))
		x := open(t, "index", opts)
		applyInStep(t, x, siftedSize)
		waitSieves(t, x)
		checkAll(t, x, siftedSize)
		if messages.Len() > 0 {
			t.Errorf("before: %s", messages.String())
		}
		flip(t, opts.FS, largest(t, opts.FS, "index", "sieve-"), fromEnd)
		checkAll(t, x, siftedSize)
		checkAll(t, x, siftedSize)
		if got := messages.String(); strings.Count(got, "without a sieve") != 1 || !strings.Contains(got, "checksum") {
			t.Errorf("afterwards: %s", got)
		}
		closeIndex(t, x)
	}
}

// TestNoSieve lets no sieve be written: the index answers without.
func TestNoSieve(t *testing.T) {
	opts := sifted
	opts.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, "sieve-") {
			return errorfs.ErrInjected
		}
		return nil
	}))
	x := open(t, "index", opts)
	applyInStep(t, x, siftedSize)
	checkAll(t, x, siftedSize)
	closeIndex(t, x)
	if names, err := opts.FS.List("index"); err != nil || strings.Contains(strings.Join(names, " "), "sieve-") {
		t.Errorf("there are %v, %v", names, err)
	}
}
