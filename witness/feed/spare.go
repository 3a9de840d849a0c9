package feed

import (
	"cmp"
	"context"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// choose returns whom to ask about a checkpoint first, and who is spare. Without a grace the
// first are the quickest that meet the quorum together, and no more of them than it takes.
func (f *Feed) choose(now time.Time) (first, spare []*endpoint) {
	for _, e := range f.endpoints {
		if e.askable(now) {
			first = append(first, e)
		}
	}
	if f.grace > 0 {
		return first, nil
	}
	slices.SortStableFunc(first, func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(len(a.slot), len(b.slot)), cmp.Compare(a.slowness(), b.slowness()))
	})
	enough := func(chosen []*endpoint) bool {
		names := make(map[string]bool)
		for _, e := range chosen {
			e.addReady(names, now)
		}
		return f.policy.Satisfied(names)
	}
	n := 0
	for n < len(first) && !enough(first[:n]) {
		n++
	}
	first, spare = slices.Clone(first[:n]), first[n:]
	for i := len(first) - 1; i >= 0; i-- { // those that are in no group with the last ones
		if without := slices.Delete(slices.Clone(first), i, i+1); enough(without) {
			spare = append(spare, first[i])
			first = without
		}
	}
	return first, spare
}

// addReady adds the names of the members that can be asked now.
func (e *endpoint) addReady(names map[string]bool, now time.Time) {
	for _, m := range e.members {
		if at, ok := e.ready(m, now); ok && !at.After(now) {
			names[m.Name] = true
		}
	}
}

// quick is the time to an answer below which witnesses count as equally quick.
const quick = 4 * time.Millisecond

// slowness grows by one whenever the time to an answer doubles, so that the choice does not
// change with every answer.
func (e *endpoint) slowness() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bits.Len64(uint64(e.pace / quick))
}

// leastPatience is the least time that the first witnesses are given.
const leastPatience = 5 * time.Millisecond

// patience returns how long to wait for the first witnesses before the spare ones are asked:
// somewhat more than they usually take.
func patience(first []*endpoint) time.Duration {
	var slowest time.Duration
	for _, e := range first {
		e.mu.Lock()
		slowest = max(slowest, e.pace)
		e.mu.Unlock()
	}
	return leastPatience + 2*slowest
}

// askAll begins to ask the spare witnesses.
func (c *call) askAll() {
	c.ask(c.spare)
	c.spare = nil
}

// askSpare has the witnesses that have not cosigned a call's checkpoint do so in the
// background, until the next call begins. One that is being asked may still fail, or not have
// been asked at all when the quorum was met.
func (f *Feed) askSpare(c *call) {
	ctx, cancel := context.WithCancel(f.ctx)
	// Most calls end before any spare witness's turn has come: a timer is all they cost.
	var timers []*time.Timer
	for _, e := range f.endpoints {
		if c.has(e) {
			continue
		}
		if at, ok := e.turn(time.Now()); ok {
			timers = append(timers, time.AfterFunc(time.Until(at), func() { f.start(func() { e.serveSpare(ctx, c) }) }))
		}
	}
	f.endSpare = func() {
		cancel()
		for _, t := range timers {
			t.Stop()
		}
	}
}

// has says whether a witness has cosigned, with one key at least.
func (c *call) has(e *endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(e.members, func(m *member) bool { _, ok := c.sigs[m.index]; return ok })
}

// serveSpare asks one URL whenever it is its turn, until it has cosigned or ctx ends.
func (e *endpoint) serveSpare(ctx context.Context, c *call) {
	for !c.has(e) {
		at, ok := e.turn(time.Now())
		if !ok {
			return
		}
		timer := time.NewTimer(time.Until(at))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if !e.hold(ctx.Done()) {
			return
		}
		// The request before this one may have succeeded or failed.
		if !c.has(e) && e.askable(time.Now()) {
			_ = e.request(c) // what was wrong stands in Status
		}
		e.release()
	}
}

// turn returns when a spare witness may be asked, and whether it ever may.
func (e *endpoint) turn(now time.Time) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.MaxFunc([]time.Time{
		e.asked.Add(SpareInterval), e.backoff.until, e.budget.next(now),
	}, time.Time.Compare), !e.excluded
}

// add keeps good lines, and tells of them when Cosign has returned.
func (c *call) add(got []cosignature) {
	c.mu.Lock()
	for _, g := range got {
		c.sigs[g.member.index] = g.sig
	}
	returned := c.returned
	c.mu.Unlock()
	if returned {
		select {
		case c.f.more <- struct{}{}:
		default:
		}
	}
}

// take returns the signatures that a call has come to, and makes it the latest.
func (c *call) take() []checkpoint.Signature {
	c.f.latest.Store(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.returned = true
	return inOrder(c.sigs)
}

// inOrder returns signatures in the order of the policy.
func inOrder(sigs map[int]checkpoint.Signature) []checkpoint.Signature {
	var out []checkpoint.Signature
	for _, i := range slices.Sorted(maps.Keys(sigs)) {
		out = append(out, sigs[i])
	}
	return out
}

// More tells that there may be signatures in Gathered which were not there before.
func (f *Feed) More() <-chan struct{} { return f.more }

// Gathered returns the signatures of a checkpoint that were returned by Cosign or have come
// since, in the order of the policy. It knows only the checkpoint that was cosigned last, and
// returns nil for every other.
func (f *Feed) Gathered(cp checkpoint.Checkpoint) []checkpoint.Signature {
	c := f.latest.Load()
	if c == nil || c.cp != cp {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return inOrder(c.sigs)
}
