package index

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/bits"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// filter is a blocked Bloom filter over event ids. It answers "surely not there" with one
// cache miss, where a lookup in the database costs many, and nearly every event is new.
//
// An id sets 8 bits of one block of 512; at a byte an id, which is full, about one new id
// in forty is asked of the database all the same. Ids are SHA-256, whose bits need no
// further hashing. Adding and asking may run concurrently.
type filter struct {
	blocks   []block
	capacity uint64
	count    uint64 // owned by the one goroutine that adds while it counts
}

type block [8]uint64

const (
	bytesPerBlock = 64
	// smallestFilter is how many ids the first filter takes: 1 MiB.
	smallestFilter = 1 << 20
)

// newFilter returns an empty filter that takes at least n ids, at least 64.
func newFilter(n uint64) *filter {
	capacity := uint64(1) << bits.Len64(max(n, bytesPerBlock)-1)
	return &filter{blocks: make([]block, capacity/bytesPerBlock), capacity: capacity}
}

// place returns an id's block and, nine bits each, the places of its bits in it.
func (f *filter) place(id *[idSize]byte) (b *block, bits uint64, last uint32) {
	n := binary.LittleEndian.Uint64(id[:]) & uint64(len(f.blocks)-1)
	return &f.blocks[n], binary.LittleEndian.Uint64(id[8:]), binary.LittleEndian.Uint32(id[16:])
}

func (f *filter) add(id *[idSize]byte) {
	b, places, last := f.place(id)
	for range 7 {
		atomic.OrUint64(&b[places>>6&7], 1<<(places&63))
		places >>= 9
	}
	atomic.OrUint64(&b[last>>6&7], 1<<(last&63))
}

// has says false only of ids that were not added.
func (f *filter) has(id *[idSize]byte) bool {
	b, places, last := f.place(id)
	for range 7 {
		if atomic.LoadUint64(&b[places>>6&7])&(1<<(places&63)) == 0 {
			return false
		}
		places >>= 9
	}
	return atomic.LoadUint64(&b[last>>6&7])&(1<<(last&63)) != 0
}

// filters is what an index does with them. Until the first is filled, after a start, and
// for good when filling one fails, lookups go to the database: slower, not wrong.
type filters struct {
	// smallest is how many ids a filter takes at least.
	smallest uint64
	// ready is asked; nil when there is none.
	ready atomic.Pointer[filter]
	// next is being filled from the database and takes new ids too; owned by the
	// goroutine that applies.
	next   *filter
	failed atomic.Bool
	quit   chan struct{}
	done   chan struct{} // closed when the goroutine that fills next has ended
}

// add takes the ids of rows that are about to be applied.
func (x *Index) addToFilters(rows []Row) {
	f := &x.filters
	ready := f.ready.Load()
	if f.next == ready || f.failed.Load() {
		f.next = nil
	}
	for i := range rows {
		if rows[i].Erased {
			continue
		}
		if ready != nil {
			ready.add(&rows[i].Event)
			ready.count++
		}
		if f.next != nil {
			f.next.add(&rows[i].Event)
			f.next.count++
		}
	}
}

// growFilter begins to fill a filter of twice what the index holds, when there is none or
// it is full. The rows applied so far come from the database, later ones from Apply.
func (x *Index) growFilter() {
	f := &x.filters
	ready := f.ready.Load()
	if f.next != nil || f.failed.Load() || (ready != nil && ready.count < ready.capacity) {
		return
	}
	next := newFilter(max(2*x.cursor.Size, f.smallest))
	if x.cursor.Size == 0 {
		f.ready.Store(next)
		return
	}
	if f.done != nil {
		<-f.done // has ended: its filter is ready
	}
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowEvent}, UpperBound: []byte{rowEvent + 1}})
	if err != nil {
		x.filterFailed(err)
		return
	}
	f.next, f.done = next, make(chan struct{})
	next.count = x.cursor.Size
	go func() {
		defer close(f.done)
		switch ended, err := fill(next, it, f.quit); {
		case err != nil:
			x.filterFailed(err)
		case ended:
			f.ready.Store(next)
		}
	}()
}

func (x *Index) filterFailed(err error) {
	x.filters.failed.Store(true)
	if x.logger != nil {
		x.logger.Warn("index goes on without its filter, more slowly", slog.Any("error", err))
	}
}

// fill adds all event ids of the database; ended is false when quit came first.
func fill(f *filter, it *pebble.Iterator, quit <-chan struct{}) (ended bool, err error) {
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if key := it.Key(); len(key) == 1+idSize {
			f.add((*[idSize]byte)(key[1:]))
		}
		if n++; n%4096 == 0 {
			select {
			case <-quit:
				return false, it.Close()
			default:
			}
		}
	}
	if err := it.Close(); err != nil {
		return false, fmt.Errorf("reading the index for its filter: %w", err)
	}
	return true, nil
}

// stop ends the filling of a filter.
func (f *filters) stop() {
	close(f.quit)
	if f.done != nil {
		<-f.done
	}
}
