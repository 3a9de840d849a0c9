package openbao_test

import (
	"bytes"
	"testing"

	"github.com/keytrail/keytrail/client/ingest/openbao"
)

// BenchmarkRead reads the sample log; a call is two lines of 1.6 KB.
func BenchmarkRead(b *testing.B) {
	log := sample(b, "audit.ndjson")
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	var s countingSink
	for b.Loop() {
		i := openbao.New(byNamespace())
		if err := i.Read(b.Context(), "audit.log", bytes.NewReader(log), &s); err != nil {
			b.Fatal(err)
		}
		if err := i.Flush(b.Context(), &s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(s.items)/b.Elapsed().Seconds(), "events/s")
}
