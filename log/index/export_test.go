package index

import (
	"crypto/sha256"
	"encoding/binary"

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
