package view

import (
	"context"
	"math"
	"slices"
)

// Limits on what one call may do before it returns what it has, with a token to go on.
const (
	// maxSegments bounds the segments looked at.
	maxSegments = 2048
	// maxMisses bounds the entries that were read and did not match.
	maxMisses = 4096
	// maxPageBytes bounds the payloads of a page, which may exceed it by one.
	maxPageBytes = 1 << 20
	// chunk is how many entries are read from the log at once.
	chunk = 64
	// minChunk is the least, so that entries that do not match cost little.
	minChunk = 16
	// maxGap: entries this near to each other are read in one go, with those between.
	maxGap = 8
)

// scan finds entries that may match, in order.
type scan struct {
	r          *reader
	all        []anyOf
	from, to   int64
	descending bool
	// size bounds the entries.
	size uint64
	// next is the index from which to look on; end says that nothing follows.
	next uint64
	end  bool
	// segments is how many were looked at.
	segments int

	// found are the entries of segment, when loaded.
	loaded  bool
	segment uint32
	found   set
}

// spent says that the call has looked at enough segments.
func (s *scan) spent() bool { return s.segments >= maxSegments }

// fill appends up to n entries that may match. It stops early at the end and when spent.
func (s *scan) fill(ctx context.Context, n int, out []uint64) ([]uint64, error) {
	for n > 0 && !s.end {
		if !s.loaded {
			if s.spent() {
				return out, nil
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := s.load(); err != nil || s.end {
				return out, err
			}
		}
		offset, ok := s.step()
		if !ok {
			s.leave()
			continue
		}
		index := uint64(s.segment)<<segmentBits | uint64(offset)
		out = append(out, index)
		n--
		s.advance(index)
	}
	return out, nil
}

// step returns the next offset in the loaded segment.
func (s *scan) step() (int, bool) {
	offset := int(s.next & (segmentSize - 1))
	if s.descending {
		return s.found.prev(offset)
	}
	return s.found.next(offset)
}

// advance moves past an index of the loaded segment.
func (s *scan) advance(index uint64) {
	if s.descending {
		s.end = index == 0
		s.next = index - 1
	} else {
		s.next = index + 1
		s.end = s.next >= s.size
	}
	if !s.end && uint32(s.next>>segmentBits) != s.segment {
		s.loaded = false
	}
}

// leave moves past the loaded segment.
func (s *scan) leave() {
	last := uint64(s.segment)<<segmentBits | (segmentSize - 1)
	if s.descending {
		last &^= segmentSize - 1
	}
	s.loaded = false
	s.advance(last)
}

// load loads the next segment in which each condition has an entry, or finds the end.
func (s *scan) load() error {
	s.segments++
	at := uint32(s.next >> segmentBits)
	segment, ok, err := s.r.nextSegment(s.all, at, s.descending)
	if err != nil {
		return err
	}
	if !ok || uint64(segment)<<segmentBits >= s.size {
		s.end = true
		return nil
	}
	if segment != at {
		s.next = uint64(segment) << segmentBits
		if s.descending {
			s.next |= segmentSize - 1
		}
	}
	s.segment, s.loaded = segment, true
	return s.find()
}

// find makes found the entries of the loaded segment that may match.
func (s *scan) find() error {
	s.found = set{}
	part, ok, err := s.times()
	if err != nil || !ok {
		return err
	}
	if err := s.r.entries(&s.found, s.all, s.segment); err != nil {
		return err
	}
	if rest := s.size - uint64(s.segment)<<segmentBits; rest < segmentSize {
		s.found.truncate(int(rest))
	}
	if part != nil {
		for i, t := range part {
			if s.none(t) {
				clear(s.found[i<<(partBits-6) : (i+1)<<(partBits-6)])
			}
		}
	}
	return nil
}

// times says whether the loaded segment has events of the time asked for, and returns the
// times of its parts when not all of them are.
func (s *scan) times() (part *[parts]span, ok bool, err error) {
	if s.from == math.MinInt64 && s.to == math.MaxInt64 {
		return nil, true, nil // No time was asked for.
	}
	whole, part, err := s.r.spans(s.segment, func(t span) bool { return s.every(t) || s.none(t) })
	if err != nil || s.none(whole) {
		return nil, false, err
	}
	return part, true, nil
}

// every says that all events in a span are of the time asked for, none that none is.
func (s *scan) every(t span) bool { return t.min >= s.from && (t.max < s.to || s.to == math.MaxInt64) }
func (s *scan) none(t span) bool  { return t.max < s.from || t.min >= s.to || t.min > t.max }

// read returns the entries with given indexes, which ascend or descend; nil where the
// payload is erased or unreadable.
func (v *View) read(ctx context.Context, indexes []uint64, descending bool) ([]*Entry, error) {
	indexes = slices.Clone(indexes)
	if descending {
		slices.Reverse(indexes)
	}
	out := make([]*Entry, len(indexes))
	for lo := 0; lo < len(indexes); {
		hi := lo + 1
		for hi < len(indexes) && indexes[hi]-indexes[hi-1] <= maxGap {
			hi++
		}
		err := v.src.Payloads(ctx, indexes[lo], indexes[hi-1]+1, func(index uint64, payload []byte) error {
			if lo < hi && index == indexes[lo] {
				if payload != nil {
					// An entry that cannot be decoded was reported when it was indexed, unless
					// what is wrong is where the index does not look. No log records such.
					out[lo], _ = decode(payload)
				}
				lo++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		lo = hi
	}
	if descending {
		slices.Reverse(out)
	}
	return out, nil
}
