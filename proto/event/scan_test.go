package event_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// farClock is the last clock at which no event from after the year 9999 is valid.
var farClock = time.Unix(253402300799, 0).Add(-24 * time.Hour)

// slow is what Scan stands for, by the functions that build messages.
func slow(b []byte) (*keytrailv1.KeyEvent, bool) {
	ev := new(keytrailv1.KeyEvent)
	if len(b) > event.MaxSize || proto.Unmarshal(b, ev) != nil {
		return nil, false
	}
	again, err := event.Append(nil, ev)
	return ev, err == nil && bytes.Equal(again, b) && event.Validate(ev, farClock) == nil
}

// checkScan holds Scan against slow, and says what both say. More than its contract asks,
// Scan takes everything that is right.
func checkScan(t testing.TB, b []byte) bool {
	t.Helper()
	var f event.Fields
	got := event.Scan(b, &f)
	ev, want := slow(b)
	if got != want {
		t.Fatalf("Scan says %v, should say %v: %x\n%v\n%v", got, want, b, ev, event.Validate(ev, farClock))
	}
	if !got {
		return false
	}
	checkFields(t, &f, ev)
	return true
}

func checkFields(t testing.TB, f *event.Fields, ev *keytrailv1.KeyEvent) {
	t.Helper()
	for _, s := range []struct {
		name, want string
		got        []byte
	}{
		{"tenant", ev.GetTenant(), f.Tenant},
		{"system", ev.GetSource().GetSystem(), f.System},
		{"account", ev.GetSource().GetAccount(), f.Account},
		{"region", ev.GetSource().GetRegion(), f.Region},
		{"event id", ev.GetEventId(), f.EventID},
		{"key", ev.GetKey().GetRef(), f.KeyRef},
		{"actor", ev.GetActor().GetId(), f.ActorID},
		{"actor's name", ev.GetActor().GetDisplay(), f.ActorDisplay},
	} {
		if string(s.got) != s.want {
			t.Fatalf("%s is %q, want %q", s.name, s.got, s.want)
		}
	}
	if f.Seconds != ev.GetTime().GetSeconds() || f.Nanos != ev.GetTime().GetNanos() {
		t.Fatalf("time is %d, %d, want %v", f.Seconds, f.Nanos, ev.GetTime())
	}
	if f.Operation != ev.GetOperation() || f.Outcome != ev.GetOutcome() || !slices.Equal(f.Also, ev.GetAlso()) {
		t.Fatalf("%v, %v, %v, want %v, %v, %v", f.Operation, f.Also, f.Outcome, ev.GetOperation(), ev.GetAlso(), ev.GetOutcome())
	}
	if f.ID() != event.ID(ev) {
		t.Fatal("another id")
	}
	key, ok := f.KeyID()
	if ref := ev.GetKey().GetRef(); ok != (ref != "") || ok && key != event.KeyID(ev.GetTenant(), ref) {
		t.Fatal("another key")
	}
	// The clock at which the event is just not from the future.
	edge := time.Unix(latest(ev), 0).Add(-24 * time.Hour)
	for _, now := range []time.Time{edge, edge.Add(-time.Second)} {
		if got, want := f.InTime(now), event.Validate(ev, now) == nil; got != want {
			t.Fatalf("at %v in time: %v, want %v", now, got, want)
		}
	}
}

func latest(ev *keytrailv1.KeyEvent) int64 {
	last := max(ev.GetTime().GetSeconds(), ev.GetTimeReceived().GetSeconds(),
		ev.GetAggregate().GetFirst().GetSeconds(), ev.GetAggregate().GetLast().GetSeconds())
	for _, a := range ev.GetApprovals() {
		last = max(last, a.GetTime().GetSeconds())
	}
	return last
}

// seeds are events and near-events in many shapes.
func seeds(t testing.TB) [][]byte {
	var out [][]byte
	for _, ev := range []*keytrailv1.KeyEvent{minimal(), typical(), complete(), {}} {
		out = append(out, encode(t, ev))
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		encoded, err := hex.DecodeString(v.Encoded)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, encoded)
	}
	return out
}

// FuzzScan: what Scan takes, Parse and Validate take, and they read the same in it.
func FuzzScan(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkScan(t, b)
		if ev := new(keytrailv1.KeyEvent); proto.Unmarshal(b, ev) == nil {
			if again, err := event.Append(nil, ev); err == nil {
				checkScan(t, again)
			}
		}
	})
}

func TestScanSeeds(t *testing.T) {
	taken := 0
	for _, b := range seeds(t) {
		if checkScan(t, b) {
			taken++
		}
	}
	if taken != 3+6 {
		t.Errorf("%d seeds are events", taken)
	}
}

// TestScanMutations changes every byte of an event with every field, and cuts and swaps
// its fields.
func TestScanMutations(t *testing.T) {
	for _, ev := range []*keytrailv1.KeyEvent{complete(), typical(), minimal()} {
		b := encode(t, ev)
		refused := 0
		for i := range b {
			for _, x := range []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff} {
				m := bytes.Clone(b)
				m[i] ^= x
				if !checkScan(t, m) {
					refused++
				}
			}
			checkScan(t, b[:i])
			checkScan(t, slices.Concat(b[:i], b[i+1:]))
			checkScan(t, slices.Concat(b[:i], []byte{0}, b[i:]))
			checkScan(t, slices.Concat(b[:i+1], b[i:]))
		}
		if refused < len(b) {
			t.Errorf("of %d changes to %d bytes only %d are refused", 9*len(b), len(b), refused)
		}
		mutateFields(t, b)
	}
}

// mutateFields leaves each field of the event out, repeats it, and swaps it with the next.
func mutateFields(t *testing.T, b []byte) {
	t.Helper()
	var parts [][]byte
	for rest := b; len(rest) > 0; {
		_, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			t.Fatal("bad field")
		}
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	for i := range parts {
		checkScan(t, bytes.Join(slices.Concat(parts[:i], parts[i+1:]), nil))
		checkScan(t, bytes.Join(slices.Concat(parts[:i+1], parts[i:]), nil))
		if i > 0 {
			checkScan(t, bytes.Join(slices.Concat(parts[:i-1], [][]byte{parts[i], parts[i-1]}, parts[i+1:]), nil))
		}
		checkScan(t, bytes.Join(slices.Concat(parts[:i], [][]byte{{0x98, 0x06, 0x01}}, parts[i:]), nil))
	}
}

// TestScanRandom joins random fields of random events.
func TestScanRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pool := seeds(t)
	for range 20_000 {
		a, b := pool[rnd.IntN(len(pool))], pool[rnd.IntN(len(pool))]
		if len(a) == 0 || len(b) == 0 {
			continue
		}
		m := slices.Concat(a[:rnd.IntN(len(a))], b[rnd.IntN(len(b)):])
		checkScan(t, m)
	}
}

func TestScanTimesOfLists(t *testing.T) {
	ev := minimal()
	ev.Approvals = []*keytrailv1.Approval{
		{Approver: "a", Time: timestamppb.New(now.Add(48 * time.Hour))}, {Approver: "b", Time: timestamppb.New(now)},
	}
	checkScan(t, encode(t, ev))
}

func TestScanAllocatesNothing(t *testing.T) {
	in := encode(t, typical())
	if n := testing.AllocsPerRun(100, func() {
		var f event.Fields
		if !event.Scan(in, &f) || !f.InTime(now) {
			t.Error("not taken")
		}
		f.ID()
		f.KeyID()
	}); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}
