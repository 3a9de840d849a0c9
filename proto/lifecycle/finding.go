package lifecycle

import (
	"fmt"
	"time"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// StateName is a state's name for people, as "scheduled for destruction".
func StateName(s keytrailv1.KeyState) string {
	switch s {
	case unknown:
		return "unknown"
	case pendingMaterial:
		return "waiting for material"
	case preActive:
		return "pre-active"
	case active:
		return "active"
	case suspended:
		return "suspended"
	case deactivated:
		return "deactivated"
	case compromised:
		return "compromised"
	case destroyPending:
		return "scheduled for destruction"
	case destroyed:
		return "destroyed"
	case destroyedCompromised:
		return "destroyed and compromised"
	}
	return fmt.Sprintf("state(%d)", int32(s))
}

// name is a unit's name in a sentence.
func (u *unit) name() string {
	if u.version == "" {
		return "the key"
	}
	return "version " + u.version
}

// find adds a finding on a unit in the state that it has before the operation.
func (a *application) find(kind keytrailv1.Finding_Kind, u *unit, op keytrailv1.Operation, format string, args ...any) {
	a.findings = append(a.findings, &keytrailv1.Finding{
		Kind: kind, Version: u.version, State: u.state, Operation: op, Text: fmt.Sprintf(format, args...),
	})
}

func (a *application) illegal(op keytrailv1.Operation, u *unit) {
	a.find(keytrailv1.Finding_KIND_ILLEGAL_TRANSITION, u, op,
		"%s succeeded although %s was %s, which does not allow it.", event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) forbiddenUse(op keytrailv1.Operation, u *unit) {
	a.find(keytrailv1.Finding_KIND_FORBIDDEN_USE, u, op,
		"%s succeeded although %s was %s, which forbids this use.", event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) onDestroyed(op keytrailv1.Operation, u *unit) {
	a.find(keytrailv1.Finding_KIND_USE_AFTER_DESTROY, u, op,
		"%s succeeded although %s was %s: it was not, or it came back unseen.", event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) reimport(op keytrailv1.Operation, u *unit) {
	a.find(keytrailv1.Finding_KIND_REIMPORT, u, op,
		"%s brought %s back, which was %s.", event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) unscheduledDestroy(op keytrailv1.Operation, u *unit) {
	a.find(keytrailv1.Finding_KIND_UNSCHEDULED_DESTROY, u, op,
		"%s destroyed %s, which was %s, without the scheduling that its source requires.", event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) noBirth() {
	op := a.ev.Operation
	a.find(keytrailv1.Finding_KIND_NO_BIRTH, &a.key, op,
		"The first event of the key is %s: the log does not hold how the key came to be.", event.OperationName(op))
}

func (a *application) stateMismatch(u *unit, word, when string) {
	op := a.ev.Operation
	a.find(keytrailv1.Finding_KIND_STATE_MISMATCH, u, op,
		"The source calls the state %q %s %s; by the events, %s was %s.", word, when, event.OperationName(op), u.name(), StateName(u.state))
}

func (a *application) timeBackwards(behind time.Duration) {
	op := a.ev.Operation
	a.find(keytrailv1.Finding_KIND_TIME_BACKWARDS, &a.key, op,
		"%s happened %s before an event that stands earlier in the log.", event.OperationName(op), behind)
}
