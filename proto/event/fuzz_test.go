package event_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// FuzzParse: what parses is exactly what Append writes.
func FuzzParse(f *testing.F) {
	for _, ev := range []*keytrailv1.KeyEvent{minimal(), typical(), complete()} {
		f.Add(encode(f, ev))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := event.Parse(b)
		if err != nil {
			return
		}
		if again := encode(t, ev); !bytes.Equal(again, b) {
			t.Fatalf("%x parses, and is written as %x", b, again)
		}
	})
}

// FuzzValidate: no event that can be sent makes it panic, and a valid one goes through
// every encoding unchanged.
func FuzzValidate(f *testing.F) {
	for _, ev := range []*keytrailv1.KeyEvent{minimal(), typical(), complete()} {
		f.Add(encode(f, ev))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ev := new(keytrailv1.KeyEvent)
		if proto.Unmarshal(b, ev) != nil {
			return
		}
		if len(violations(t, ev)) > 0 {
			return
		}
		got, err := event.Parse(encode(t, ev))
		if err != nil {
			t.Fatalf("valid, but: %v", err)
		}
		if !proto.Equal(got, ev) {
			t.Fatalf("%v became %v", ev, got)
		}
	})
}

// FuzzParseJSON: what parses can be written, and read again as the same.
func FuzzParseJSON(f *testing.F) {
	for _, ev := range []*keytrailv1.KeyEvent{minimal(), typical(), complete()} {
		b, err := event.AppendJSON(nil, ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"operation":"key.generate","also":["use.encrypt"],"outcome":"success"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		ev, err := event.ParseJSON(line)
		if err != nil {
			return
		}
		b, err := event.AppendJSON(nil, ev)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > event.MaxJSONSize {
			return
		}
		got, err := event.ParseJSON(b)
		if err != nil {
			t.Fatalf("%s was written as %s: %v", line, b, err)
		}
		if !proto.Equal(got, ev) {
			t.Fatalf("%v became %v", ev, got)
		}
	})
}
