package view

import (
	"bytes"
	"encoding/binary"
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
	number   uint32
	entries  int
	postings map[term][]uint16
	// refs are the key terms that begin with a reference's prefix.
	refs map[[refSize]byte][]term
	// whole is the time of all entries, part of each 256.
	whole span
	part  [parts]span
}

func newSegment(number uint32) *segment {
	s := &segment{
		number:   number,
		postings: make(map[term][]uint16),
		refs:     make(map[[refSize]byte][]term),
		whole:    emptySpan,
	}
	for i := range s.part {
		s.part[i] = emptySpan
	}
	return s
}

// first is the index of the segment's first entry.
func (s *segment) first() uint64 { return uint64(s.number) << segmentBits }

// add adds the next entry.
func (s *segment) add(r *row) {
	offset := uint16(s.entries)
	s.entries++
	if r.state != rowIndexed {
		return
	}
	s.whole.add(r.time)
	s.part[offset>>partBits].add(r.time)
	for _, t := range r.terms {
		p, ok := s.postings[t]
		if !ok && t[0] == kindKey {
			prefix := [refSize]byte(t[:])
			s.refs[prefix] = append(s.refs[prefix], t)
		}
		s.postings[t] = append(p, offset)
	}
}

// write puts the rows of a full segment into a batch, in the order of their keys.
func (s *segment) write(b *pebble.Batch) error {
	terms := make([]term, 0, len(s.postings))
	for t := range s.postings {
		terms = append(terms, t)
	}
	slices.SortFunc(terms, func(a, b term) int { return bytes.Compare(a[:], b[:]) })
	var value []byte
	for _, t := range terms {
		value = appendPosting(value[:0], s.postings[t])
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
