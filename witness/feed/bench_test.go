package feed_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keytrail/keytrail/witness/feed"
)

// BenchmarkCosign has three witnesses of package witness, each with an Ed25519 and an
// ML-DSA-44 key and its state in memory, cosign one checkpoint after the other over loopback,
// two of three being the quorum. Signing by the log is not counted; all else shares the
// machine. It reports the median and the 99th percentile until the quorum is met, and how many
// witnesses answered within the grace.
func BenchmarkCosign(b *testing.B) {
	l := newLog(b, "")
	w1, w2, w3 := newRealWitness(b, "w1", l), newRealWitness(b, "w2", l), newRealWitness(b, "w3", l)
	p := testPolicy(b, l, 2, w1.party, w2.party, w3.party)
	f := open(b, feed.Config{Policy: p, Tree: l})
	var all []time.Duration
	lines := 0
	size := uint64(0)
	for b.Loop() {
		b.StopTimer()
		size += 7
		cp, note := l.at(size), l.note(b, size)
		b.StartTimer()
		begin := time.Now()
		sigs, err := f.Cosign(b.Context(), cp, note)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(begin))
		lines += len(sigs)
	}
	slices.Sort(all)
	b.ReportMetric(all[len(all)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(float64(lines)/2/float64(len(all)), "witnesses")
}
