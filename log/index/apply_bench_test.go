package index_test

import (
	"crypto/sha256"
	"encoding/binary"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/index"
)

// BenchmarkApply measures what a record costs the index in time of all processors, merges
// included, and in bytes on the disk: batches of 256 records about 10,000 keys.
func BenchmarkApply(b *testing.B) {
	dir := b.TempDir()
	x, err := index.Open(dir, index.Options{})
	if err != nil {
		b.Fatal(err)
	}
	hash := func(kind byte, n uint64) [32]byte {
		var buf [9]byte
		buf[0] = kind
		binary.LittleEndian.PutUint64(buf[1:], n)
		return sha256.Sum256(buf[:])
	}
	keys := make([][32]byte, 10_000)
	for i := range keys {
		keys[i] = hash('k', uint64(i))
	}
	var cpu time.Duration
	b.ReportAllocs()
	b.StopTimer()
	rows := make([]index.Row, 0, 1<<16)
	for at := uint64(0); at < uint64(b.N); {
		rows = rows[:0]
		for range min(1<<16, uint64(b.N)-at) {
			rows = append(rows, index.Row{Index: at, Event: hash('e', at), Key: keys[at*7919%10_000], KeySequence: at/10_000 + 1})
			at++
		}
		before := processTime(b)
		b.StartTimer()
		for i := 0; i < len(rows); i += 256 {
			batch := rows[i:min(i+256, len(rows))]
			if err := x.Apply(batch, index.Cursor{Size: batch[len(batch)-1].Index + 1}); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		cpu += processTime(b) - before
	}
	before := processTime(b)
	b.StartTimer()
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	cpu += processTime(b) - before
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(diskBytes(b, dir))/float64(b.N), "disk-B/record")
}

// processTime is the time that the processors have spent on this process.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func diskBytes(b *testing.B, dir string) (n int64) {
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}
