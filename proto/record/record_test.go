package record_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

func sample() *record.Record {
	return &record.Record{
		Index:         300,
		LoggedAt:      time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC),
		Producer:      "spiffe://example.org/kms",
		KeySequence:   2,
		PreviousIndex: 299,
		KeyEvent:      []byte("event"),
	}
}

// protobuf is what the reference encoder makes of a record.
func protobuf(t rapid.TB, r *record.Record) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&keytrailv1.Record{
		Index:         r.Index,
		LoggedAt:      timestamppb.New(r.LoggedAt),
		Producer:      r.Producer,
		KeySequence:   r.KeySequence,
		PreviousIndex: r.PreviousIndex,
		Body:          &keytrailv1.Record_KeyEvent{KeyEvent: r.KeyEvent},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// randomRecord draws a record that keeps all rules.
func randomRecord(t *rapid.T) *record.Record {
	r := &record.Record{
		Index:    rapid.Uint64().Draw(t, "index"),
		LoggedAt: time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos")).UTC(),
		Producer: rapid.StringN(0, 40, record.MaxProducerSize).Draw(t, "producer"),
		KeyEvent: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "event"),
	}
	r.KeySequence = rapid.Uint64Range(0, 3).Draw(t, "sequence")
	if r.Index == 0 && r.KeySequence > 1 {
		r.KeySequence = 1
	}
	if r.KeySequence > 1 {
		r.PreviousIndex = rapid.Uint64Range(0, r.Index-1).Draw(t, "previous")
	}
	return r
}

func TestAppendIsProtobuf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := randomRecord(t)
		b := r.Append(nil)
		if want := protobuf(t, r); !bytes.Equal(b, want) {
			t.Fatalf("got  %x\nwant %x", b, want)
		}
		if r.Size() != len(b) {
			t.Fatalf("Size %d of %d bytes", r.Size(), len(b))
		}
		got, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, &got); diff != "" {
			t.Fatalf("after a round trip (-want +got):\n%s", diff)
		}
	})
}

func TestMaxRecordSize(t *testing.T) {
	r := &record.Record{
		Index: math.MaxUint64, LoggedAt: time.Unix(253402300799, 999999999),
		Producer:    strings.Repeat("p", record.MaxProducerSize),
		KeySequence: math.MaxUint64, PreviousIndex: math.MaxUint64 - 1,
		KeyEvent: make([]byte, event.MaxSize),
	}
	b := r.Append(nil)
	if len(b) > record.MaxRecordSize {
		t.Errorf("largest record has %d bytes, MaxRecordSize is %d", len(b), record.MaxRecordSize)
	}
	if _, err := record.Parse(b); err != nil {
		t.Error(err)
	}
}

func TestParseAliases(t *testing.T) {
	b := sample().Append(nil)
	r, err := record.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] = 'X'
	if string(r.KeyEvent) != "evenX" {
		t.Errorf("KeyEvent is a copy: %q", r.KeyEvent)
	}
	_ = append(r.KeyEvent, '!')
}

