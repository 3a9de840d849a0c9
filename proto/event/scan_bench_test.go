package event_test

import (
	"testing"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

func BenchmarkScan(b *testing.B) {
	for name, ev := range map[string]*keytrailv1.KeyEvent{"typical": typical(), "complete": complete()} {
		b.Run(name, func(b *testing.B) {
			in := encode(b, ev)
			var f event.Fields
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if !event.Scan(in, &f) {
					b.Fatal("not taken")
				}
			}
		})
	}
}

// BenchmarkFieldsID is what Scan leaves to do: both identities.
func BenchmarkFieldsID(b *testing.B) {
	in := encode(b, typical())
	var f event.Fields
	if !event.Scan(in, &f) {
		b.Fatal("not taken")
	}
	b.ReportAllocs()
	for b.Loop() {
		f.ID()
		f.KeyID()
	}
}
