package prove_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// benchStore opens a store of 300,000 leaves, or as many as KEYTRAIL_BENCH_ENTRIES says, in
// KEYTRAIL_BENCH_DIR if that is set: it is made once there. The nodes are beside it.
func benchStore(b *testing.B) (*pebblestore.Store, *prove.Nodes, uint64) {
	n := 300_000
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
	dir := filepath.Join(parent, fmt.Sprint("leaves-", n))
	s, err := pebblestore.Open(dir, pebblestore.Options{})
	if err != nil {
		if s, err = pebblestore.Create(dir, pebblestore.Options{}); err != nil {
			b.Fatal(err)
		}
		logtest.Fill(b, s, n, logtest.LeafEntry)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s, openNodes(b, dir+"-nodes"), uint64(n)
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkProof measures proofs over a store on disk: of random indexes, and of those
// among the last 10,000. With a cache all nodes are kept before the clock starts.
func BenchmarkProof(b *testing.B) {
	s, nodes, size := benchStore(b)
	for _, tiles := range []int{0, 1024} {
		p := prove.New(s, tiles)
		if tiles > 0 {
			p.WithNodes(nodes)
			for i := uint64(0); i < size; i += 256 {
				if _, _, err := p.Inclusion(b.Context(), i, size); err != nil {
					b.Fatal(err)
				}
			}
		}
		for name, index := range map[string]func() uint64{
			"random": func() uint64 { return 1 + rand.Uint64N(size-1) },
			"recent": func() uint64 { return size - 1 - rand.Uint64N(min(10_000, size-1)) },
		} {
			for kind, prove := range map[string]func(i uint64) error{
				"inclusion":   func(i uint64) error { _, _, err := p.Inclusion(b.Context(), i, size); return err },
				"consistency": func(i uint64) error { _, err := p.Consistency(b.Context(), i, size); return err },
			} {
				b.Run(fmt.Sprintf("%s/%s/tiles=%d", kind, name, tiles), func(b *testing.B) {
					b.ReportAllocs()
					began := cpu()
					for b.Loop() {
						if err := prove(index()); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}
