package witness_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness"
)

// TestClockJumps restarts a witness with the clock back by hours: it cosigns nothing, which
// costs nothing of the log's budget, until the clock has caught up; with the clock back by
// seconds it states the time that it stated last. Each bubble begins at the same time.
func TestClockJumps(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := &testWitness{dir: t.TempDir()}
	ctx := context.Background()
	opts := pebblestore.Options{FS: vfs.NewMem()}
	created, err := pebblestore.Create("store", opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(witness.Create(ctx, created, w.counter()), created.Close()); err != nil {
		t.Fatal(err)
	}
	var last uint64
	size := uint64(0)
	next := func(t *testing.T) {
		t.Helper()
		at := verifyLines(t, w.add(t, l.request(t, size, size+1)), l.at(size+1))
		if at < last {
			t.Errorf("size %d is cosigned at %d, the one before at %d", size+1, at, last)
		}
		last = at
		size++
	}
	started := func(then func(t *testing.T)) {
		synctest.Test(t, func(t *testing.T) {
			s, err := pebblestore.Open("store", opts)
			if err != nil {
				t.Fatal(err)
			}
			w.store = s
			w.open(t)
			then(t)
			if err := errors.Join(w.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	started(func(t *testing.T) {
		e := l.enrolment()
		e.PerDay = 24
		if err := w.Enroll(ctx, e); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		next(t)
	})
	before := last
	started(func(t *testing.T) {
		next(t)
		if last != before {
			t.Errorf("with the clock back by seconds it states %d, want %d", last, before)
		}
		time.Sleep(time.Hour)
		next(t)
	})
	started(func(t *testing.T) {
		for range 50 {
			_, err := w.AddCheckpoint(ctx, l.request(t, size, size+1))
			refused, _ := errors.AsType[*witness.RefusalError](err)
			if err == nil || refused != nil || !strings.Contains(err.Error(), "clock") {
				t.Fatalf("with the clock back by an hour: %v", err)
			}
		}
		time.Sleep(time.Hour)
		for range 20 {
			next(t)
		}
	})
}
