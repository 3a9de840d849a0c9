package feed

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
)

// maxTries is how many requests one checkpoint may take at one witness: one that may be
// answered with the size to begin from, a second from there, and a third for when the
// first was answered from an outdated state.
const maxTries = 3

// endpoint is a URL and what is known of the witness behind it.
type endpoint struct {
	f       *Feed
	url     string // without slash at the end
	label   string // the members' names
	members []*member
	// slot is held by whoever sends requests to the URL.
	slot chan struct{}

	mu sync.Mutex
	// size is what the witness cosigned last, as far as this process knows.
	size uint64
	// started says that the witness has stated its size to Start.
	started bool
	// late says that the last answer came after the grace, so that it is not waited for.
	late    bool
	backoff backoff
	budget  budget
	// excluded says that the witness contradicted the log.
	excluded bool
	// ahead is the larger size that the witness stated to Start; nil for none.
	ahead *AheadError

	problem     string
	lastSuccess time.Time
	latency     time.Duration
	// pace is the latency, smoothed.
	pace time.Duration
	// asked is when the last request was sent.
	asked time.Time
}

// member is a witness of the policy.
type member struct {
	policy.Witness
	index int // in the policy
	// absent is the time for which answers that lack this witness's line count as failures
	// of it alone; guarded by the endpoint's mu.
	absent backoff
}

func (e *endpoint) names() []string {
	names := make([]string, len(e.members))
	for i, m := range e.members {
		names[i] = m.Name
	}
	return names
}

// ready returns when a member can be asked: now, later, or never.
func (e *endpoint) ready(m *member, now time.Time) (at time.Time, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.excluded {
		return time.Time{}, false
	}
	at = e.budget.next(now)
	for _, b := range []backoff{e.backoff, m.absent} {
		if b.until.After(at) {
			at = b.until
		}
	}
	return at, true
}

// askable says whether a request may be sent now. The other keys of a URL are worth asking
// for while one stays absent.
func (e *endpoint) askable(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.excluded && !e.backoff.until.After(now) && !e.budget.next(now).After(now)
}

// hold waits for the slot and returns whether it was got before over was closed.
func (e *endpoint) hold(over <-chan struct{}) bool {
	select {
	case e.slot <- struct{}{}:
	case <-over:
		return false
	case <-e.f.ctx.Done():
		return false
	}
	select {
	case <-over:
		e.release()
		return false
	default:
		return true
	}
}

func (e *endpoint) release() { <-e.slot }

// took notes the time that an answer needed.
func (e *endpoint) took(d time.Duration) {
	e.f.metrics.seconds.WithLabelValues(e.label).Observe(d.Seconds())
	e.mu.Lock()
	e.latency = d
	if e.pace == 0 {
		e.pace = d
	}
	e.pace += (d - e.pace) / 8
	e.mu.Unlock()
}

// spend takes a request of the day.
func (e *endpoint) spend() *failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !e.budget.take(now) {
		return fail(spent, "spent", "its %.0f requests a day are used up", e.budget.perDay)
	}
	e.asked = now
	return nil
}

func (e *endpoint) lastSize() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.size
}

// setSize notes what the witness says or shows to have cosigned last.
func (e *endpoint) setSize(ctx context.Context, size uint64) {
	e.mu.Lock()
	was := e.size
	e.size = size
	e.mu.Unlock()
	if size < was {
		e.f.log.WarnContext(ctx, "a witness went back", slog.String("witness", e.label),
			slog.Uint64("size", size), slog.Uint64("cosigned", was))
	}
}

