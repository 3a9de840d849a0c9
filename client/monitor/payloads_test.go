package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
)

// watchPayloads makes a log of n records of three keys and a monitor that reads them.
func watchPayloads(t testing.TB, n int) *watched {
	t.Helper()
	w := watch(t, tilestest.New(t))
	w.cfg.Payloads = w
	w.putGood(n)
	return w
}

// putGood appends good records until there are n, the i-th of key i mod 3, and publishes.
func (w *watched) putGood(n int) {
	w.t.Helper()
	for i := len(w.payloads); i < n; i++ {
		previous := 0
		if i >= 3 {
			previous = i - 3
		}
		w.put(entry(w.t, i, fmt.Sprint("key-", i%3), i/3+1, previous))
	}
	w.log.Publish()
}

func TestPayloads(t *testing.T) {
	w := watchPayloads(t, 10)
	checked := 0
	for _, n := range []int{10, 11, 1100, 2500} { // over several blocks
		w.putGood(n)
		w.starts = nil
		r := w.fine(n)
		if len(w.starts) == 0 || w.starts[0] != uint64(checked) {
			t.Errorf("after %d checked payloads they were read from %v", checked, w.starts)
		}
		checked = n
		if r.Payloads != uint64(n) || r.Counts.Records != uint64(n) {
			t.Errorf("%d entries: %+v", n, r)
		}
	}
}

func TestPayloadIsNotWhatWasCommitted(t *testing.T) {
	w := watchPayloads(t, 10)
	good := w.payloads[7]
	w.payloads[7] = append([]byte(nil), good...)
	w.payloads[7][60] ^= 1
	r := w.round()
	wantAlarm(t, r, monitor.KindCommitment, monitor.SeverityCritical, "entry 7")
	if r.Payloads != 7 {
		t.Errorf("checked %d payloads", r.Payloads)
	}
	w.alarm(monitor.KindCommitment, monitor.SeverityCritical, "entry 7")
	w.payloads[7] = good
	if r := w.fine(10); r.Payloads != 10 {
		t.Errorf("%+v", r)
	}
}

// TestChains puts one wrong record after ten good ones. The log committed to it, so the
// alarm stays over restarts and good records after it.
func TestChains(t *testing.T) {
	for name, c := range map[string]struct {
		wrong *record.Record
		words string
	}{
		"gap":              {entry(t, 10, "key-1", 5, 7), "entry 10 is number 5 of the key \"key-1\", after entry 7; the last one of this key was number 3, entry 7"},
		"fork":             {entry(t, 10, "key-1", 3, 4), "is number 3"},
		"begins again":     {entry(t, 10, "key-1", 1, 0), "is number 1"},
		"begins late":      {entry(t, 10, "new", 2, 3), "it is the first of this key"},
		"another previous": {entry(t, 10, "key-1", 4, 8), "after entry 8"},
		"no number":        {entry(t, 10, "key-1", 0, 0), "has no number"},
	} {
		t.Run(name, func(t *testing.T) {
			w := watchPayloads(t, 10)
			w.fine(10)
			w.put(c.wrong)
			w.log.Publish()
			a := w.alarm(monitor.KindChain, monitor.SeverityCritical, c.words)
			if a.Subject != "chain" {
				t.Errorf("%+v", a)
			}
			// A good record of another key follows.
			w.put(entry(t, 11, "key-2", 4, 8))
			w.log.Publish()
			r := w.round()
			wantAlarm(t, r, monitor.KindChain, monitor.SeverityCritical, "those before them: 1;")
			if r.Payloads != 12 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestClockOfTheLogGoesBack(t *testing.T) {
	w := watchPayloads(t, 10)
	bad := entry(t, 10, "key-1", 4, 7)
	bad.LoggedAt = bad.LoggedAt.Add(-2 * time.Second)
	w.put(bad)
	w.log.Publish()
	if a := w.alarm(monitor.KindChain, monitor.SeverityCritical, "entry 10 was taken at"); a.Subject != "order" {
		t.Errorf("%+v", a)
	}
}

// TestErased holds that a gap is no alarm where the missing record may be an erased one,
// and is one where it cannot be.
func TestErased(t *testing.T) {
	w := watchPayloads(t, 10)
	w.payloads[4] = nil // number 2 of key-1
	r := w.fine(10)
	if r.Counts.Erased != 1 || r.Counts.Records != 9 || r.Payloads != 10 {
		t.Errorf("%+v", r.Counts)
	}
	w.payloads[7] = nil // checked already
	w.put(entry(t, 10, "key-2", 5, 4))
	w.log.Publish()
	w.alarm(monitor.KindChain, monitor.SeverityCritical, "entry 10 is number 5")
}

// TestLogCommitsToAnotherIndex is evidence by itself: the receipt of the entry.
func TestLogCommitsToAnotherIndex(t *testing.T) {
	w := watchPayloads(t, 10)
	w.put(entry(t, 12, "key-1", 4, 7))
	w.log.Publish()
	a := w.alarm(monitor.KindCommitment, monitor.SeverityCritical, "committed as entry 10 to a record that says it is entry 12")
	if c := w.proves(a); !c.Log || c.Kind != verify.KindRecordIndex {
		t.Errorf("%+v", c)
	}
}

func TestLogCommitsToRubbish(t *testing.T) {
	w := watchPayloads(t, 10)
	w.putPayload([]byte("no record"))
	w.log.Publish()
	a := w.alarm(monitor.KindCommitment, monitor.SeverityCritical, "a record that cannot be read")
	if c := w.proves(a); !c.Log || c.Kind != verify.KindRecord {
		t.Errorf("%+v", c)
	}
}

// failing is a server of payloads that does not answer.
type failing struct{ err error }

func (f failing) ReadPayloads(context.Context, *rpc.ReadPayloadsRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	return nil, f.err
}

func TestPayloadsUnreachable(t *testing.T) {
	w := watchPayloads(t, 10)
	w.cfg.Payloads = failing{errors.New("permission denied")}
	if a := w.alarm(monitor.KindUnreachable, monitor.SeverityWarning, "permission denied"); a.Subject != "payloads" {
		t.Errorf("%+v", a)
	}
}

// elsewhere sends the payloads of other entries than those asked for.
type elsewhere struct{ *watched }

func (e elsewhere) ReadPayloads(ctx context.Context, req *rpc.ReadPayloadsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	return e.watched.ReadPayloads(ctx, &rpc.ReadPayloadsRequest{Start: req.GetStart() + 1, End: req.GetEnd()})
}

func TestPayloadsOfOtherEntries(t *testing.T) {
	w := watchPayloads(t, 10)
	w.cfg.Payloads = elsewhere{w}
	if a := w.alarm(monitor.KindUnreadable, monitor.SeverityWarning, ""); a.Subject != "payloads" {
		t.Errorf("%+v", a)
	}
}

func TestFindingsAreCounted(t *testing.T) {
	w := watchPayloads(t, 0)
	first := entry(t, 0, "key", 2, 0) // a use, by a key that was not born
	first.KeySequence = 1
	w.put(first)
	w.log.Publish()
	r := w.fine(1)
	if r.Counts.Findings["no_birth"] != 1 {
		t.Errorf("%+v", r.Counts)
	}
}
