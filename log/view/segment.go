package view

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"math"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// partBits: the times of a segment are kept for parts of 256 entries.
	partBits = 8
	parts    = segmentSize >> partBits
)

// span is the earliest and the latest event time of some entries, in nanoseconds since
// 1970; empty when min is greater than max.
type span struct{ min, max int64 }

var emptySpan = span{math.MaxInt64, math.MinInt64}

func (s *span) add(t int64) { s.min, s.max = min(s.min, t), max(s.max, t) }

// segment is the postings of the newest entries, in memory until there are segmentSize of
// them. Not safe for concurrent use.
type segment struct {
	number  uint32
	entries int
	lists   table
	// nodes are the entries of all postings, as they came. No posting has a slice of its own:
	// most keys have few entries in a segment.
	nodes []node
	// whole is the time of all entries, part of each 256.
	whole span
	part  [parts]span
	// readers is how many queries may look at the segment.
	readers atomic.Int32
}

// node is one entry of a posting.
type node struct {
	// list is the number of the posting, before that of the node before it; a node that names
	// itself is the first.
	list, before uint32
	offset       uint16
}

func newSegment(number uint32) *segment {
	s := new(segment)
	s.reset(number)
	return s
}

// reset makes it another, empty segment, which has room for as much as this one held.
func (s *segment) reset(number uint32) {
	s.number, s.entries = number, 0
	s.lists.clear()
	s.nodes = s.nodes[:0]
	s.whole = emptySpan
	for i := range s.part {
		s.part[i] = emptySpan
	}
}

// first is the index of the segment's first entry.
func (s *segment) first() uint64 { return uint64(s.number) << segmentBits }

// skip leaves the next entry out.
func (s *segment) skip() { s.entries++ }

// add adds the next entry.
func (s *segment) add(time int64, terms []term) {
	offset := uint16(s.entries)
	s.entries++
	s.whole.add(time)
	s.part[offset>>partBits].add(time)
	for i := range terms {
		at := uint32(len(s.nodes))
		n, added := s.lists.add(&terms[i])
		l := &s.lists.lists[n]
		before := l.last
		if added {
			before = at
		}
		l.last = at
		s.nodes = append(s.nodes, node{n, before, offset})
	}
}

// has says whether an entry has a term.
func (s *segment) has(t term) bool {
	_, ok := s.lists.find(&t)
	return ok
}

// posting yields the offsets of the entries that have a term, from the last to the first.
func (s *segment) posting(t term) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		n, ok := s.lists.find(&t)
		if !ok {
			return
		}
		at := s.lists.lists[n].last
		for ok && yield(s.nodes[at].offset) {
			before := s.nodes[at].before
			at, ok = before, before != at
		}
	}
}

// filer writes full segments; its room is used again.
type filer struct {
	order   []ordered
	offsets []uint16
	ends    []uint32
	value   []byte
	// size is that of the batch before, in bytes.
	size int
}

// ordered is a list of a segment, by the first bytes of its term.
type ordered struct {
	prefix uint64
	list   uint32
}

// batch makes a batch of the rows of a full segment, in the order of their keys.
func (f *filer) batch(db *pebble.DB, s *segment) (*pebble.Batch, error) {
	b := db.NewBatchWithSize(f.size + f.size/8)
	if err := f.write(b, s); err != nil {
		return nil, err
	}
	f.size = b.Len()
	return b, nil
}

func (f *filer) write(b *pebble.Batch, s *segment) error {
	f.sort(s)
	f.group(s)
	for _, o := range f.order {
		begin := uint32(0)
		if o.list > 0 {
			begin = f.ends[o.list-1]
		}
		f.value = appendPosting(f.value[:0], f.offsets[begin:f.ends[o.list]])
		row := b.SetDeferred(postingKeySize, len(f.value))
		appendPostingKey(row.Key[:0], s.lists.lists[o.list].term, s.number)
		copy(row.Value, f.value)
		if err := row.Finish(); err != nil {
			return err
		}
	}
	if err := b.Set(numberKey(rowSpan, s.number), appendSpans(nil, s.whole), nil); err != nil {
		return err
	}
	return b.Set(numberKey(rowParts, s.number), appendSpans(nil, s.part[:]...), nil)
}

// sort puts the lists into the order of their terms.
func (f *filer) sort(s *segment) {
	lists := s.lists.lists
	f.order = f.order[:0]
	for i := range lists {
		f.order = append(f.order, ordered{binary.BigEndian.Uint64(lists[i].term[:]), uint32(i)})
	}
	slices.SortFunc(f.order, func(a, b ordered) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return bytes.Compare(lists[a.list].term[:], lists[b.list].term[:])
	})
}

// group puts the offsets of each list together, one list after the other. It reads the nodes
// as they lie in memory: to follow each list through them takes ten times as long.
func (f *filer) group(s *segment) {
	f.ends = append(f.ends[:0], make([]uint32, len(s.lists.lists))...)
	for i := range s.nodes {
		f.ends[s.nodes[i].list]++
	}
	sum := uint32(0)
	for i, n := range f.ends {
		f.ends[i] = sum
		sum += n
	}
	f.offsets = slices.Grow(f.offsets[:0], len(s.nodes))[:len(s.nodes)]
	for i := range s.nodes {
		n := &s.nodes[i]
		end := &f.ends[n.list]
		f.offsets[*end] = n.offset
		*end++
	}
}

// Rows of the database.
const (
	rowPosting = 'p' // p | term | be32 segment → posting
	rowSpan    = 's' // s | be32 segment → times of the segment
	rowParts   = 'u' // u | be32 segment → times of each 256 entries
	rowCursor  = 'c' // c → see cursor
	rowFormat  = 'f' // f → format
)

// format is the content of the format row; a directory with another is built anew.
const format = "keytrail view 1"

func postingKey(t term, segment uint32) []byte {
	return appendPostingKey(make([]byte, 0, postingKeySize), t, segment)
}

const postingKeySize = 1 + termSize + 4

func appendPostingKey(b []byte, t term, segment uint32) []byte {
	b = append(b, rowPosting)
	b = append(b, t[:]...)
	return binary.BigEndian.AppendUint32(b, segment)
}

func numberKey(row byte, segment uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{row}, segment)
}

func appendSpans(b []byte, spans ...span) []byte {
	for _, s := range spans {
		b = binary.BigEndian.AppendUint64(b, uint64(s.min))
		b = binary.BigEndian.AppendUint64(b, uint64(s.max))
	}
	return b
}

func parseSpan(b []byte) span {
	return span{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}
}
