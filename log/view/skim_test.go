package view

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

// fullEvent has something in most fields.
func fullEvent() *keytrailv1.KeyEvent {
	ev := &keytrailv1.KeyEvent{
		SchemaVersion:   1,
		EventId:         "0123456789abcdef0123456789abcdef",
		Source:          &keytrailv1.Source{System: "aws.kms", Account: "111122223333", Region: "eu-central-1", Adapter: "cloudtrail"},
		Tenant:          "tenant-77",
		Time:            &timestamppb.Timestamp{Seconds: 1_790_000_000, Nanos: 123_456_789},
		Operation:       keytrailv1.Operation_OPERATION_USE_DECRYPT,
		SourceOperation: "Decrypt",
		Also:            []keytrailv1.Operation{keytrailv1.Operation_OPERATION_META_READ, keytrailv1.Operation_OPERATION_KEY_GENERATE},
		Outcome:         keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key:             &keytrailv1.Key{Ref: "arn:aws:kms:eu-central-1:111122223333:key/00001234", Version: "1", Algorithm: "SYMMETRIC_DEFAULT"},
		Actor:           &keytrailv1.Actor{Id: "arn:aws:iam::111122223333:role/app-17", Type: keytrailv1.Actor_TYPE_USER, Display: "App 17", AuthMethod: "AssumedRole"},
		RequestId:       "01234567-89ab-cdef-0123-456789abcdef",
		UserAgent:       "aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOOS#linux md/GOARCH#amd64 api/kms#1.35.3",
	}
	for _, name := range []string{"arn", "bucket", "purpose"} {
		ev.Context = append(ev.Context, &keytrailv1.Context{Name: name, Content: &keytrailv1.Context_Value{Value: "arn:aws:s3:::objects-123"}})
	}
	return ev
}

// taken is what a row is made of.
type taken struct {
	tenant, keyRef, actorID, actorDisplay string
	seconds                               int64
	nanos                                 int32
	operation                             keytrailv1.Operation
	also                                  []keytrailv1.Operation
	outcome                               keytrailv1.Outcome
}

func takenOf(f *event.Fields) taken {
	return taken{
		string(f.Tenant), string(f.KeyRef), string(f.ActorID), string(f.ActorDisplay),
		f.Seconds, f.Nanos, f.Operation, append([]keytrailv1.Operation{}, f.Also...), f.Outcome,
	}
}

func takenOfEvent(ev *keytrailv1.KeyEvent) taken {
	return taken{
		ev.GetTenant(), ev.GetKey().GetRef(), ev.GetActor().GetId(), ev.GetActor().GetDisplay(),
		ev.GetTime().GetSeconds(), ev.GetTime().GetNanos(), ev.GetOperation(), append([]keytrailv1.Operation{}, ev.GetAlso()...), ev.GetOutcome(),
	}
}

func diffTaken(want, got taken) string { return cmp.Diff(want, got, cmp.AllowUnexported(taken{})) }

// checkSkim holds skim against protobuf, for an encoding that Append writes.
func checkSkim(t interface {
	Helper()
	Errorf(string, ...any)
}, b []byte, ev *keytrailv1.KeyEvent) {
	t.Helper()
	f := event.Fields{Also: []keytrailv1.Operation{9, 9, 9}, Tenant: []byte("of the event before")}
	if !skim(b, &f) {
		t.Errorf("%x is not read", b)
		return
	}
	if diff := diffTaken(takenOfEvent(ev), takenOf(&f)); diff != "" {
		t.Errorf("%x: %s", b, diff)
	}
}

