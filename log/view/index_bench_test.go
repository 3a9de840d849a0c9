package view

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// BenchmarkIndex is what an entry costs on its way into the database: to read its terms, to
// add them to the live segment, and its part of filing that. The log's own reading and
// Pebble's merging are left out. Keys and actors are as those of BenchmarkBuild.
func BenchmarkIndex(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	keys := rand.NewZipf(rng, 1.1, 10, 99_999)
	payloads := make([][]byte, segmentSize)
	for i := range payloads {
		ev := fullEvent()
		key := keys.Uint64()
		ev.Tenant = fmt.Sprintf("tenant-%d", key%100)
		ev.Key.Ref = fmt.Sprintf("arn:aws:kms:eu-central-1:111122223333:key/%08d", key)
		ev.Actor.Id, ev.Actor.Display = fmt.Sprintf("arn:aws:iam::111122223333:role/app-%d", rng.IntN(5000)), ""
		ev.Operation = keytrailv1.Operation(1 + rng.IntN(8))
		ev.Also = nil
		ev.Time = timestamppb.New(time.Unix(1_790_000_000+int64(i), 0))
		enc, err := event.Append(nil, ev)
		if err != nil {
			b.Fatal(err)
		}
		payloads[i] = payloadOf(enc)
	}
	v, err := Open(b.Context(), b.TempDir(), emptySource{}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	var in intake
	var read, add, file time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		in.clear()
		for i, p := range payloads {
			in.add(uint64(i), p)
		}
		haveRead := time.Now()
		v.addRows(&in)
		haveAdded := time.Now()
		if err := v.file(b.Context()); err != nil {
			b.Fatal(err)
		}
		read += haveRead.Sub(start)
		add += haveAdded.Sub(haveRead)
		file += time.Since(haveAdded)
	}
	entries := float64(b.N) * segmentSize
	b.ReportMetric(float64(read)/entries, "read-ns/entry")
	b.ReportMetric(float64(add)/entries, "add-ns/entry")
	b.ReportMetric(float64(file)/entries, "file-ns/entry")
}
