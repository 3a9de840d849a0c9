package payload_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	"github.com/keytrail/keytrail/proto/event"
)

func sets(t *testing.T) []*payload.Set {
	t.Helper()
	var all []*payload.Set
	add := func(s *payload.Set, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	const fallback = "../../../../testdata/audit"
	add(payload.Random(500))
	add(payload.CloudTrail("none", fallback, false))
	add(payload.CloudTrail("none", fallback, true))
	add(payload.OpenBao("none", fallback))
	return all
}

// TestEvents holds that every event is one that a log takes, with an id of its own, and that
// a database's row is as large.
func TestEvents(t *testing.T) {
	for _, s := range sets(t) {
		t.Run(s.Name, func(t *testing.T) {
			ids := make(map[string]bool)
			for worker := range 2 {
				m := s.New(worker, 100)
				m.Hot(7)
				for range 1000 {
					b := m.Append(nil)
					ev, err := event.Parse(b)
					if err != nil {
						t.Fatal(err)
					}
					if err := event.Validate(ev, time.Now()); err != nil {
						t.Fatal(err)
					}
					id := ev.GetSource().String() + ev.GetEventId()
					if ids[id] {
						t.Fatalf("event id %s comes twice", ev.GetEventId())
					}
					ids[id] = true
					row, tenant, _ := m.Row(nil)
					if !json.Valid(row) || tenant == "" {
						t.Fatalf("not a row: tenant %q, %s", tenant, row)
					}
				}
			}
			t.Logf("%d records, %.0f bytes of source, %.0f bytes an event", s.Len(), s.SourceBytes, s.EventBytes())
		})
	}
}

func TestRandomSize(t *testing.T) {
	s, err := payload.Random(500)
	if err != nil {
		t.Fatal(err)
	}
	m := s.New(1, 1000)
	row, _, _ := m.Row(nil)
	if got := len(m.Append(nil)); got != 500 || len(row) < 500 || len(row) > 560 {
		t.Errorf("an event has %d bytes, a row %d, want 500 and little more", got, len(row))
	}
}

func BenchmarkAppend(b *testing.B) {
	s, err := payload.Random(500)
	if err != nil {
		b.Fatal(err)
	}
	m := s.New(1, 10000)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = m.Append(buf[:0])
	}
}
