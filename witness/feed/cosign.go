package feed

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// QuorumError means that too few witnesses answered.
type QuorumError struct {
	// Missing says of each witness of the policy that could not be asked, or did not answer,
	// why, for people.
	Missing []string
	// RetryAt is when asking again can succeed, at the earliest. When waiting alone cannot
	// help, because witnesses that are needed contradicted the log, it is ten minutes on.
	RetryAt time.Time
}

// Error names what is missing.
func (e *QuorumError) Error() string {
	return "the policy's quorum of witnesses is not met: " + strings.Join(e.Missing, "; ")
}

// result is what came of asking a URL; problem is empty when it answered as it should.
type result struct {
	e       *endpoint
	got     []cosignature
	problem string
}

// call is one Cosign.
type call struct {
	f    *Feed
	cp   checkpoint.Checkpoint
	note []byte
	// over is closed when Cosign returns; requests that are under way go on.
	over chan struct{}

	// pending are the witnesses that were asked and have not answered, spare those that were
	// not asked yet; owned by Cosign.
	pending  map[*endpoint]bool
	spare    []*endpoint
	problems map[*endpoint]string
	results  chan result

	mu  sync.Mutex
	met time.Time // when the quorum was met; zero before
	// sigs are the good lines, by the witness's place in the policy.
	sigs map[int]checkpoint.Signature
	// returned says that Cosign has returned what was in sigs.
	returned bool
}

// inTime says whether an answer that comes now was worth waiting for.
func (c *call) inTime(grace time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.met.IsZero() || time.Since(c.met) <= grace
}

// Cosign asks witnesses in parallel to cosign one checkpoint that the log has signed, and
// returns when the policy's quorum is met, with a Grace also when that is over or all have
// answered. cp is what note states; lines of note that are not the log's own are not sent. No
// later call may be about a smaller tree or another one of the same size.
//
// The signatures are verified, each key's once, in the order of the policy. With quorum none
// there may be none at all. Those that come after the return are in Gathered.
//
// When the witnesses that are left cannot meet the quorum, or ctx ends first, the error is
// a *QuorumError. That is at once, with nobody asked, when those that can be asked now could not
// meet it. Once there is a Proof the error is a *ConflictError.
//
// Requests do not end with Cosign but by Timeout or Close: an answer that comes late still
// tells from which size to go on. Meanwhile that witness is busy; it can take part in a
// later call as soon as its request has ended.
func (f *Feed) Cosign(ctx context.Context, cp checkpoint.Checkpoint, note []byte) ([]checkpoint.Signature, error) {
	f.cosigning.Lock()
	defer f.cosigning.Unlock()
	f.endSpare()
	own, err := f.admit(cp, note)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if f.earliest(now, f.policy.Satisfied).After(now) {
		return nil, f.quorumError(nil)
	}
	c := &call{
		f: f, cp: cp, note: own, over: make(chan struct{}),
		pending: make(map[*endpoint]bool), problems: make(map[*endpoint]string),
		results: make(chan result, len(f.endpoints)), sigs: make(map[int]checkpoint.Signature),
	}
	defer close(c.over)
	first, spare := f.choose(now)
	c.spare = spare
	c.ask(first)
	if err := c.collect(ctx, patience(first)); err != nil {
		return nil, err
	}
	sigs := c.take()
	if f.grace == 0 {
		f.askSpare(c)
	}
	return sigs, nil
}

// ask begins to ask witnesses.
func (c *call) ask(endpoints []*endpoint) {
	for _, e := range endpoints {
		if c.f.start(func() { c.results <- e.serve(c) }) {
			c.pending[e] = true
			c.problems[e] = "has not answered yet"
		}
	}
}

// serve asks one URL on behalf of a call.
func (e *endpoint) serve(c *call) result {
	if !e.hold(c.over) {
		return result{e: e, problem: "an earlier request is still under way"}
	}
	defer e.release()
	if !e.askable(time.Now()) { // the request before this one failed
		return result{e: e, problem: e.status().Problem}
	}
	return e.request(c)
}

// request asks for the cosignatures of a call's checkpoint and adds them to it. The caller
// holds the slot.
func (e *endpoint) request(c *call) result {
	ctx := e.f.ctx
	got, bad := e.ask(ctx, c.cp, c.note)
	late := !c.inTime(e.f.grace)
	e.mu.Lock()
	e.late = late
	e.mu.Unlock()
	if bad == nil {
		c.add(got)
		return result{e: e, got: got, problem: e.cosigned(ctx, got)}
	}
	e.failed(ctx, bad)
	if bad.kind == contradiction {
		_ = e.accuse(ctx, bad.why) // stands in Proof
	}
	return result{e: e, problem: bad.why}
}

