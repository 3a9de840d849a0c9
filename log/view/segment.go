package view

import (
	"bytes"
	"encoding/binary"
	"iter"
	"maps"
	"math"
	"slices"

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
	// lists has, for each term, the number of its last node; a posting is read backwards
	// from there. No term has a slice of its own: most keys have few entries in a segment.
	lists map[term]uint32
	nodes []node
	// keys are the key terms, in the order in which they came.
	keys []term
	// whole is the time of all entries, part of each 256.
	whole span
	part  [parts]span
}

// node is one entry of a posting. before is the number of the node before it; a node that
// names itself is the first.
type node struct {
	before uint32
	offset uint16
}

// newSegment makes an empty segment with room for as much as the one before it held.
func newSegment(number uint32, before *segment) *segment {
	s := &segment{number: number, whole: emptySpan}
	if before != nil {
		s.lists = make(map[term]uint32, len(before.lists))
		s.nodes = make([]node, 0, len(before.nodes))
		s.keys = make([]term, 0, len(before.keys))
	} else {
		s.lists = make(map[term]uint32)
	}
	for i := range s.part {
		s.part[i] = emptySpan
	}
	return s
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
		t := &terms[i]
		at := uint32(len(s.nodes))
		before, ok := s.lists[*t]
		if !ok {
			before = at
			if t[0] == kindKey {
				s.keys = append(s.keys, *t)
			}
		}
		s.lists[*t] = at
		s.nodes = append(s.nodes, node{before, offset})
	}
}

// has says whether an entry has a term.
func (s *segment) has(t term) bool {
	_, ok := s.lists[t]
	return ok
}

// posting yields the offsets of the entries that have a term, from the last to the first.
func (s *segment) posting(t term) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		at, ok := s.lists[t]
		for ok && yield(s.nodes[at].offset) {
			before := s.nodes[at].before
			at, ok = before, before != at
		}
	}
}

// write puts the rows of a full segment into a batch, in the order of their keys.
func (s *segment) write(b *pebble.Batch) error {
	terms := slices.AppendSeq(make([]term, 0, len(s.lists)), maps.Keys(s.lists))
	slices.SortFunc(terms, func(a, b term) int { return bytes.Compare(a[:], b[:]) })
	var value []byte
	var offsets []uint16
	for _, t := range terms {
		offsets = slices.AppendSeq(offsets[:0], s.posting(t))
		slices.Reverse(offsets)
		value = appendPosting(value[:0], offsets)
		if err := b.Set(postingKey(t, s.number), value, nil); err != nil {
			return err
		}
	}
	if err := b.Set(numberKey(rowSpan, s.number), appendSpans(nil, s.whole), nil); err != nil {
		return err
	}
	return b.Set(numberKey(rowParts, s.number), appendSpans(nil, s.part[:]...), nil)
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
	k := make([]byte, 0, 1+termSize+4)
	k = append(k, rowPosting)
	k = append(k, t[:]...)
	return binary.BigEndian.AppendUint32(k, segment)
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
