package view

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// reader is one query's look at the view. Not safe for concurrent use.
type reader struct {
	v  *View
	it *pebble.Iterator
	// live is the segment that was the newest when the query began; the segments before
	// it are in the database. Its content is guarded by v.mu.
	live *segment
	// size is how many entries the query sees.
	size uint64
}

// begin starts a query; the reader must be closed.
func (v *View) begin(ctx context.Context) (*reader, error) {
	v.dbMu.RLock()
	if v.db == nil {
		v.dbMu.RUnlock()
		return nil, fmt.Errorf("reading the view: %w", fs.ErrClosed)
	}
	// The segment comes before the iterator: if it is filed between the two, its rows are in
	// the iterator too, but it is still read from memory, up to size.
	v.mu.RLock()
	r := &reader{v: v, live: v.live, size: v.size()}
	r.live.readers.Add(1)
	v.mu.RUnlock()
	it, err := v.db.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: []byte{rowPosting}, UpperBound: []byte{rowPosting + 1},
	})
	if err != nil {
		r.live.readers.Add(-1)
		v.dbMu.RUnlock()
		return nil, v.damage(err)
	}
	r.it = it
	return r, nil
}

func (r *reader) close() error {
	r.live.readers.Add(-1)
	err := r.it.Close()
	r.v.dbMu.RUnlock()
	return err
}

// damage turns an error of the database into ErrDamaged, and has the view rebuilt, when
// it means that rows cannot be read.
func (v *View) damage(err error) error {
	if !pebble.IsCorruptionError(err) && !errors.Is(err, errRow) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the view: %w", err)
	}
	v.reportDamage()
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// errRow marks a row that does not have the form that this program writes.
var errRow = errors.New("malformed row")

// anyOf are terms of which an entry must have one.
type anyOf []term

// nextSegment returns the first segment at or after from (at or before it, descending) in
// which each of the conditions has an entry.
func (r *reader) nextSegment(all []anyOf, from uint32, descending bool) (segment uint32, ok bool, err error) {
	if !descending && from > r.live.number {
		return 0, false, nil
	}
	for agreed := 0; agreed < len(all); agreed++ {
		next, ok, err := r.nextOf(all[agreed], from, descending)
		if err != nil || !ok {
			return 0, false, err
		}
		if next != from {
			from, agreed = next, -1 // Ask them all again from there.
		}
	}
	return from, true, nil
}

// nextOf is nextSegment for one condition.
func (r *reader) nextOf(terms anyOf, from uint32, descending bool) (best uint32, found bool, err error) {
	for _, t := range terms {
		next, ok, err := r.nextWith(t, from, descending)
		if err != nil {
			return 0, false, err
		}
		if ok && (!found || (next < best) != descending) {
			best, found = next, true
		}
		if found && best == from {
			break
		}
	}
	return best, found, nil
}

// nextWith is nextSegment for one term.
func (r *reader) nextWith(t term, from uint32, descending bool) (segment uint32, ok bool, err error) {
	if descending && from >= r.live.number {
		if r.inLive(t) {
			return r.live.number, true, nil
		}
		from = r.live.number - 1
		if r.live.number == 0 {
			return 0, false, nil
		}
	}
	if from < r.live.number {
		if descending {
			r.it.SeekLT(postingKey(t, from+1))
		} else {
			r.it.SeekGE(postingKey(t, from))
		}
		if segment, ok := r.at(t); ok && segment < r.live.number {
			return segment, true, nil
		}
		if err := r.it.Error(); err != nil {
			return 0, false, r.v.damage(err)
		}
	}
	return r.live.number, !descending && r.inLive(t), nil
}

// at returns the segment of the row on which the iterator stands, if it is one of t.
func (r *reader) at(t term) (segment uint32, ok bool) {
	if !r.it.Valid() {
		return 0, false
	}
	key := r.it.Key()
	if len(key) != 1+termSize+4 || term(key[1:]) != t {
		return 0, false
	}
	return binary.BigEndian.Uint32(key[1+termSize:]), true
}

func (r *reader) inLive(t term) bool {
	r.v.mu.RLock()
	defer r.v.mu.RUnlock()
	return r.live.has(t)
}

// entries makes s the entries of a segment that meet every condition.
func (r *reader) entries(s *set, all []anyOf, segment uint32) error {
	s.fill()
	for _, terms := range all {
		var some set
		for _, t := range terms {
			if err := r.addEntries(&some, t, segment); err != nil {
				return err
			}
		}
		s.and(&some)
	}
	return nil
}

// addEntries adds the entries of a segment that have a term.
func (r *reader) addEntries(s *set, t term, segment uint32) error {
	if segment == r.live.number {
		r.v.mu.RLock()
		defer r.v.mu.RUnlock()
		for o := range r.live.posting(t) {
			s.add(o)
		}
		return nil
	}
	r.it.SeekGE(postingKey(t, segment))
	if found, ok := r.at(t); !ok || found != segment {
		if err := r.it.Error(); err != nil {
			return r.v.damage(err)
		}
		return nil
	}
	b, err := r.it.ValueAndErr()
	if err == nil {
		err = s.addPosting(b)
	}
	if err != nil {
		return r.v.damage(err)
	}
	return nil
}

// keysOf returns the terms of the keys that have a reference, whatever their tenant.
func (r *reader) keysOf(ref string) (anyOf, error) {
	prefix := refPrefix(ref)
	var terms anyOf
	r.v.mu.RLock()
	for i := range r.live.lists.lists {
		if t := &r.live.lists.lists[i].term; [refSize]byte(t[:]) == prefix {
			terms = append(terms, *t)
		}
	}
	r.v.mu.RUnlock()
	next := append([]byte{rowPosting}, prefix[:]...)
	for r.it.SeekGE(next); r.it.Valid(); r.it.SeekGE(next) {
		key := r.it.Key()
		if len(key) != 1+termSize+4 || [refSize]byte(key[1:]) != prefix {
			break
		}
		t := term(key[1:])
		terms = append(terms, t)
		next = append(postingKey(t, ^uint32(0)), 0)
	}
	if err := r.it.Error(); err != nil {
		return nil, r.v.damage(err)
	}
	slices.SortFunc(terms, func(a, b term) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(terms), nil
}

// spans returns the event times of a segment: as a whole, and by parts unless the whole
// tells enough.
func (r *reader) spans(segment uint32, enough func(span) bool) (whole span, part *[parts]span, err error) {
	if segment == r.live.number {
		r.v.mu.RLock()
		defer r.v.mu.RUnlock()
		p := r.live.part
		return r.live.whole, &p, nil
	}
	b, err := r.row(rowSpan, segment, 1)
	if err != nil {
		return span{}, nil, err
	}
	if whole = parseSpan(b); enough(whole) {
		return whole, nil, nil
	}
	if b, err = r.row(rowParts, segment, parts); err != nil {
		return span{}, nil, err
	}
	part = new([parts]span)
	for i := range part {
		part[i] = parseSpan(b[16*i:])
	}
	return whole, part, nil
}

// row reads a row of n spans.
func (r *reader) row(kind byte, segment uint32, n int) ([]byte, error) {
	b, err := get(r.v.db, numberKey(kind, segment))
	if err == nil && len(b) != 16*n {
		err = fmt.Errorf("times of segment %d: %w", segment, errRow)
	}
	if err != nil {
		return nil, r.v.damage(err)
	}
	return b, nil
}