// ask asks for cosignatures of cp, catching the witness up from the size it is at. The
// caller holds the slot.
func (e *endpoint) ask(ctx context.Context, cp checkpoint.Checkpoint, note []byte) ([]cosignature, *failure) {
	old := e.lastSize()
	fresh := false       // old is from an answer to this call
	doubted := uint64(0) // the old size at which an answer was 422; 0 for none
	for range maxTries {
		a, bad := e.try(ctx, old, cp, note)
		if bad != nil {
			return nil, bad
		}
		switch {
		case a.status == http.StatusOK:
			e.setSize(ctx, cp.Size)
			return a.cosignatures, nil
		case a.status == http.StatusUnprocessableEntity && (fresh || old == 0):
			return nil, fail(contradiction, "", "says that size %d does not extend size %d, which it cosigned", cp.Size, old)
		case a.status == http.StatusUnprocessableEntity:
			// Its state may have been replaced meanwhile: have it say the size.
			doubted, old = old, 0
		case !a.sized:
			return nil, fail(contradiction, "", "refuses size %d after size %d as a conflict, and states no size", cp.Size, old)
		case a.size > cp.Size:
			return nil, fail(contradiction, "", "states that it cosigned size %d; this log has signed no more than %d", a.size, cp.Size)
		case a.size == old, doubted > 0 && a.size == doubted:
			return nil, fail(contradiction, "", "refuses size %d after size %d, and states that it cosigned size %d", cp.Size, old, a.size)
		default:
			old, fresh = a.size, true
			e.setSize(ctx, old)
		}
	}
	return nil, fail(outage, "", "states another size each time it is asked")
}

// try sends one request that begins from size old.
func (e *endpoint) try(ctx context.Context, old uint64, cp checkpoint.Checkpoint, note []byte) (*answer, *failure) {
	u := consistency.Bundle{OldSize: old, Checkpoint: note}
	if old > 0 && old < cp.Size {
		var err error
		if u.Hashes, err = e.f.tree.Consistency(ctx, old, cp.Size); err != nil {
			return nil, fail(outage, "", "this log cannot prove that size %d extends size %d: %v", cp.Size, old, err)
		}
	}
	if bad := e.spend(); bad != nil {
		return nil, bad
	}
	return e.post(ctx, cp, u)
}

// cosigned notes good lines, and returns what is missing of them, for people.
func (e *endpoint) cosigned(ctx context.Context, got []cosignature) string {
	now := time.Now()
	e.mu.Lock()
	e.backoff.reset()
	e.lastSuccess = now
	problem := e.missing(got, now)
	was := e.problem
	e.problem = problem
	e.mu.Unlock()
	e.tell(ctx, was, problem)
	return problem
}

// missing notes which members' lines an answer lacks. The caller holds mu.
func (e *endpoint) missing(got []cosignature, now time.Time) string {
	problem := ""
	for _, m := range e.members {
		if slices.ContainsFunc(got, func(c cosignature) bool { return c.member == m }) {
			m.absent.reset()
			continue
		}
		m.absent.fail(now, firstRetry, longestRetry)
		problem = "answers without a line of " + m.Name
	}
	return problem
}

// stated notes the answer to Start.
func (e *endpoint) stated(ctx context.Context) {
	e.mu.Lock()
	e.started = true
	e.backoff.reset()
	was := e.problem
	e.problem = ""
	e.mu.Unlock()
	e.tell(ctx, was, "")
}

// failed notes why the witness has not cosigned, and how long not to ask it.
func (e *endpoint) failed(ctx context.Context, bad *failure) {
	if bad.kind == notAsked {
		return
	}
	now := time.Now()
	e.mu.Lock()
	switch bad.kind {
	case stranger:
		e.backoff.fail(now, firstEnrolment, longestEnrolment)
	case contradiction:
		e.excluded = true
	case spent: // the budget itself says when there is more
	default:
		e.backoff.fail(now, firstRetry, longestRetry)
		e.backoff.pause(now, bad.wait)
	}
	was := e.problem
	e.problem = bad.why
	e.mu.Unlock()
	e.tell(ctx, was, bad.why)
}

// tell logs that a witness begins or ceases to have a problem.
func (e *endpoint) tell(ctx context.Context, was, problem string) {
	attrs := []any{slog.String("witness", e.label), slog.String("url", e.url)}
	switch {
	case was == "" && problem != "":
		e.f.log.WarnContext(ctx, "a witness does not cosign", append(attrs, slog.String("problem", problem))...)
	case was != "" && problem == "":
		e.f.log.InfoContext(ctx, "a witness cosigns again", attrs...)
	}
}