// collect waits until the quorum is met. Spare witnesses are asked when it cannot be met
// without them, or was not in the time that the first were given.
func (c *call) collect(ctx context.Context, patience time.Duration) error {
	f := c.f
	cosigned := make(map[string]bool)
	late := time.NewTimer(patience)
	defer late.Stop()
	var grace <-chan time.Time
	for {
		if p := f.Proof(); p != nil {
			return p
		} else if f.policy.Satisfied(cosigned) {
			if grace == nil {
				grace = c.quorum()
			}
			if f.grace == 0 || !punctual(c.pending) {
				return nil
			}
		} else if f.ctx.Err() != nil {
			return ErrClosed
		} else if !f.policy.Satisfied(with(cosigned, c.pending)) {
			if len(c.spare) == 0 {
				return f.quorumError(c.problems, slices.Collect(maps.Keys(cosigned))...)
			}
			c.askAll()
			continue
		}
		select {
		case r := <-c.results:
			delete(c.pending, r.e)
			c.problems[r.e] = r.problem
			for _, g := range r.got {
				cosigned[g.member.Name] = true
			}
		case <-late.C:
			c.askAll()
		case <-grace:
			setLate(c.pending)
		case <-ctx.Done():
			if grace != nil {
				return nil
			}
			return f.quorumError(c.problems, slices.Collect(maps.Keys(cosigned))...)
		}
	}
}

// quorum notes that the quorum is met, and returns when the grace is over.
func (c *call) quorum() <-chan time.Time {
	c.mu.Lock()
	c.met = time.Now()
	c.mu.Unlock()
	return time.After(c.f.grace)
}

// unanswered returns the problem of witnesses until they answer.
func unanswered(pending map[*endpoint]bool) map[*endpoint]string {
	problems := make(map[*endpoint]string)
	for e := range pending {
		problems[e] = "has not answered yet"
	}
	return problems
}

// setLate notes that the grace is over for witnesses that have not answered.
func setLate(pending map[*endpoint]bool) {
	for e := range pending {
		e.mu.Lock()
		e.late = true
		e.mu.Unlock()
	}
}

// punctual says whether any of the witnesses is worth the grace.
func punctual(pending map[*endpoint]bool) bool {
	for e := range pending {
		e.mu.Lock()
		late := e.late
		e.mu.Unlock()
		if !late {
			return true
		}
	}
	return false
}

// with returns names and those of the members of endpoints.
func with(names map[string]bool, endpoints map[*endpoint]bool) map[string]bool {
	all := make(map[string]bool)
	maps.Copy(all, names)
	for e := range endpoints {
		for _, m := range e.members {
			all[m.Name] = true
		}
	}
	return all
}

// earliest returns when the witnesses that can be asked are enough: now, or later. A
// witness with a request under way counts, because a call waits for it.
func (f *Feed) earliest(now time.Time, enough func(map[string]bool) bool) time.Time {
	times := make(map[string]time.Time)
	for _, e := range f.endpoints {
		for _, m := range e.members {
			if at, ok := e.ready(m, now); ok {
				times[m.Name] = at
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(times), func(a, b string) int { return times[a].Compare(times[b]) })
	ready := make(map[string]bool)
	if enough(ready) {
		return now
	}
	for _, name := range names {
		ready[name] = true
		if enough(ready) {
			return times[name]
		}
	}
	return now.Add(longestEnrolment)
}

// quorumError says who is missing. Problems are those of this call; for other witnesses
// what was last known is said.
func (f *Feed) quorumError(problems map[*endpoint]string, cosigned ...string) *QuorumError {
	return &QuorumError{
		Missing: f.missing(problems, cosigned),
		RetryAt: f.earliest(time.Now(), f.policy.Satisfied),
	}
}

func (f *Feed) missing(problems map[*endpoint]string, cosigned []string) []string {
	var missing []string
	for _, w := range f.policy.Witnesses {
		if slices.Contains(cosigned, w.Name) {
			continue
		}
		if why := f.reason(w.Name, problems); why != "" {
			missing = append(missing, w.Name+": "+why)
		}
	}
	return missing
}

// reason says why a witness has not cosigned; empty when it only was not asked, because the
// others could not meet the quorum with it.
func (f *Feed) reason(name string, problems map[*endpoint]string) string {
	for _, e := range f.endpoints {
		if !slices.Contains(e.names(), name) {
			continue
		}
		why := problems[e]
		if why == "" {
			why = e.status().Problem
		}
		if why == "" {
			if e.askable(time.Now()) {
				return ""
			}
			why = "its requests a day are used up for now"
		}
		return why + " (" + e.url + ")"
	}
	return "the policy has no URL for it"
}
