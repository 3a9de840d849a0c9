package index

import (
	"encoding/binary"
	"sync/atomic"
)

// filter is a blocked Bloom filter over the first 16 bytes of the ids of events and keys.
// It answers "surely not there" with one cache miss, where a lookup in the files reads
// the filter of each, and nearly every event is new.
//
// An id sets 4 bits of one block of 512; at a byte an id about one new id in forty is looked
// up all the same. A filter that is full takes more ids and answers less often: at 5.4 bits
// an id, as the largest has with 50 million, it lets one in twelve through, at 2.7 one in
// three. Ids are SHA-256, whose bits need no further hashing.
// Blocks are in the order of the ids, so that filling a filter from sorted runs goes through
// memory once. Adding and asking may run concurrently.
type filter struct {
	blocks   []block
	capacity uint64
	count    uint64 // owned by the one goroutine that adds while it counts
}

type block [8]uint64

const (
	bytesPerBlock = 64
	bitsOfID      = 4
	// smallestFilter is how many ids the first filter takes, a byte each. When it is full,
	// another of filterGrowth times the size is filled, up to largestFilter, which is for
	// good: memory does not grow with the log.
	smallestFilter = 1 << 21
	largestFilter  = 1 << 25
	filterGrowth   = 4
)

// newFilter returns an empty filter that takes at least n ids.
func newFilter(n uint64) *filter {
	blocks := (n + bytesPerBlock - 1) / bytesPerBlock
	return &filter{blocks: make([]block, blocks), capacity: blocks * bytesPerBlock}
}

// block returns the block of an id that begins with hi.
func (f *filter) block(hi uint64) *block {
	return &f.blocks[blockOf(hi, uint64(len(f.blocks)))]
}

func (f *filter) add(id []byte) {
	f.addNumbers(binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:]))
}

// addNumbers adds an id that begins with hi and lo.
func (f *filter) addNumbers(hi, lo uint64) {
	b := f.block(hi)
	for range bitsOfID {
		atomic.OrUint64(&b[lo>>6&7], 1<<(lo&63))
		lo >>= 9
	}
}

// has says false only of ids that were not added.
func (f *filter) has(id *[idSize]byte) bool {
	b, lo := f.block(binary.BigEndian.Uint64(id[:])), binary.BigEndian.Uint64(id[8:])
	for range bitsOfID {
		if atomic.LoadUint64(&b[lo>>6&7])&(1<<(lo&63)) == 0 {
			return false
		}
		lo >>= 9
	}
	return true
}

// take adds the ids of a row.
func (f *filter) take(row *Row) {
	f.add(row.Event[:])
	f.count++
	if row.KeySequence != 0 && !f.has(&row.Key) {
		f.add(row.Key[:])
		f.count++
	}
}

// filters is what an index does with them. Until the first is filled, after a start, and
// for good when filling one fails, lookups go to the files: slower, not wrong.
type filters struct {
	// smallest and largest are how many ids a filter takes at least and at most.
	smallest, largest uint64
	// ready is asked; nil when there is none.
	ready atomic.Pointer[filter]
	// next is being filled from the files and takes new ids too; owned by the goroutine
	// that applies.
	next   *filter
	failed atomic.Bool
	quit   chan struct{}
	done   chan struct{} // closed when the goroutine that fills next has ended
}

// addToFilters takes the ids of rows that are about to be applied.
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
			ready.take(&rows[i])
		}
		if f.next != nil {
			f.next.take(&rows[i])
		}
	}
}

// sizeFor returns how many ids the filter of an index of count ids takes.
func (f *filters) sizeFor(count uint64) uint64 {
	n := f.smallest
	for n <= count && n < f.largest {
		n *= filterGrowth
	}
	return min(n, f.largest)
}

// growFilter begins to fill a filter when there is none, or a larger one when it is full.
// The rows applied so far come from memory and from the files, later ones from Apply.
func (x *Index) growFilter() {
	f := &x.filters
	ready := f.ready.Load()
	if f.next != nil || f.failed.Load() || (ready != nil && (ready.count < ready.capacity || ready.capacity >= f.largest)) {
		return
	}
	if x.cursor.Size == 0 {
		f.ready.Store(newFilter(f.smallest))
		return
	}
	if f.done != nil {
		<-f.done // has ended: its filter is ready
	}
	x.mu.RLock()
	rounds := []*round{x.young}
	if x.frozen != nil {
		rounds = append(rounds, x.frozen)
	}
	v := x.files.acquire() // what has left the rounds by now is in it
	count := x.cursor.Size + keysIn(rounds, v)
	next := newFilter(f.sizeFor(count))
	next.count = count
	for _, r := range rounds {
		r.addTo(next)
	}
	x.mu.RUnlock()
	f.next, f.done = next, make(chan struct{})
	go func() {
		defer close(f.done)
		defer x.release(v)
		switch ended, err := fill(next, v, f.quit); {
		case err != nil:
			f.failed.Store(true)
			x.warn("index goes on without its filter, more slowly", x.judge(err))
		case ended:
			f.ready.Store(next)
		}
	}()
}

// keysIn estimates how many keys rounds and runs hold: most of them are in the largest.
func keysIn(rounds []*round, v *version) (n uint64) {
	for _, r := range rounds {
		n = max(n, uint64(len(r.keys)))
	}
	for _, r := range v.keys {
		n = max(n, r.rows)
	}
	return n
}

// addTo adds the ids of a round.
func (r *round) addTo(f *filter) {
	for i := range r.events {
		f.addNumbers(r.events[i].hi, r.events[i].lo)
	}
	for id := range r.keys {
		f.add(id[:])
	}
}

// fill adds the ids of all runs; ended is false when quit came first.
func fill(f *filter, v *version, quit <-chan struct{}) (ended bool, err error) {
	for _, r := range v.all() {
		s := newScan(r)
		for n := 1; ; n++ {
			row, err := s.next()
			if err != nil {
				return false, err
			}
			if row == nil {
				break
			}
			f.add(row)
			if n%4096 == 0 {
				select {
				case <-quit:
					return false, nil
				default:
				}
			}
		}
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
