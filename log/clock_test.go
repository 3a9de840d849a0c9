package log_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// TestClockJumps sets the clock back by hours, forward by decades and back again, with a
// restart each time: the times of the entries never go back, everything is published, and
// what an event may say of the future follows the clock. Bubbles of synctest are the clock
// that is wrong: each begins in the year 2000.
func TestClockJumps(t *testing.T) {
	d := logtest.NewDir(t)
	opts := pebblestore.Options{FS: vfs.NewMem()}
	created, err := pebblestore.Create("store", opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := created.Close(); err != nil {
		t.Fatal(err)
	}
	event := func(t *testing.T, n int) log.Event {
		ev := logtest.Event(n, "k")
		ev.Time = timestamppb.New(time.Date(1999, 1, 1, 0, 0, n, 0, time.UTC))
		return logtest.Prepare(t, ev)
	}
	var last time.Time
	n := 0
	work := func(t *testing.T, l *logtest.Log, events int) time.Time {
		t.Helper()
		for range events {
			res, err := l.Append(t.Context(), "", []log.Event{event(t, n)})
			if err != nil || res[0].Err != nil {
				t.Fatal(err, res)
			}
			if at := res[0].LoggedAt; at.Before(last) {
				t.Errorf("entry %d was logged at %v, the one before at %v", n, at, last)
			}
			last = res[0].LoggedAt
			n++
		}
		l.AwaitPublished(t, uint64(n))
		return last
	}
	run := func(t *testing.T, then func(l *logtest.Log)) {
		t.Helper()
		s, err := pebblestore.Open("store", opts)
		if err != nil {
			t.Fatal(err)
		}
		l := logtest.Open(t, d, s)
		work(t, l, 10)
		then(l)
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
		logtest.Check(t, d, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	// stays holds that entries have the time of those before the clock went back.
	stays := func(t *testing.T, late time.Time) {
		t.Helper()
		if !last.Equal(late) {
			t.Errorf("with the clock back entries are logged at %v, want %v", last, late)
		}
	}
	const hours = 3 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		if _, err := log.Prepare(logtest.Event(0, ""), time.Now()); err == nil {
			t.Error("an event from 26 years ahead is taken")
		}
		run(t, func(l *logtest.Log) {
			time.Sleep(hours)
			work(t, l, 10)
		})
	})
	late := last
	synctest.Test(t, func(t *testing.T) {
		run(t, func(l *logtest.Log) {
			stays(t, late)
			time.Sleep(hours + time.Hour)
			if at := work(t, l, 10); !at.After(late) {
				t.Errorf("when the clock has caught up entries are logged at %v, as before", at)
			}
		})
	})
	begin := time.Now().UTC().Round(0)
	run(t, func(*logtest.Log) {
		if last.Before(begin) {
			t.Errorf("with the clock right again entries are logged at %v", last)
		}
		if _, err := log.Prepare(logtest.Event(0, ""), time.Now()); err != nil {
			t.Errorf("when its time has come an event is refused: %v", err)
		}
	})
	late = last
	synctest.Test(t, func(t *testing.T) { run(t, func(*logtest.Log) { stays(t, late) }) })
}
