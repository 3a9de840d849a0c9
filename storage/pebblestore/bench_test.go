package pebblestore_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// payload is what an event costs: 32 random bytes of salt and a record of 528 bytes whose
// text repeats as that of key events does.
func payload(r *rand.ChaCha8, index uint64) []byte {
	p := make([]byte, 32, 575)
	_, _ = r.Read(p)
	p = fmt.Appendf(p, "\x0a\x24%08x-%04x-4%03x-8%03x-%012x\x12\x08tenant-%d\x1a\x4barn:aws:kms:eu-central-1:%012d:key/%08x-0000-4000-8000-%012x",
		r.Uint64()>>32, r.Uint64()>>48, r.Uint64()>>52, r.Uint64()>>52, r.Uint64()>>16, index%50, index%1000, index%5000, index%5000)
	p = fmt.Appendf(p, "\x22\x07Decrypt\x2a\x60arn:aws:sts::%012d:assumed-role/service-%d/i-%017x\x32\x0d10.%d.%d.%d\x3a\x20", index%1000, index%200, r.Uint64()>>4, index%200, index%31, index%251)
	digest := make([]byte, 32)
	_, _ = r.Read(digest)
	p = append(p, digest...)
	const rest = "\x42\x15eu-central-1.kms.aws.\x4a\x07success\x52\x1fSYMMETRIC_DEFAULT/AES_256_GCM/v1\x5a\x2aaws-sdk-go-v2/1.30 os/linux lang/go md/amd64\x62\x10application/json\x6a\x40encryption context: purpose=database, service=orders, stage=prod"
	for len(p) < 575 {
		p = append(p, rest[:min(len(rest), 575-len(p))]...)
	}
	return p
}

// batcher makes batches of entries that were made before, so that a benchmark measures the
// store and not what feeds it. The hashes are not those of a tree.
type batcher struct {
	entries []storage.Entry
	at      int
	head    storage.Head
}

// newBatcher makes the entries: more bytes than compression looks back.
func newBatcher() *batcher {
	return &batcher{entries: benchEntries(rand.NewChaCha8([32]byte{}), 0, 1<<15), head: storage.EmptyHead()}
}

// batch returns the next batch of n entries.
func (b *batcher) batch(n int) *storage.Batch {
	if b.at+n > len(b.entries) {
		b.at = 0
	}
	batch := &storage.Batch{Old: b.head, Entries: b.entries[b.at : b.at+n]}
	b.at += n
	b.head = storage.Head{Size: b.head.Size + uint64(n), Root: [32]byte(batch.Entries[0].Leaf[1:]), Time: time.Unix(1_800_000_000, int64(b.at))}
	for level := uint8(1); level <= storage.MaxLevel; level++ {
		for i := storage.Complete(batch.Old.Size, level); i < storage.Complete(b.head.Size, level); i++ {
			batch.Nodes = append(batch.Nodes, storage.Node{Level: level, Index: i, Hash: b.head.Root})
		}
	}
	batch.New = b.head
	return batch
}

// BenchmarkCommit commits batches of 33-byte leaves and 575-byte payloads to a disk, and
// reports entries per second, processor time per entry with all background work, bytes
// written per byte of leaf and payload, bytes on disk and files per entry after closing,
// and the largest memory of the process.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 64, 1000, 4096} {
		b.Run(fmt.Sprint("batch=", n), func(b *testing.B) {
			ctx := context.Background()
			dir := b.TempDir()
			s := create(b, dir, pebblestore.Options{})
			batches := newBatcher()
			var logical int64
			total := 0
			begin, cpu := time.Now(), cpuTime(b)
			for b.Loop() {
				batch := batches.batch(n)
				if err := s.Commit(ctx, batch); err != nil {
					b.Fatal(err)
				}
				for i := range batch.Entries {
					logical += int64(len(batch.Entries[i].Leaf) + len(batch.Entries[i].Payload))
				}
				total += n
			}
			rate := float64(total) / time.Since(begin).Seconds()
			tree, _ := s.Metrics()
			closeStore(b, s)
			used := cpuTime(b) - cpu
			bytes, files := diskUsage(b, dir)
			b.ReportMetric(rate, "entries/s")
			b.ReportMetric(used.Seconds()*1e6/float64(total), "cpu-us/entry")
			b.ReportMetric(float64(written(tree))/float64(logical), "write-amp")
			b.ReportMetric(float64(bytes)/float64(total), "disk-B/entry")
			b.ReportMetric(float64(files)*1000/float64(total), "files/1000")
			b.ReportMetric(float64(peakMemory(b))/1e6, "peak-MB")
			if os.Getenv("KEYTRAIL_METRICS") != "" {
				b.Log(tree)
			}
		})
	}
}

// written returns the bytes that Pebble has written to logs and tables.
func written(m *pebble.Metrics) uint64 {
	bytes := m.WAL.BytesWritten
	for _, l := range m.Levels {
		bytes += l.TableBytesFlushed + l.TableBytesCompacted
	}
	return bytes
}

// cpuTime returns the processor time of the process so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchEntries(r *rand.ChaCha8, from, n int) []storage.Entry {
	entries := make([]storage.Entry, n)
	for i := range entries {
		leaf := make([]byte, 33)
		leaf[0] = 1
		_, _ = r.Read(leaf[1:])
		entries[i] = storage.Entry{Leaf: leaf, Payload: payload(r, uint64(from+i))}
	}
	return entries
}

// diskUsage returns the size of the files below a directory on the disk, and their number.
func diskUsage(b *testing.B, dir string) (bytes int64, files int) {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			files++
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return bytes, files
}

// peakMemory returns the largest resident size of the process in bytes, 0 where the
// system does not tell.
func peakMemory(b *testing.B) int64 {
	if runtime.GOOS != "linux" {
		return 0
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}

// BenchmarkRead reads a store of a million entries, committed 1,000 at a time: all leaves
// and payloads in order, which reports items per second; leaves and payloads at random
// places; and tiles of level 0, which are hashed from leaves, and of level 1.
func BenchmarkRead(b *testing.B) {
	const size = 1_000_000
	ctx := context.Background()
	s := create(b, b.TempDir(), pebblestore.Options{})
	batches := newBatcher()
	for range size / 1000 {
		if err := s.Commit(ctx, batches.batch(1000)); err != nil {
			b.Fatal(err)
		}
	}
	nothing := func(uint64, []byte) error { return nil }
	type reader = func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error
	for name, read := range map[string]reader{"leaves": s.Leaves, "payloads": s.Payloads} {
		for _, n := range []uint64{1, 16, 256, size - 1} {
			at := uint64(0)
			benchRead(b, fmt.Sprint(name, "=", n), n, func() error {
				at = (at + 611_953) % (size - n)
				return read(ctx, at, at+n, nothing)
			})
		}
	}
	for level := range uint8(2) {
		index := uint64(0)
		benchRead(b, fmt.Sprint("tile=", level), storage.TileWidth, func() error {
			index += 97
			_, err := s.Tile(ctx, level, index%storage.Complete(size, level+1), storage.TileWidth)
			return err
		})
	}
	closeStore(b, s)
}

// benchRead reports the processor time of a reading of n items, and of each item.
func benchRead(b *testing.B, name string, n uint64, read func() error) {
	b.Run(name, func(b *testing.B) {
		begin := cpuTime(b)
		for b.Loop() {
			if err := read(); err != nil {
				b.Fatal(err)
			}
		}
		used := cpuTime(b) - begin
		b.ReportMetric(used.Seconds()*1e6/float64(b.N), "cpu-us/op")
		b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/float64(n), "cpu-ns/item")
	})
}
