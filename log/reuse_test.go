package log_test

import (
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/storage/memstore"
)

// TestEventsAreTheCallersAgain: once a call is done the log does not look at the bytes of its
// events, though the next batch may have the same events again and is compared with it.
func TestEventsAreTheCallersAgain(t *testing.T) {
	d, store := logtest.NewDir(t), memstore.New()
	l := logtest.Open(t, d, store)
	encode := func(n int) []byte {
		b, err := event.Append(nil, logtest.Event(n, "k"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const n = 500
	for i := range n {
		b := encode(i)
		for again := range 2 {
			ev, ok := log.PrepareEncoded(b, time.Now())
			if !ok {
				t.Fatal("the event is not valid")
			}
			results, err := l.Append(t.Context(), "p", []log.Event{ev})
			if err != nil {
				t.Fatal(err)
			}
			if r := results[0]; r.Err != nil || r.Index != uint64(i) || r.Duplicate != (again == 1) {
				t.Fatalf("event %d, again %d: %+v", i, again, r)
			}
			clear(b)
			b = encode(i)
		}
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := logtest.Check(t, d, store); r.Entries != n {
		t.Errorf("%d entries", r.Entries)
	}
}