// TestParseRefuses changes one thing in an encoding at a time. The pieces of the valid
// one: index 300, logged_at, producer "p", key_sequence 2, previous_index 299, event "e".
func TestParseRefuses(t *testing.T) {
	const (
		index, at, producer  = "\x08\xac\x02", "\x12\x04\x08\x01\x10\x01", "\x1a\x01p"
		sequence, prev, body = "\x20\x02", "\x28\xab\x02", "\x82\x01\x01e"
	)
	if _, err := record.Parse([]byte(index + at + producer + sequence + prev + body)); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"empty":                      "",
		"no logged_at":               index + producer + sequence + prev + body,
		"no body":                    index + at + producer + sequence + prev,
		"empty body":                 index + at + "\x82\x01\x00",
		"zero index":                 "\x08\x00" + at + body,
		"long index":                 "\x08\x81\x00" + at + body,
		"index of 11 bytes":          "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + at + body,
		"long tag":                   "\x88\x00\x01" + at + body,
		"long tag of body":           at + "\x82\x81\x00\x01e",
		"index twice":                index + index + at + body,
		"out of order":               at + index + body,
		"body first":                 body + at,
		"unknown field":              index + at + "\x30\x01" + body,
		"unknown field at the end":   index + at + body + "\x88\x01\x01",
		"wrong wire type":            "\x0d\x01\x00\x00\x00" + at + body,
		"empty producer":             at + "\x1a\x00" + body,
		"producer not UTF-8":         at + "\x1a\x01\xff" + body,
		"producer too long":          at + "\x1a\x81\x04" + strings.Repeat("p", 513) + body,
		"event too long":             at + "\x82\x01\x81\x80\x02" + strings.Repeat("e", event.MaxSize+1),
		"zero seconds":               "\x12\x02\x08\x00" + body,
		"zero nanos":                 "\x12\x04\x08\x01\x10\x00" + body,
		"nanos before seconds":       "\x12\x04\x10\x01\x08\x01" + body,
		"nanos over a second":        "\x12\x06\x10\x80\x94\xeb\xdc\x03" + body,
		"negative seconds":           "\x12\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + body,
		"unknown field of logged_at": "\x12\x04\x08\x01\x18\x01" + body,
		"logged_at past its end":     "\x12\x7f\x08\x01" + body,
		"truncated":                  index + at + "\x82\x01\x02e",
		"huge length":                at + "\x82\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"previous without key":       index + at + prev + body,
		"previous of the first":      index + at + "\x20\x01" + prev + body,
		"previous is itself":         index + at + sequence + "\x28\xac\x02" + body,
		"previous is later":          index + at + sequence + "\x28\xad\x02" + body,
		"second at index 0":          at + sequence + body,
	} {
		if r, err := record.Parse([]byte(in)); err == nil {
			t.Errorf("%s: parsed as %+v", name, r)
		}
	}
	if _, err := record.Parse(make([]byte, record.MaxRecordSize+1)); err == nil {
		t.Error("too large a record was parsed")
	}
}

func TestPayload(t *testing.T) {
	salt := [record.SaltSize]byte{1, 2, 3}
	payload := record.AppendPayload(nil, &salt, sample())
	gotSalt, rec, err := record.Open(payload)
	if err != nil {
		t.Fatal(err)
	}
	if gotSalt != salt || !bytes.Equal(rec, sample().Append(nil)) {
		t.Errorf("opened to %x, %x", gotSalt, rec)
	}
	for _, n := range []int{0, record.SaltSize, record.MaxPayloadSize + 1} {
		if _, _, err := record.Open(make([]byte, n)); err == nil {
			t.Errorf("opened a payload of %d bytes", n)
		}
	}
}

func TestParseLeaf(t *testing.T) {
	leaf := record.Leaf([]byte("payload"))
	hash, err := record.ParseLeaf(leaf[:])
	if err != nil || !bytes.Equal(hash[:], leaf[1:]) {
		t.Errorf("got %x, %v", hash, err)
	}
	other := leaf
	other[0] = 0x02
	for _, in := range [][]byte{nil, leaf[:32], append(leaf[:], 0), other[:]} {
		if _, err := record.ParseLeaf(in); err == nil {
			t.Errorf("%x was taken", in)
		}
	}
}

func TestAllocations(t *testing.T) {
	r := sample()
	r.KeyEvent = make([]byte, 500)
	salt := new([record.SaltSize]byte)
	buf := make([]byte, 0, record.MaxPayloadSize)
	allocs := testing.AllocsPerRun(100, func() {
		record.Leaf(record.AppendPayload(buf, salt, r))
	})
	if allocs != 0 {
		t.Errorf("payload and leaf cost %v allocations", allocs)
	}
}

func BenchmarkAppend(b *testing.B) {
	r := sample()
	r.KeyEvent = make([]byte, 500)
	buf := make([]byte, 0, record.MaxRecordSize)
	b.ReportAllocs()
	for b.Loop() {
		r.Append(buf)
	}
}

func BenchmarkParse(b *testing.B) {
	r := sample()
	r.KeyEvent = make([]byte, 500)
	in := r.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Parse(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeaf(b *testing.B) {
	r := sample()
	r.KeyEvent = make([]byte, 500)
	payload := record.AppendPayload(nil, new([record.SaltSize]byte), r)
	b.ReportAllocs()
	for b.Loop() {
		record.Leaf(payload)
	}
}
