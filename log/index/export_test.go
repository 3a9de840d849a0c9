package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// SetFormat makes the directory, whose index is closed, one of another program.
func SetFormat(fs vfs.FS, dir, format string) error {
	f, err := fs.Create(fs.PathJoin(dir, manifestName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte(format)); err != nil {
		return err
	}
	return f.Close()
}

// WithSmallFilter returns options with a filter that is full after n ids.
func (o Options) WithSmallFilter(n uint64) Options {
	o.smallestFilter = n
	return o
}

// WithFilterOf returns options with a filter that never takes more than n ids well.
func (o Options) WithFilterOf(n uint64) Options {
	o.smallestFilter, o.largestFilter = n, n
	return o
}

// Runs returns how many files hold rows of events and of keys.
func (x *Index) Runs() (events, keys int) {
	v := x.files.acquire()
	defer x.release(v)
	return len(v.events), len(v.keys)
}

// ParseManifest reads a manifest and writes it again.
func ParseManifest(b []byte) ([]byte, error) {
	m, err := parseManifest(b)
	if err != nil {
		return nil, err
	}
	return m.append(nil), nil
}

// FilterReady says whether lookups ask a filter first, and how many ids it takes.
func (x *Index) FilterReady() (capacity uint64, ok bool) {
	f := x.filters.ready.Load()
	if f == nil {
		return 0, false
	}
	return f.capacity, true
}

// PerhapsInFull fills a filter of n ids and returns of how many of m others it says that
// they may be there.
func PerhapsInFull(n, m uint64) uint64 {
	f := newFilter(n)
	id := func(i uint64) *[idSize]byte {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
		return &sum
	}
	for i := range n {
		f.add(id(i)[:])
	}
	var perhaps uint64
	for i := n; i < n+m; i++ {
		if f.has(id(i)) {
			perhaps++
		}
	}
	return perhaps
}

// WaitMerged waits until nothing is being written or is to be merged.
func (x *Index) WaitMerged(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		<-x.written
		v := x.files.acquire()
		done := mergeable(v.events, uint64(x.size)) == nil && mergeable(v.keys, uint64(x.size)) == nil
		x.release(v)
		if done {
			return
		}
	}
	t.Fatal("runs are never merged")
}

// PerhapsInRun writes a run and asks its filter, in the file and in memory, for its ids and
// for others: how many of its own it does not have, how many others it says that it may have.
func PerhapsInRun(fs vfs.FS, rows, others int) (missing, perhaps int, err error) {
	ids := make([][idSize]byte, rows+others)
	for i := range ids {
		ids[i] = sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	}
	slices.SortFunc(ids[:rows], func(a, b [idSize]byte) int { return bytes.Compare(a[:], b[:]) })
	w, err := newRun(fs, "", &eventKind, 1, uint64(rows))
	if err != nil {
		return 0, 0, err
	}
	for i := range ids[:rows] {
		row, err := w.add()
		if err != nil {
			return 0, 0, err
		}
		copy(row, ids[i][:eventKind.id])
	}
	r, err := w.finish()
	if err != nil {
		return 0, 0, err
	}
	defer r.file.Close()
	var buf [pageSize]byte
	for _, inMemory := range []bool{false, true} {
		if inMemory {
			if err := r.readFilter(); err != nil {
				return 0, 0, err
			}
		}
		for i := range ids {
			may, err := r.mayHave(ids[i][:], &buf)
			if err != nil {
				return 0, 0, err
			}
			if i < rows && !may {
				missing++
			}
			if i >= rows && may && inMemory {
				perhaps++
			}
		}
	}
	return missing, perhaps, nil
}

// Sieves returns how many sieves there are, of how many runs, and how many could have one.
func (x *Index) Sieves() (sieves, runs, of int) {
	v := x.files.acquire()
	defer x.release(v)
	return len(v.sieves), v.sieved(), len(v.sievable(uint64(x.size)))
}
