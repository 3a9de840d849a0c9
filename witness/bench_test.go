package witness_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkAddCheckpoint has the trees of some logs cosigned again and again, each log by
// one client, on a disk. It reports cosigned checkpoints per second, each with two
// signatures and synced, and the 99th percentile of the answers.
func BenchmarkAddCheckpoint(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprint("logs=", n), func(b *testing.B) {
			var logs []*testLog
			var requests [][]byte
			for i := range n {
				name := fmt.Sprint("log.test/", i)
				logs = append(logs, newLog(b, name, name))
				requests = append(requests, logs[i].request(b, 100, 100))
			}
			w := onDisk(b, logs...)
			for _, l := range logs {
				w.add(b, l.request(b, 0, 100))
			}
			var mu sync.Mutex
			var all []time.Duration
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					var took []time.Duration
					for range (b.N + n - 1) / n {
						begin := time.Now()
						if _, err := w.AddCheckpoint(context.Background(), requests[i]); err != nil {
							b.Error(err)
							return
						}
						took = append(took, time.Since(begin))
					}
					mu.Lock()
					all = append(all, took...)
					mu.Unlock()
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(all)
			b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "cosigned/s")
			b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, "p99-ms")
		})
	}
}
