package view

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

const (
	segmentBits = 16
	// segmentSize is the number of entries of a segment.
	segmentSize = 1 << segmentBits
)

// set is a set of entries of one segment.
type set [segmentSize / 64]uint64

func (s *set) add(offset uint16) { s[offset>>6] |= 1 << (offset & 63) }

// fill makes it the set of all entries.
func (s *set) fill() {
	for i := range s {
		s[i] = ^uint64(0)
	}
}

// and keeps what is in both.
func (s *set) and(o *set) {
	for i := range s {
		s[i] &= o[i]
	}
}

// truncate keeps the offsets below n.
func (s *set) truncate(n int) {
	for i := n; i < segmentSize && i&63 != 0; i++ {
		s[i>>6] &^= 1 << (i & 63)
	}
	for i := (n + 63) >> 6; i < len(s); i++ {
		s[i] = 0
	}
}

// next returns the first offset at or after from; ok is false when there is none.
func (s *set) next(from int) (offset int, ok bool) {
	if from >= segmentSize {
		return 0, false
	}
	i := from >> 6
	word := s[i] &^ (1<<(from&63) - 1)
	for word == 0 {
		if i++; i == len(s) {
			return 0, false
		}
		word = s[i]
	}
	return i<<6 + bits.TrailingZeros64(word), true
}

// prev returns the last offset at or before from; ok is false when there is none.
func (s *set) prev(from int) (offset int, ok bool) {
	if from < 0 {
		return 0, false
	}
	i := from >> 6
	word := s[i] & (^uint64(0) >> (63 - from&63))
	for word == 0 {
		if i--; i < 0 {
			return 0, false
		}
		word = s[i]
	}
	return i<<6 + 63 - bits.LeadingZeros64(word), true
}

// A posting is the entries of one segment that have one term, in the shorter of two forms:
// a list (one byte, then the distances between offsets as varints, the first from -1), or
// a bitmap (one byte, then the segment's bits).
const (
	postingList   = 1
	postingBitmap = 2

	bitmapSize = segmentSize / 8
)

// appendPosting appends the form of offsets, which ascend.
func appendPosting(b []byte, offsets []uint16) []byte {
	start := len(b)
	b = append(b, postingList)
	last := -1
	for _, o := range offsets {
		b = binary.AppendUvarint(b, uint64(int(o)-last))
		last = int(o)
		if len(b)-start > bitmapSize {
			return appendBitmap(b[:start], offsets)
		}
	}
	return b
}

func appendBitmap(b []byte, offsets []uint16) []byte {
	var s set
	for _, o := range offsets {
		s.add(o)
	}
	b = append(b, postingBitmap)
	for _, w := range s {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

var errPosting = errors.New("malformed posting")

// addPosting adds the entries of a posting to a set.
func (s *set) addPosting(b []byte) error {
	if len(b) == 0 {
		return errPosting
	}
	form, b := b[0], b[1:]
	switch form {
	case postingList:
		last := -1
		for len(b) > 0 {
			d, n := binary.Uvarint(b)
			if n <= 0 || d == 0 || d > segmentSize || last+int(d) >= segmentSize {
				return errPosting
			}
			last += int(d)
			s.add(uint16(last))
			b = b[n:]
		}
		return nil
	case postingBitmap:
		if len(b) != bitmapSize {
			return errPosting
		}
		for i := range s {
			s[i] |= binary.LittleEndian.Uint64(b[8*i:])
		}
		return nil
	default:
		return errPosting
	}
}
