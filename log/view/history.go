package view

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
)

// HistoryEvent is one event of a key and what it led to.
type HistoryEvent struct {
	*Entry
	// State of the key after the event.
	State *keytrailv1.LifecycleState
	// Findings say what is odd about the event.
	Findings []*keytrailv1.Finding
}

// HistoryPage is a part of a key's history.
type HistoryPage struct {
	// Events in the order of the log.
	Events []HistoryEvent
	// Next is the token of the next page, empty when nothing follows.
	Next string
	// Size is how many entries of the log the history covers: the same on all its pages.
	Size uint64
}

// foldsPerState is how many events are folded before a state is kept on the way to a page.
const foldsPerState = 4096

// History returns the events of a key (same tenant and key.ref) with the key's state after
// each, whatever the page size as if folded from its first event. Erased events are left
// out, of the state too. Pages are as those of List; ErrNotFound says that the key has no
// events.
//
// Going from page to page costs what is on the page. A token used again after the view was
// opened anew costs the whole history up to there, once.
func (v *View) History(ctx context.Context, tenant, keyRef string, limit int, pageToken string) (page *HistoryPage, err error) {
	switch {
	case tenant == "":
		return nil, &ArgumentError{"tenant", "is required"}
	case keyRef == "":
		return nil, &ArgumentError{"key_ref", "is required"}
	}
	r, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	question := appendString(appendString([]byte("history"), tenant), keyRef)
	limit, s, err := r.scan(limit, pageToken, question, false)
	if err != nil {
		return nil, err
	}
	s.all = []anyOf{{keyTerm(tenant, keyRef)}}
	h := history{view: v, filter: Filter{Tenant: tenant, KeyRef: keyRef}, limit: limit, start: s.next}
	h.page.Size = s.size
	h.resume(s)
	next, more, err := v.collect(ctx, s, limit, h.take)
	if err != nil {
		return nil, fmt.Errorf("reading a key's history: %w", err)
	}
	if more {
		h.keep(next)
		// Where erased events use the call up, it may end before the page begins.
		h.page.Next = token{max(next, h.start), s.size}.encode(question)
	}
	if pageToken == "" && !more && len(h.page.Events) == 0 {
		return nil, fmt.Errorf("%w: tenant %q has no events of key %q", ErrNotFound, tenant, keyRef)
	}
	return &h.page, nil
}

// history is one call of History.
type history struct {
	view   *View
	filter Filter
	limit  int
	// start is where the page begins; events before it are folded and not shown.
	start uint64
	page  HistoryPage

	fold       *lifecycle.Fold
	folded     int
	key        [32]byte
	generation uint64
}

// resume goes on from the last state that is known at or before the page.
func (h *history) resume(s *scan) {
	h.key = event.KeyID(h.filter.Tenant, h.filter.KeyRef)
	var at uint64
	var snapshot lifecycle.Snapshot
	at, snapshot, h.generation = h.view.states.before(h.key, h.start)
	s.next = at
	h.fold = lifecycle.Restore(snapshot)
}

// keep keeps the state before the entry next.
func (h *history) keep(next uint64) {
	h.view.states.put(h.key, next, h.fold.Snapshot(), h.generation)
}

// take is called with each event that may be one of the key, in order.
func (h *history) take(e *Entry) verdict {
	switch {
	case !h.filter.match(e.Event):
		return miss
	case len(h.page.Events) == h.limit:
		return stop
	}
	findings := h.fold.Apply(e.Event)
	if e.Index < h.start {
		if h.folded++; h.folded%foldsPerState == 0 {
			h.keep(e.Index + 1)
		}
		return pass
	}
	ev := HistoryEvent{Entry: e, State: h.fold.State(), Findings: findings}
	e.size += proto.Size(ev.State)
	h.page.Events = append(h.page.Events, ev)
	return take
}