// TestSkim reads events of which any fields are missing, whole or in part, and some numbers
// are such as no event that is recorded has.
func TestSkim(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ev := fullEvent()
		drop := func(name string, clear func()) {
			if rapid.IntRange(0, 3).Draw(rt, name) == 0 {
				clear()
			}
		}
		drop("source", func() { ev.Source = nil })
		drop("tenant", func() { ev.Tenant = "" })
		drop("nanos", func() { ev.Time.Nanos = 0 })
		drop("time", func() { ev.Time = nil })
		drop("also", func() { ev.Also = nil })
		drop("ref", func() { ev.Key.Ref = "" })
		drop("key", func() { ev.Key = nil })
		drop("actor id", func() { ev.Actor.Id = "" })
		drop("display", func() { ev.Actor.Display = "" })
		drop("actor", func() { ev.Actor = nil })
		drop("context", func() { ev.Context = nil })
		drop("outcome", func() { ev.Outcome = 0 })
		ev.Operation = keytrailv1.Operation(rapid.SampledFrom([]int32{0, 1, 127, 128, 1 << 30}).Draw(rt, "operation"))
		if ev.Time != nil {
			ev.Time.Seconds = rapid.Int64().Draw(rt, "seconds")
		}
		if ev.Tenant != "" {
			ev.Tenant = string(bytes.Repeat([]byte("x"), rapid.SampledFrom([]int{1, 127, 128, 300}).Draw(rt, "length")))
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
		if err != nil {
			rt.Fatal(err)
		}
		checkSkim(rt, b, ev)
	})
}

// TestSkimLeavesToProtobuf: encodings that no log records, and that protobuf reads otherwise
// than one field after the other, still make rows.
func TestSkimLeavesToProtobuf(t *testing.T) {
	whole, err := event.Append(nil, fullEvent())
	if err != nil {
		t.Fatal(err)
	}
	text := func(num protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), s)
	}
	number := func(num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
	}
	key := func(parts ...[]byte) []byte { return text(13, string(slices.Concat(parts...))) }
	for name, b := range map[string][]byte{
		"tenant twice":        slices.Concat(text(4, "acme"), text(4, "globex")),
		"out of order":        slices.Concat(number(7, 3), text(4, "acme")),
		"key twice":           slices.Concat(key(text(1, "k0")), key(text(2, "v1"))),
		"reference twice":     key(text(1, "k0"), text(1, "k1")),
		"also unpacked":       slices.Concat(number(9, 2), number(9, 3)),
		"tenant as a number":  slices.Concat(number(4, 1), text(13, "")),
		"operation as text":   text(7, "x"),
		"negative operation":  number(7, 1<<64-1),
		"unknown field":       text(200, "x"),
		"fixed-size field":    slices.Concat(protowire.AppendFixed32(protowire.AppendTag(nil, 3000, protowire.Fixed32Type), 7), text(4, "acme")),
		"in order afterwards": slices.Concat(text(6, ""), text(4, "acme"), key(text(1, "k0"))),
		"nothing of a value":  slices.Concat(text(13, string(text(1, ""))), nil),
	} {
		ev := new(keytrailv1.KeyEvent)
		if err := proto.Unmarshal(b, ev); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var d decoder
		if err := d.readFields(payloadOf(whole)); err != nil {
			t.Fatal(err) // so that it has something to forget
		}
		if err := d.readFields(payloadOf(b)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := diffTaken(takenOfEvent(ev), takenOf(&d.fields)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// Cut anywhere up to what is taken last it is no event for either.
	var d decoder
	for n := 1; n < bytes.Index(whole, []byte("AssumedRole")); n++ {
		ev := new(keytrailv1.KeyEvent)
		if fails := proto.Unmarshal(whole[:n], ev) != nil; fails != (d.readFields(payloadOf(whole[:n])) != nil) {
			t.Errorf("cut to %d bytes: protobuf fails: %v, and not the view", n, fails)
		}
	}
}

func payloadOf(ev []byte) []byte {
	var salt [record.SaltSize]byte
	r := record.Record{
		Index: 12345678, KeySequence: 17, PreviousIndex: 12345,
		LoggedAt: time.Unix(1_790_000_001, 5), Producer: "bench", KeyEvent: ev,
	}
	return record.AppendPayload(nil, &salt, &r)
}

// FuzzSkim: what skim takes of an encoding is what protobuf reads, and it reads every one that a
// log may have recorded.
func FuzzSkim(f *testing.F) {
	b, err := event.Append(nil, fullEvent())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\x2a\x03\x0a\x01x")) // the time's seconds are a string
	f.Fuzz(func(t *testing.T, b []byte) {
		var fields event.Fields
		ok := skim(b, &fields)
		ev := new(keytrailv1.KeyEvent)
		if proto.Unmarshal(b, ev) != nil {
			return
		}
		if again, err := event.Append(nil, ev); err != nil || !bytes.Equal(again, b) {
			return
		}
		if ok || event.Validate(ev, time.Now()) == nil {
			checkSkim(t, b, ev)
		}
	})
}
