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
	cp   checkpoint.Checkpoint
	note []byte
	// over is closed when Cosign returns; requests that are under way go on.
	over chan struct{}

	mu  sync.Mutex
	met time.Time // when the quorum was met; zero before
}

// inTime says whether an answer that comes now was worth waiting for.
func (c *call) inTime(grace time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.met.IsZero() || time.Since(c.met) <= grace
}

// Cosign asks every witness that can be asked now, in parallel, to cosign one checkpoint
// that the log has signed. cp is what note states; lines of note that are not the log's own
// are not sent. No later call may be about a smaller tree or another one of the same size.
//
// It returns as soon as the policy's quorum is met and the grace is over or all have
// answered. The grace is spent only on witnesses whose last answer came in time. The
// signatures are verified, each key's once, in the order of the policy. With quorum none they may be
// none at all.
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
	own, err := f.admit(cp, note)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if f.earliest(now, f.policy.Satisfied).After(now) {
		return nil, f.quorumError(nil)
	}
	c := &call{cp: cp, note: own, over: make(chan struct{})}
	defer close(c.over)
	results := make(chan result, len(f.endpoints))
	pending := make(map[*endpoint]bool)
	for _, e := range f.endpoints {
		if e.askable(now) && f.start(func() { results <- e.serve(c) }) {
			pending[e] = true
		}
	}
	return f.collect(ctx, c, pending, results)
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
	ctx := e.f.ctx
	got, bad := e.ask(ctx, c.cp, c.note)
	late := !c.inTime(e.f.grace)
	e.mu.Lock()
	e.late = late
	e.mu.Unlock()
	if bad == nil {
		return result{e: e, got: got, problem: e.cosigned(ctx, got)}
	}
	e.failed(ctx, bad)
	if bad.kind == contradiction {
		_ = e.accuse(ctx, bad.why) // stands in Proof
	}
	return result{e: e, problem: bad.why}
}

// collect waits for the answers to a call.
func (f *Feed) collect(ctx context.Context, c *call, pending map[*endpoint]bool, results <-chan result) ([]checkpoint.Signature, error) {
	cosigned := make(map[string]bool)
	sigs := make(map[int]checkpoint.Signature)
	problems := unanswered(pending)
	var grace <-chan time.Time
	for {
		if p := f.Proof(); p != nil {
			return nil, p
		} else if f.policy.Satisfied(cosigned) {
			if grace == nil {
				c.mu.Lock()
				c.met = time.Now()
				c.mu.Unlock()
				timer := time.NewTimer(f.grace)
				defer timer.Stop()
				grace = timer.C
			}
			if !punctual(pending) {
				return inOrder(sigs), nil
			}
		} else if f.ctx.Err() != nil {
			return nil, ErrClosed
		} else if !f.policy.Satisfied(with(cosigned, pending)) {
			return nil, f.quorumError(problems, slices.Collect(maps.Keys(cosigned))...)
		}
		select {
		case r := <-results:
			delete(pending, r.e)
			problems[r.e] = r.problem
			for _, g := range r.got {
				cosigned[g.member.Name] = true
				sigs[g.member.index] = g.sig
			}
		case <-grace:
			setLate(pending)
		case <-ctx.Done():
			if grace != nil {
				return inOrder(sigs), nil
			}
			return nil, f.quorumError(problems, slices.Collect(maps.Keys(cosigned))...)
		}
	}
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

// inOrder returns the signatures in the order of the policy.
func inOrder(sigs map[int]checkpoint.Signature) []checkpoint.Signature {
	var out []checkpoint.Signature
	for _, i := range slices.Sorted(maps.Keys(sigs)) {
		out = append(out, sigs[i])
	}
	return out
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
