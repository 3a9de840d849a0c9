package view

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Filter says which entries a list holds: all that is set must match.
type Filter struct {
	// Tenant and KeyRef as in the event.
	Tenant string
	KeyRef string
	// Actor is the actor's id or display name.
	Actor string
	// Operations: any of them, as the event's operation or among its also.
	Operations []keytrailv1.Operation
	// Outcomes: any of them.
	Outcomes []keytrailv1.Outcome
	// From (inclusive) and To (exclusive) bound the event's time; zero is open.
	From, To time.Time
	// Descending lists the newest entry first.
	Descending bool
}

// check returns an *ArgumentError, or nil.
func (f *Filter) check() error {
	switch {
	case slices.Contains(f.Operations, keytrailv1.Operation_OPERATION_UNSPECIFIED):
		return &ArgumentError{"operations", "must not hold OPERATION_UNSPECIFIED"}
	case slices.Contains(f.Outcomes, keytrailv1.Outcome_OUTCOME_UNSPECIFIED):
		return &ArgumentError{"outcomes", "must not hold OUTCOME_UNSPECIFIED"}
	case !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From):
		return &ArgumentError{"time_to", "is before time_from"}
	}
	return nil
}

// times returns the bounds of the event's time.
func (f *Filter) times() (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	if !f.From.IsZero() {
		from = nanoseconds(f.From)
	}
	if !f.To.IsZero() {
		to = nanoseconds(f.To)
	}
	return from, to
}

// match says whether an event is in the list.
func (f *Filter) match(ev *keytrailv1.KeyEvent) bool {
	a := ev.GetActor()
	switch {
	case f.Tenant != "" && ev.GetTenant() != f.Tenant,
		f.KeyRef != "" && ev.GetKey().GetRef() != f.KeyRef,
		f.Actor != "" && a.GetId() != f.Actor && a.GetDisplay() != f.Actor,
		len(f.Outcomes) > 0 && !slices.Contains(f.Outcomes, ev.GetOutcome()),
		len(f.Operations) > 0 && !f.matchOperation(ev):
		return false
	}
	t := ev.GetTime().AsTime()
	return (f.From.IsZero() || !t.Before(f.From)) && (f.To.IsZero() || t.Before(f.To))
}

func (f *Filter) matchOperation(ev *keytrailv1.KeyEvent) bool {
	return slices.Contains(f.Operations, ev.GetOperation()) ||
		slices.ContainsFunc(ev.GetAlso(), func(op keytrailv1.Operation) bool { return slices.Contains(f.Operations, op) })
}

// question is an encoding of the filter that two filters share when they mean the same.
func (f *Filter) question() []byte {
	b := []byte("list")
	for _, s := range []string{f.Tenant, f.KeyRef, f.Actor} {
		b = appendString(b, s)
	}
	b = appendNumbers(b, f.Operations)
	b = appendNumbers(b, f.Outcomes)
	for _, t := range []time.Time{f.From, f.To} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
	}
	if f.Descending {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendNumbers[T ~int32](b []byte, ns []T) []byte {
	ns = slices.Compact(slices.Sorted(slices.Values(ns)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(ns)))
	for _, n := range ns {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}
