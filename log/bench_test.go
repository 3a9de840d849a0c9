package log_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// BenchmarkAppendInProcess measures appends of valid events of about 500 random bytes,
// about 10,000 keys, by callers that each wait for their one event, on Pebble on the disk,
// with everything that a log does: chains, duplicates, two signatures every 5 ms. The time
// of the processors is that of the whole process: callers, Pebble's merges, signing.
func BenchmarkAppendInProcess(b *testing.B) {
	for _, callers := range []int{64, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, err := pebblestore.Create(filepath.Join(b.TempDir(), "store"), pebblestore.Options{})
			if err != nil {
				b.Fatal(err)
			}
			d := logtest.NewDir(b)
			d.Change = func(c *log.Config) { c.MinInterval = log.DefaultMinInterval }
			l := logtest.Open(b, d, s)
			r := rand.NewChaCha8([32]byte{})
			var cpu time.Duration
			b.ReportAllocs()
			b.StopTimer()
			for done := 0; done < b.N; {
				events := randomEvents(b, r, done, min(b.N-done, 1<<16))
				done += len(events)
				before := processTime(b)
				b.StartTimer()
				appendAll(b, l, events, callers)
				b.StopTimer()
				cpu += processTime(b) - before
			}
			if err := l.Stop(); err != nil {
				b.Error(err)
			}
			if err := s.Close(); err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/event")
		})
	}
}

// appendAll lets callers append events, one a call.
func appendAll(b *testing.B, l *logtest.Log, events []log.Event, callers int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= len(events); i = int(next.Add(1)) {
				if _, err := l.Append(b.Context(), "bench", events[i-1:i]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func randomEvents(b *testing.B, r *rand.ChaCha8, from, n int) []log.Event {
	events := make([]log.Event, n)
	var filler [300]byte
	for i := range events {
		_, _ = r.Read(filler[:])
		ev := logtest.Event(from+i, fmt.Sprint("key-", r.Uint64()%10_000))
		ev.Attributes = []*keytrailv1.Attribute{{Name: "filler", Value: base64.RawStdEncoding.EncodeToString(filler[:])}}
		events[i] = logtest.Prepare(b, ev)
	}
	return events
}

// processTime is the time that the processors have spent on this process.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
