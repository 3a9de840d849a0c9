package log_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// BenchmarkAppend measures an append from validation to stable storage, on Pebble, with
// many callers that each wait for their own event.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, err := pebblestore.Create(filepath.Join(b.TempDir(), "store"), pebblestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			l := logtest.Open(b, logtest.NewDir(b), s)
			b.Cleanup(func() {
				if err := l.Stop(); err != nil {
					b.Error(err)
				}
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			})
			var n atomic.Int64
			b.SetParallelism(callers)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(n.Add(1))
					ev := logtest.Prepare(b, logtest.Event(i, fmt.Sprint("key-", i%1000)))
					if _, err := l.Append(b.Context(), "", []log.Event{ev}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
