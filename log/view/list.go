package view

import (
	"context"
	"errors"
	"fmt"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Page sizes, in entries.
const (
	DefaultPageSize = 100
	MaxPageSize     = 1000
)

// Page is a part of a list.
type Page struct {
	// Entries in the filter's order.
	Entries []*Entry
	// Next is the token of the next page, empty when nothing follows.
	Next string
	// Size is how many entries of the log the list covers: the same on all its pages.
	Size uint64
}

// List returns entries that match a filter: limit of them (0 means DefaultPageSize, at
// most MaxPageSize) from where pageToken says, which is empty or the Next of a page before
// with the same filter. A list covers what the view had read when its first page was made.
//
// A page may hold fewer, even none, and have a Next: a call ends after about 1 MiB of
// events, and after some thousands of entries that did not match. Errors are
// *ArgumentError, ErrBehind, ErrDamaged and those of the source.
func (v *View) List(ctx context.Context, f Filter, limit int, pageToken string) (page *Page, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	r, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	question := f.question()
	limit, s, err := r.scan(limit, pageToken, question, f.Descending)
	if err != nil {
		return nil, err
	}
	if s.all, err = r.conditions(&f); err != nil {
		return nil, err
	}
	s.from, s.to = f.times()
	p := Page{Size: s.size}
	next, more, err := v.collect(ctx, s, limit, func(e *Entry) verdict {
		switch {
		case !f.match(e.Event):
			return miss
		case len(p.Entries) == limit:
			return stop
		}
		p.Entries = append(p.Entries, e)
		return take
	})
	if err != nil {
		return nil, fmt.Errorf("listing entries: %w", err)
	}
	if more {
		p.Next = token{next, s.size}.encode(question)
	}
	return &p, nil
}

// scan begins a scan where a token says.
func (r *reader) scan(limit int, pageToken string, question []byte, descending bool) (int, *scan, error) {
	switch {
	case limit < 0 || limit > MaxPageSize:
		return 0, nil, &ArgumentError{"page_size", fmt.Sprintf("must be from 1 to %d", MaxPageSize)}
	case limit == 0:
		limit = DefaultPageSize
	}
	s := &scan{r: r, descending: descending, size: r.size, end: r.size == 0}
	s.from, s.to = (&Filter{}).times()
	if descending {
		s.next = max(r.size, 1) - 1
	}
	if pageToken == "" {
		return limit, s, nil
	}
	t, err := parseToken(pageToken, question)
	if err != nil {
		return 0, nil, err
	}
	if t.size > r.size {
		return 0, nil, ErrBehind
	}
	s.size, s.next, s.end = t.size, t.next, false
	return limit, s, nil
}

// conditions turns a filter into terms. What they let through must still be matched.
func (r *reader) conditions(f *Filter) ([]anyOf, error) {
	var all []anyOf
	switch {
	case f.KeyRef != "" && f.Tenant != "":
		all = append(all, anyOf{keyTerm(f.Tenant, f.KeyRef)})
	case f.KeyRef != "":
		keys, err := r.keysOf(f.KeyRef)
		if err != nil {
			return nil, err
		}
		all = append(all, keys)
	case f.Tenant != "":
		all = append(all, anyOf{tenantTerm(f.Tenant)})
	}
	if f.Actor != "" {
		all = append(all, anyOf{actorTerm(f.Actor)})
	}
	if len(f.Operations) > 0 {
		all = append(all, termsOf(f.Operations, operationTerm))
	}
	if len(f.Outcomes) > 0 {
		all = append(all, termsOf(f.Outcomes, outcomeTerm))
	}
	return all, nil
}

func termsOf[T keytrailv1.Operation | keytrailv1.Outcome](values []T, of func(T) term) anyOf {
	terms := make(anyOf, len(values))
	for i, v := range values {
		terms[i] = of(v)
	}
	return terms
}

// verdict is what becomes of an entry that was read.
type verdict int

const (
	// miss: it is not asked for.
	miss verdict = iota
	// pass: it is asked for, and does not count.
	pass
	// take: it is on the page.
	take
	// stop: it is where the next page begins.
	stop
)

// collect reads what a scan finds and hands it to fn, which takes about limit entries. It
// returns where to go on: at the entry that fn stopped at, or where a limit on the work of
// one call was reached; more is false at the end.
func (v *View) collect(ctx context.Context, s *scan, limit int, fn func(*Entry) verdict) (next uint64, more bool, err error) {
	var indexes []uint64
	misses, taken, bytes := 0, 0, 0
	for !s.end {
		// One more than the page takes shows whether another follows.
		if indexes, err = s.fill(ctx, min(max(limit+1-taken, minChunk), chunk), indexes[:0]); err != nil {
			return 0, false, err
		}
		entries, err := v.read(ctx, indexes, s.descending)
		if err != nil {
			return 0, false, err
		}
		for i, e := range entries {
			if bytes >= maxPageBytes {
				return indexes[i], true, nil
			}
			if e == nil {
				misses++
				continue
			}
			switch fn(e) {
			case miss:
				misses++
			case pass:
			case take:
				taken++
				bytes += e.size
			case stop:
				return indexes[i], true, nil
			}
		}
		if !s.end && (misses >= maxMisses || s.spent() && !s.loaded) {
			return s.next, true, nil
		}
	}
	return 0, false, nil
}
