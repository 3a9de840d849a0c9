package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// round holds the rows that are not on the disk yet, for a million lookups a second, until
// they are written in one go. It is filled under the lock of the index and not changed
// after.
type round struct {
	events []eventRow
	// slots is a hash table of events by id with open addressing: 0, or 1 + the place in
	// events. The seeds keep those who choose ids from choosing slots.
	slots []uint32
	seeds [2]uint64
	keys  map[[idSize]byte]KeyHead
	// records is how many the rows are of, with those that were erased; cursor is that of
	// the last of them.
	records int
	cursor  Cursor
}

// eventRow is the row of an event: the first 16 bytes of its id, as numbers, and its index.
type eventRow struct{ hi, lo, index uint64 }

func newRound(size int) *round {
	r := &round{
		events: make([]eventRow, 0, size),
		seeds:  [2]uint64{rand.Uint64(), rand.Uint64()},
		keys:   make(map[[idSize]byte]KeyHead),
	}
	r.grow(size)
	return r
}

// grow makes room for n rows more.
func (r *round) grow(n int) {
	if n += len(r.events); 2*n <= len(r.slots) {
		return
	}
	r.slots = make([]uint32, 1<<bits.Len(uint(2*n)))
	for i := range r.events {
		r.enter(i)
	}
}

// enter makes a row known to find.
func (r *round) enter(i int) {
	at := r.slot(r.events[i].hi, r.events[i].lo)
	for r.slots[at] != 0 {
		at = (at + 1) & (len(r.slots) - 1)
	}
	r.slots[at] = uint32(i + 1)
}

// reset empties a round to be filled again.
func (r *round) reset() {
	r.events = r.events[:0]
	clear(r.slots)
	clear(r.keys)
	r.records, r.cursor = 0, Cursor{}
}

func (r *round) slot(hi, lo uint64) int {
	a, b := bits.Mul64(hi^r.seeds[0], lo^r.seeds[1])
	return int(a^b) & (len(r.slots) - 1)
}

// add takes a record's row. There must be room.
func (r *round) add(row *Row) {
	e := eventRow{binary.BigEndian.Uint64(row.Event[:]), binary.BigEndian.Uint64(row.Event[8:]), row.Index}
	r.events = append(r.events, e)
	r.enter(len(r.events) - 1)
	if row.KeySequence != 0 {
		r.keys[row.Key] = KeyHead{row.KeySequence, row.Index}
	}
}

// find appends to indexes those of the events whose id begins as id does.
func (r *round) find(id *[idSize]byte, indexes []uint64) []uint64 {
	hi, lo := binary.BigEndian.Uint64(id[:]), binary.BigEndian.Uint64(id[8:])
	for at := r.slot(hi, lo); r.slots[at] != 0; at = (at + 1) & (len(r.slots) - 1) {
		if e := &r.events[r.slots[at]-1]; e.hi == hi && e.lo == lo {
			indexes = append(indexes, e.index)
		}
	}
	return indexes
}

// write writes the rows as runs: one of events and one of keys, or none of what there is
// nothing of.
func (r *round) write(fs vfs.FS, dir string, next func() uint64) (events, keys *run, err error) {
	if len(r.events) > 0 {
		if events, err = r.writeEvents(fs, dir, next()); err != nil {
			return nil, nil, err
		}
	}
	if len(r.keys) > 0 {
		keys, err = r.writeKeys(fs, dir, next())
	}
	return events, keys, err
}

func (r *round) writeEvents(fs vfs.FS, dir string, number uint64) (*run, error) {
	sorted := sortEvents(r.events)
	w, err := newRun(fs, dir, &eventKind, number, uint64(len(sorted)))
	if err != nil {
		return nil, err
	}
	for i := range sorted {
		row, err := w.add()
		if err != nil {
			w.abort()
			return nil, err
		}
		binary.BigEndian.PutUint64(row, sorted[i].hi)
		binary.BigEndian.PutUint64(row[8:], sorted[i].lo)
		putIndex(row[16:], sorted[i].index)
	}
	return w.finish()
}

// sortEvents returns rows in the order of their ids. Ids are evenly spread: their first bits
// say nearly where a row belongs.
func sortEvents(rows []eventRow) []eventRow {
	const bits = 12
	var ends [1 << bits]int
	for i := range rows {
		ends[rows[i].hi>>(64-bits)]++
	}
	sum := 0
	for i, n := range ends {
		ends[i] = sum
		sum += n
	}
	sorted := make([]eventRow, len(rows))
	for i := range rows {
		end := &ends[rows[i].hi>>(64-bits)]
		sorted[*end] = rows[i]
		*end++
	}
	begin := 0
	for _, end := range ends {
		slices.SortFunc(sorted[begin:end], compareEvents)
		begin = end
	}
	return sorted
}

func compareEvents(a, b eventRow) int {
	if c := cmp.Compare(a.hi, b.hi); c != 0 {
		return c
	}
	if c := cmp.Compare(a.lo, b.lo); c != 0 {
		return c
	}
	return cmp.Compare(a.index, b.index)
}

func (r *round) writeKeys(fs vfs.FS, dir string, number uint64) (*run, error) {
	ids := make([][idSize]byte, 0, len(r.keys))
	for id := range r.keys {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [idSize]byte) int { return bytes.Compare(a[:], b[:]) })
	w, err := newRun(fs, dir, &keyKind, number, uint64(len(ids)))
	if err != nil {
		return nil, err
	}
	for i := range ids {
		row, err := w.add()
		if err != nil {
			w.abort()
			return nil, err
		}
		h := r.keys[ids[i]]
		copy(row, ids[i][:])
		binary.BigEndian.PutUint64(row[idSize:], h.Sequence)
		putIndex(row[idSize+8:], h.Index)
	}
	return w.finish()
}
