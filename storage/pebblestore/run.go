package pebblestore

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/keytrail/keytrail/storage"
)

// A run is the content of a row: consecutive items, which are leaves, payloads or hashes.
//
//	uvarint  number of items, at least 1
//	uvarint  1 + the length of each item when all have the same, else 0
//	uvarint  for each item, when they differ: 1 + its length, or 0 if it was erased
//	bytes    the items, one after the other
type run struct {
	// n is the number of items; same their length, -1 when lengths holds each.
	n, same       int
	lengths, data []byte
}

// runLayout is what a run of given items needs before they are written.
type runLayout struct {
	n, same int
	// header is the size of what stands before the items, bytes that of the items.
	header, bytes int
}

// erasedItem is the length of an erased item.
const erasedItem = -1

// uvarintSize is the number of bytes of a uvarint.
func uvarintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// layoutRun returns the layout of n items; length returns that of the i-th.
func layoutRun(n int, length func(i int) int) runLayout {
	l := runLayout{n: n, same: length(0)}
	lengths := 0
	for i := range n {
		k := length(i)
		if k != l.same {
			l.same = erasedItem
		}
		lengths += uvarintSize(uint64(k + 1))
		l.bytes += max(k, 0)
	}
	l.header = uvarintSize(uint64(n)) + uvarintSize(uint64(l.same+1))
	if l.same == erasedItem {
		l.header += lengths
	}
	return l
}

// size is the length of the row.
func (l *runLayout) size() int { return l.header + l.bytes }

// begin appends everything before the items.
func (l *runLayout) begin(b []byte, length func(i int) int) []byte {
	b = binary.AppendUvarint(b, uint64(l.n))
	b = binary.AppendUvarint(b, uint64(l.same+1))
	if l.same == erasedItem {
		for i := range l.n {
			b = binary.AppendUvarint(b, uint64(length(i)+1))
		}
	}
	return b
}

// parseRun reads the row of a run. The lengths are checked as they are read.
func parseRun(row []byte) (r run, err error) {
	n, row, ok := cutUvarint(row)
	if !ok || n == 0 || n > rowItems {
		return r, fmt.Errorf("%w: a row does not begin with the number of its items", storage.ErrCorrupt)
	}
	same, row, ok := cutUvarint(row)
	if !ok {
		return r, errRunEnds
	}
	r = run{n: int(n), same: int(same) - 1, data: row}
	if r.same != erasedItem {
		if len(row) != r.n*r.same {
			return r, fmt.Errorf("%w: a row has %d bytes for %d items of %d", storage.ErrCorrupt, len(row), n, r.same)
		}
		return r, nil
	}
	for range n {
		if _, row, ok = cutUvarint(row); !ok {
			return r, errRunEnds
		}
	}
	r.lengths, r.data = r.data[:len(r.data)-len(row)], row
	return r, nil
}

var errRunEnds = fmt.Errorf("%w: a row ends too early", storage.ErrCorrupt)

// cutUvarint cuts a number that an int can hold off a row.
func cutUvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > math.MaxInt32 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// addTo appends the items from number from to number to to c. All lengths are read, so
// that a row that is too short or too long is found.
func (r *run) addTo(c *chunk, from, to int) error {
	if r.same != erasedItem {
		at := len(c.data)
		c.data = append(c.data, r.data[from*r.same:to*r.same]...)
		for range to - from {
			at += r.same
			c.ends = append(c.ends, at)
		}
		return nil
	}
	lengths, data := r.lengths, r.data
	for i := range r.n {
		var v uint64
		v, lengths, _ = cutUvarint(lengths) // parseRun has read it.
		n := int(v) - 1
		if n > len(data) {
			return errRunEnds
		}
		if i < from || i >= to {
			data = data[max(n, 0):]
			continue
		}
		if n == erasedItem {
			c.addErased()
			continue
		}
		c.data = append(c.data, data[:n]...)
		c.ends = append(c.ends, len(c.data))
		data = data[n:]
	}
	if len(data) > 0 {
		return fmt.Errorf("%w: %d bytes after the items of a row", storage.ErrCorrupt, len(data))
	}
	return nil
}

// each calls fn with the items from number from to number to where they lie, nil for an
// erased one. All lengths are read, as by addTo. An error of fn ends it.
func (r *run) each(from, to int, fn func(i int, item []byte) error) error {
	lengths, data := r.lengths, r.data
	for i := range r.n {
		n := r.same
		if n == erasedItem {
			var v uint64
			v, lengths, _ = cutUvarint(lengths) // parseRun has read it.
			n = int(v) - 1
		}
		if n > len(data) {
			return errRunEnds
		}
		item := data[:max(n, 0):max(n, 0)]
		data = data[len(item):]
		if n == erasedItem {
			item = nil
		}
		if i < from || i >= to {
			continue
		}
		if err := fn(i, item); err != nil {
			return err
		}
	}
	if len(data) > 0 {
		return fmt.Errorf("%w: %d bytes after the items of a row", storage.ErrCorrupt, len(data))
	}
	return nil
}

// chunk holds consecutive items that were read. It is read before any of them is handed
// out, so that no iterator is open while the caller works: an open one keeps tables and
// memtables alive.
type chunk struct {
	data []byte
	// ends are where the items end in data; -1-end for an erased one.
	ends []int
	// lower and upper are the bounds of the reading.
	lower, upper [keySize]byte
}

// A chunk that has reached one of these is handed out.
const (
	chunkItems = 4096
	chunkBytes = 256 << 10
)

// maxKeptChunk is the largest chunk that is kept for the next reading, in bytes.
const maxKeptChunk = 1 << 20

// item returns the i-th item, nil when it was erased.
func (c *chunk) item(i int) []byte {
	end := c.ends[i]
	if end < 0 {
		return nil
	}
	start := 0
	if i > 0 {
		if start = c.ends[i-1]; start < 0 {
			start = -1 - start
		}
	}
	return c.data[start:end:end]
}

// erase makes the i-th item an erased one. Its bytes stay in data.
func (c *chunk) erase(i int) {
	if c.ends[i] >= 0 {
		c.ends[i] = -1 - c.ends[i]
	}
}

func (c *chunk) addErased() { c.ends = append(c.ends, -1-len(c.data)) }

func (c *chunk) full() bool {
	return len(c.ends) >= chunkItems || len(c.data) >= chunkBytes
}

func (c *chunk) reset() { c.data, c.ends = c.data[:0], c.ends[:0] }
