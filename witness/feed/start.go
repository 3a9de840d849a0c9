package feed

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// AheadError means that a witness has cosigned a larger tree than this log has signed: the
// log was set back, as by restoring a backup, or another copy of it has published.
type AheadError struct {
	// Witness is the name in the policy, several with commas between; URL is where it was asked.
	Witness, URL string
	// Size is the one that the witness cosigned last, Ours that of the checkpoint that it
	// was asked about.
	Size, Ours uint64
	// Note is a checkpoint of more than Ours entries with a verified signature of the log,
	// which the witness's monitoring endpoint gave as proof; nil when it gave none. Then
	// there is only the witness's word.
	Note []byte
}

// Error says who is ahead.
func (e *AheadError) Error() string {
	proof := "and shows no checkpoint to prove it"
	if e.Note != nil {
		proof = "and shows a checkpoint signed by this log to prove it"
	}
	return fmt.Sprintf("witness %s (%s) has cosigned %d entries of this log, which has signed only %d, %s", e.Witness, e.URL, e.Size, e.Ours, proof)
}

// Start asks all witnesses which size they cosigned last, as a log must before it signs
// anything after a start. cp must be the newest state that the log knows to have signed,
// published or not, and note its signed note, as for Cosign. A witness that never cosigned
// anything may cosign it; that is no harm, and the cosignature is dropped. Of a log that has
// signed nothing but, perhaps, the empty tree the monitoring endpoints are read instead.
//
// It returns nil once those that have answered include a member of every set of witnesses
// that satisfies the quorum, and the others have had 20 ms to answer, too: whatever was
// published before, one of them would know. A witness that does not know the log (403, 404)
// has not answered that. With quorum none no set needs any witness, and nil means that all
// have been asked.
//
// The error is an *AheadError at once when a witness has cosigned more than cp.Size, a
// *QuorumError when too few answered or ctx ends. Called again it asks only those that have not
// answered.
func (f *Feed) Start(ctx context.Context, cp checkpoint.Checkpoint, note []byte) error {
	if err := f.ahead(); err != nil {
		return err
	}
	own, err := f.admit(cp, note)
	if err != nil {
		return err
	}
	pending := make(map[*endpoint]bool)
	results := make(chan result, len(f.endpoints))
	over := make(chan struct{})
	defer close(over)
	now := time.Now()
	if f.earliest(now, f.covered).After(now) {
		return f.startError(nil)
	}
	for _, e := range f.endpoints {
		if !e.hasStarted() && e.askable(now) && f.start(func() { results <- e.serveStart(over, cp, own) }) {
			pending[e] = true
		}
	}
	return f.collectStart(ctx, pending, results)
}

// collectStart waits for the answers to Start.
func (f *Feed) collectStart(ctx context.Context, pending map[*endpoint]bool, results <-chan result) error {
	problems := unanswered(pending)
	var grace <-chan time.Time
	for {
		switch {
		case f.ctx.Err() != nil:
			return ErrClosed
		case !f.covered(with(nil, pending)):
			return f.startError(problems)
		case f.covered(nil) && len(pending) == 0:
			return nil
		case f.covered(nil) && grace == nil && f.policy.Quorum != policy.None:
			timer := time.NewTimer(startGrace)
			defer timer.Stop()
			grace = timer.C
		}
		select {
		case r := <-results:
			delete(pending, r.e)
			problems[r.e] = r.problem
			if err := f.ahead(); err != nil {
				return err
			}
			if p := f.Proof(); p != nil {
				return p
			}
		case <-grace:
			setLate(pending)
			return nil
		case <-ctx.Done():
			if grace != nil {
				return nil
			}
			return f.startError(problems)
		}
	}
}

// ahead returns an *AheadError if a witness stated a larger size.
func (f *Feed) ahead() error {
	for _, e := range f.endpoints {
		e.mu.Lock()
		ahead := e.ahead
		e.mu.Unlock()
		if ahead != nil {
			return ahead
		}
	}
	return nil
}

func (e *endpoint) hasStarted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.started
}

