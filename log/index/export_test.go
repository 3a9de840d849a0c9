package index

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// SetFormat makes the directory one of another program.
func (x *Index) SetFormat(format string) error {
	if err := x.db.Set(formatKey, []byte(format), pebble.NoSync); err != nil {
		return err
	}
	return x.db.Flush()
}

// WithSmallFilter returns options with a filter that is full after n ids.
func (o Options) WithSmallFilter(n uint64) Options {
	o.smallestFilter = n
	return o
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
		f.add(id(i))
	}
	var perhaps uint64
	for i := n; i < n+m; i++ {
		if f.has(id(i)) {
			perhaps++
		}
	}
	return perhaps
}
