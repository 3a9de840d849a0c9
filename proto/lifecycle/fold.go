// Package lifecycle folds the events of one key, in the order of the log, into the state
// that they add up to, and says what is odd about each: it is what the log, a verifier
// and a rule all mean by "the state of the key".
//
// It is pure: no I/O, no clock. A Fold is for one goroutine at a time. The package is
// trusted with meaning only: the log records every well-formed event whatever a fold says
// of it.
//
// # What counts
//
// Only events that took place change the state: outcome success or partial, and not
// no_effect. What the source refused is no finding, for nothing happened. A birth that is
// pending leaves the key waiting for its material.
//
// An event that names versions concerns these versions; only births and rotations concern
// the key as well. An event without versions concerns the key as a whole. Suspension and
// scheduled destruction of the key mask the states of its versions, which come back with
// it; deactivation, compromise and destruction of the key are passed on to every version
// named so far, and a version made later stands for itself.
//
// The transitions are one table (see transitions). An illegal transition that the source
// reports as done is a finding. Some are done here too, a deactivated key activated again
// for one; none undoes a compromise, a destruction or the scheduling of one, for those
// are facts about the material that a later event cannot take back. A destroyed key lives
// again only by re-import or restoring (a finding), or when a key is made anew under its
// name: that is another key, so no finding, and its versions start afresh.
package lifecycle

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// TimeTolerance is how far an event may be older than one before it in the log without a
// finding: sources that serve many clients at once write their lines slightly out of
// order.
const TimeTolerance = 5 * time.Second

// unit is what has a state: the key as a whole, or one version of it.
type unit struct {
	// version is empty for the key as a whole.
	version string
	state   keytrailv1.KeyState
	// previous is the state before destruction was scheduled, unspecified otherwise.
	previous keytrailv1.KeyState
}

// Fold is a key's events so far. The zero value is a key without events.
type Fold struct {
	key         unit
	versions    []unit
	unavailable bool
	origin      keytrailv1.KeyOrigin
	// known says that an event showed the key to exist.
	known bool
	// last is the latest event time so far.
	last time.Time
}

// Snapshot is a fold between two events: what another fold needs to go on exactly so.
type Snapshot struct {
	State *keytrailv1.LifecycleState
	// Known says that an event showed the key to exist.
	Known bool
	// LastTime is the latest event time so far; zero before the first event.
	LastTime time.Time
}

// Restore returns a fold that goes on where the snapshot was taken.
func Restore(s Snapshot) *Fold {
	f := &Fold{
		key:         unit{state: s.State.GetState(), previous: s.State.GetPreviousState()},
		unavailable: s.State.GetUnavailable(),
		origin:      s.State.GetOrigin(),
		known:       s.Known,
		last:        s.LastTime,
	}
	for _, v := range s.State.GetVersions() {
		f.versions = append(f.versions, unit{version: v.GetVersion(), state: v.GetState(), previous: v.GetPreviousState()})
	}
	return f
}

// Snapshot returns the fold as it stands; it shares nothing with it.
func (f *Fold) Snapshot() Snapshot {
	return Snapshot{State: f.State(), Known: f.known, LastTime: f.last}
}

// State returns a copy of the state after the events so far.
func (f *Fold) State() *keytrailv1.LifecycleState {
	s := &keytrailv1.LifecycleState{
		State:         f.key.state,
		PreviousState: f.key.previous,
		Unavailable:   f.unavailable,
		Origin:        f.origin,
	}
	for _, v := range f.versions {
		s.Versions = append(s.Versions, &keytrailv1.VersionState{
			Version: v.version, State: v.state, PreviousState: v.previous,
		})
	}
	return s
}

// Apply takes the next event of the key, in log order, and returns what is odd about it:
// nil for most. The event must be valid (see package event); one without a key is
// ignored. It keeps nothing of ev.
func (f *Fold) Apply(ev *keytrailv1.KeyEvent) []*keytrailv1.Finding {
	if ev.GetKey() == nil {
		return nil
	}
	a := application{Fold: f, ev: ev, names: versionsOf(ev.Key)}
	a.time(ev.Time)
	switch ev.Outcome {
	case keytrailv1.Outcome_OUTCOME_SUCCESS, keytrailv1.Outcome_OUTCOME_PARTIAL:
		a.birth()
		if !ev.NoEffect {
			a.takePlace()
		}
	case keytrailv1.Outcome_OUTCOME_PENDING:
		a.pending()
	default:
		a.refused()
	}
	return a.findings
}

// application is one event on its way into the fold.
type application struct {
	*Fold
	ev *keytrailv1.KeyEvent
	// names are the versions that the event names.
	names    []string
	findings []*keytrailv1.Finding
}

func versionsOf(k *keytrailv1.Key) []string {
	if k.Version != "" {
		return []string{k.Version}
	}
	return k.Versions
}

func (a *application) time(ts *timestamppb.Timestamp) {
	t := ts.AsTime()
	if behind := a.last.Sub(t); behind > TimeTolerance && !a.last.IsZero() {
		a.timeBackwards(behind)
	}
	if t.After(a.last) {
		a.last = t
	}
}

// isBirth: the operations with which a key begins.
func isBirth(op keytrailv1.Operation) bool {
	switch op {
	case generate, importKey, registerExternal, restore:
		return true
	default:
		return false
	}
}

// birth looks at the first event that shows the key to exist. Events of other classes
// than these may come before a key does: steps of a ceremony, for one.
func (a *application) birth() {
	if a.known {
		return
	}
	switch event.Class(a.ev.Operation) {
	case "key", "use", "meta", "access":
	default:
		return
	}
	a.known = true
	born := isBirth(a.ev.Operation) || slices.ContainsFunc(a.ev.Also, isBirth)
	if !born || a.ev.NoEffect {
		a.noBirth()
	}
}

// takePlace applies an event that changed something, or used the key.
func (a *application) takePlace() {
	a.wordBefore()
	// What made the key comes before what was done with it.
	for _, op := range a.ev.Also {
		if isBirth(op) {
			a.step(op)
		}
	}
	a.step(a.ev.Operation)
	for _, op := range a.ev.Also {
		if !isBirth(op) {
			a.step(op)
		}
	}
	if a.origin == keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED {
		a.origin = a.ev.Key.Origin
	}
	a.wordAfter()
}

// pending: a birth that is under way leaves a key, or a version, without material.
func (a *application) pending() {
	op := a.ev.Operation
	if !isBirth(op) && op != rotate {
		return
	}
	if isBirth(op) && a.key.state == unknown {
		a.known = true
		a.key.set(pendingMaterial)
		a.origin = originAtBirth(op, a.ev.Key.Origin)
	}
	for _, name := range a.names {
		if v := a.version(name); v.state == unknown {
			v.set(pendingMaterial)
		}
	}
}

// refused: nothing happened, but the source may say why it could not.
func (a *application) refused() {
	if isUnavailable(a.ev.Key.StateAfter) {
		a.unavailable = true
	}
}

// version returns the unit of a version, new if it was not named before. The pointer is
// good until the next call.
func (f *Fold) version(name string) *unit {
	for i := range f.versions {
		if f.versions[i].version == name {
			return &f.versions[i]
		}
	}
	f.versions = append(f.versions, unit{version: name})
	return &f.versions[len(f.versions)-1]
}

// set moves a unit to a state and keeps track of the one before a scheduled destruction.
func (u *unit) set(to keytrailv1.KeyState) {
	switch to {
	case u.state:
	case destroyPending:
		u.previous = u.state
	default:
		u.previous = unknown
	}
	u.state = to
}