// covered says whether every set of witnesses that satisfies the quorum has a member that
// stated its size, if these others do so too. That is when those that are silent do not
// satisfy it by themselves. Without a URL no witness was ever asked by this log. With
// quorum none it is always true.
func (f *Feed) covered(others map[string]bool) bool {
	silent := make(map[string]bool)
	for _, e := range f.endpoints {
		if e.hasStarted() {
			continue
		}
		for _, m := range e.members {
			silent[m.Name] = !others[m.Name]
		}
	}
	return f.policy.Quorum == policy.None || !f.policy.Satisfied(silent)
}

func (f *Feed) startError(problems map[*endpoint]string) *QuorumError {
	var sized []string
	for _, e := range f.endpoints {
		if e.hasStarted() {
			sized = append(sized, e.names()...)
		}
	}
	return &QuorumError{
		Missing: f.missing(problems, sized),
		RetryAt: f.earliest(time.Now(), f.covered),
	}
}

// serveStart asks one URL for the size that it cosigned last.
func (e *endpoint) serveStart(over <-chan struct{}, cp checkpoint.Checkpoint, note []byte) result {
	if !e.hold(over) {
		return result{e: e, problem: "an earlier request is still under way"}
	}
	defer e.release()
	if e.hasStarted() || !e.askable(time.Now()) { // the request before this one has ended meanwhile
		return result{e: e, problem: e.status().Problem}
	}
	ctx := e.f.ctx
	if cp.Size == 0 {
		return e.serveEmpty(ctx)
	}
	a, bad := e.try(ctx, 0, cp, note)
	var ahead *AheadError
	switch {
	case bad != nil:
	case a.status == http.StatusOK:
		e.setSize(ctx, cp.Size)
	case a.status == http.StatusConflict && a.sized && a.size > cp.Size:
		ahead = &AheadError{Witness: e.label, URL: e.url, Size: a.size, Ours: cp.Size}
		bad = fail(contradiction, "", "has cosigned size %d; this log has signed only %d", a.size, cp.Size)
	case a.status == http.StatusConflict && a.sized && a.size > 0:
		e.setSize(ctx, a.size)
	default:
		bad = fail(contradiction, "", "refuses size %d after size 0, and states no size that it cosigned", cp.Size)
	}
	if bad == nil {
		e.stated(ctx)
		return result{e: e}
	}
	e.failed(ctx, bad)
	if bad.kind == contradiction {
		p := e.accuse(ctx, bad.why)
		if ahead != nil && p != nil && p.Size > cp.Size {
			ahead.Note = p.Note
		}
	}
	e.mu.Lock()
	e.ahead = ahead
	e.mu.Unlock()
	return result{e: e, problem: bad.why}
}

// serveEmpty asks one URL whether the witness has cosigned anything of a log that has signed
// nothing but, perhaps, the empty tree. It reads the monitoring endpoint: a witness that
// cosigned the empty tree may refuse every larger one afterwards (sunlight v0.8.1), and no
// checkpoint of a log without entries is of use to anyone. A witness that does not serve
// checkpoints here is believed to have none; the first real checkpoint then finds out.
func (e *endpoint) serveEmpty(ctx context.Context) result {
	r, err := e.f.send(ctx, http.MethodGet, e.url+e.f.path, nil)
	var bad *failure
	switch {
	case err != nil:
		bad = fail(outage, "no_answer", "%v", err)
	case r.status >= http.StatusInternalServerError || r.status == http.StatusTooManyRequests:
		bad = fail(outage, "server_error", "its monitoring endpoint answered %d", r.status)
	case r.status != http.StatusOK:
		// It has nothing (404), or serves nothing here.
	default:
		theirs, err := e.f.signed(r.body)
		if err != nil || theirs.Size == 0 {
			break // not of this log: it says nothing about it
		}
		bad = fail(contradiction, "", "has cosigned size %d; this log has signed nothing", theirs.Size)
		e.mu.Lock()
		e.ahead = &AheadError{Witness: e.label, URL: e.url, Size: theirs.Size, Note: r.body}
		e.mu.Unlock()
	}
	if bad == nil {
		e.stated(ctx)
		return result{e: e}
	}
	e.failed(ctx, bad)
	return result{e: e, problem: bad.why}
}
