package fsck_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// benchStore makes a store of 100,000 records of 500-byte events, or as many as
// KEYTRAIL_BENCH_ENTRIES says, in KEYTRAIL_BENCH_DIR if that is set, where it is made once.
func benchStore(b *testing.B, keys int) (dir string, n int) {
	n = 100_000
	if v := os.Getenv("KEYTRAIL_BENCH_ENTRIES"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	parent := os.Getenv("KEYTRAIL_BENCH_DIR")
	if parent == "" {
		parent = b.TempDir()
	}
	dir = filepath.Join(parent, fmt.Sprintf("records-%d-%d", n, keys))
	if _, err := os.Stat(dir); err == nil {
		return dir, n
	}
	s, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	logtest.Fill(b, s, n, logtest.RecordEntry(b, keys, 500))
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return dir, n
}

// peak returns the largest resident memory of this process since forgetPeak, in bytes; 0
// where the system does not say.
func peak() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kb float64
	_, _ = fmt.Sscan(string(after), &kb)
	return kb * 1024
}

func forgetPeak() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFsck measures a whole check of a store on disk, opened as the command does.
func BenchmarkFsck(b *testing.B) {
	for _, keys := range []int{10_000, 1_000_000} {
		for _, tree := range []bool{true, false} {
			b.Run(fmt.Sprintf("keys=%d/tree-only=%v", keys, tree), func(b *testing.B) {
				dir, n := benchStore(b, keys)
				forgetPeak()
				began := cpu()
				for b.Loop() {
					s, err := pebblestore.Open(dir, pebblestore.Options{ReadOnly: true, CacheBytes: 8 << 20})
					if err != nil {
						b.Fatal(err)
					}
					r, err := fsck.Check(b.Context(), s, fsck.Options{TreeOnly: tree})
					if err != nil || len(r.Problems) > 0 {
						b.Fatalf("%+v, %v", r, err)
					}
					if err := s.Close(); err != nil {
						b.Fatal(err)
					}
				}
				checked := float64(n) * float64(b.N)
				b.ReportMetric(checked/b.Elapsed().Seconds(), "entries/s")
				b.ReportMetric(float64((cpu()-began).Nanoseconds())/checked, "cpu-ns/entry")
				b.ReportMetric(peak()/(1<<20), "peak-MB")
			})
		}
	}
}
