package cloudtrail_test

import (
	"bytes"
	"testing"

	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
)

func BenchmarkRead(b *testing.B) {
	data := testdata(b, "events.ndjson")
	records := bytes.Count(data, []byte("\n"))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		imp, err := cloudtrail.New(tenant)
		if err != nil {
			b.Fatal(err)
		}
		s := new(sink)
		if err := imp.Read(b.Context(), "f", bytes.NewReader(data), s); err != nil {
			b.Fatal(err)
		}
		if err := imp.Flush(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
}
