package lifecycle

import (
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

const (
	unknown              = keytrailv1.KeyState_KEY_STATE_UNSPECIFIED
	pendingMaterial      = keytrailv1.KeyState_KEY_STATE_PENDING_MATERIAL
	preActive            = keytrailv1.KeyState_KEY_STATE_PRE_ACTIVE
	active               = keytrailv1.KeyState_KEY_STATE_ACTIVE
	suspended            = keytrailv1.KeyState_KEY_STATE_SUSPENDED
	deactivated          = keytrailv1.KeyState_KEY_STATE_DEACTIVATED
	compromised          = keytrailv1.KeyState_KEY_STATE_COMPROMISED
	destroyPending       = keytrailv1.KeyState_KEY_STATE_DESTROY_PENDING
	destroyed            = keytrailv1.KeyState_KEY_STATE_DESTROYED
	destroyedCompromised = keytrailv1.KeyState_KEY_STATE_DESTROYED_COMPROMISED

	states = int(destroyedCompromised) + 1
)

const (
	generate         = keytrailv1.Operation_OPERATION_KEY_GENERATE
	registerExternal = keytrailv1.Operation_OPERATION_KEY_REGISTER_EXTERNAL
	importKey        = keytrailv1.Operation_OPERATION_KEY_IMPORT
	restore          = keytrailv1.Operation_OPERATION_KEY_RESTORE
	rotate           = keytrailv1.Operation_OPERATION_KEY_ROTATE
	activate         = keytrailv1.Operation_OPERATION_KEY_ACTIVATE
	suspend          = keytrailv1.Operation_OPERATION_KEY_SUSPEND
	resume           = keytrailv1.Operation_OPERATION_KEY_RESUME
	deactivate       = keytrailv1.Operation_OPERATION_KEY_DEACTIVATE
	compromise       = keytrailv1.Operation_OPERATION_KEY_COMPROMISE
	schedule         = keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE
	cancel           = keytrailv1.Operation_OPERATION_KEY_DESTROY_CANCEL
	destroy          = keytrailv1.Operation_OPERATION_KEY_DESTROY
	export           = keytrailv1.Operation_OPERATION_KEY_EXPORT
	backup           = keytrailv1.Operation_OPERATION_KEY_BACKUP
	replicate        = keytrailv1.Operation_OPERATION_KEY_REPLICATE
	readPublic       = keytrailv1.Operation_OPERATION_KEY_READ_PUBLIC
	rotationConfig   = keytrailv1.Operation_OPERATION_KEY_ROTATION_CONFIG
)

// cell is what an operation does in a state: the low bits are the state that it leads to,
// 0 for none, the high bits what else is to be said.
type cell uint8

const (
	stateBits = 0x0f
	kindBits  = 0xf0

	stay = cell(0)    // allowed, nothing changes
	wrng = cell(0x10) // illegal, nothing changes

	actv = cell(active)
	susp = cell(suspended)
	deac = cell(deactivated)
	comp = cell(compromised)
	pend = cell(destroyPending)
	dest = cell(destroyed)
	dcom = cell(destroyedCompromised)

	xact = wrng | actv // illegal, and so it is all the same
	xsus = wrng | susp
	xdea = wrng | deac

	gone = cell(0x20) // an event on something destroyed
	anew = cell(0x30) // another key under the name of a destroyed one
	back = cell(0x40) // destroyed material returns, compromised if it was
	prev = cell(0x50) // back to before the scheduling, in the source's way
	mark = cell(0x60) // stays scheduled for destruction, compromised underneath
	shel = cell(0x70) // gone, unless only imported material is: its shell lives on
)

// transitions is the life of a key, or of one version. The columns are the states before:
// nothing known, pending material, pre-active, active, suspended, deactivated,
// compromised, destruction pending, destroyed, destroyed and compromised.
//
// They are those of NIST SP 800-57 part 1 section 7 and KMIP 2.1 section 4, widened by
// what real sources do: they make keys active at once (one that makes them pre-active or
// suspended says so in state_after), destroy them from any state, and take no offence at
// an import into a key that has its material. Operations that are not here change no
// state and are odd in none; for use see uses.
var transitions = map[keytrailv1.Operation][states]cell{
	//                none  pm    pre   act   sus   dea   com   pen   des   dcom
	generate:         {actv, actv, wrng, wrng, wrng, wrng, wrng, wrng, anew, anew},
	registerExternal: {actv, actv, wrng, wrng, wrng, wrng, wrng, wrng, anew, anew},
	importKey:        {actv, actv, stay, stay, stay, wrng, wrng, wrng, back, back},
	restore:          {actv, actv, stay, stay, stay, stay, stay, stay, back, back},
	rotate:           {actv, actv, wrng, stay, wrng, stay, stay, wrng, gone, gone},
	activate:         {actv, xact, actv, stay, actv, xact, wrng, wrng, gone, gone},
	suspend:          {susp, xsus, susp, susp, stay, wrng, wrng, wrng, gone, gone},
	resume:           {actv, wrng, xact, stay, actv, wrng, wrng, wrng, gone, gone},
	deactivate:       {deac, xdea, xdea, deac, deac, stay, stay, wrng, gone, gone},
	compromise:       {comp, comp, comp, comp, comp, comp, stay, mark, dcom, stay},
	schedule:         {pend, pend, pend, pend, pend, pend, pend, stay, shel, shel},
	cancel:           {prev, wrng, wrng, wrng, wrng, wrng, wrng, prev, shel, shel},
	destroy:          {dest, dest, dest, dest, dest, dest, dcom, dest, stay, stay},
	export:           {stay, stay, stay, stay, stay, stay, stay, stay, gone, gone},
	backup:           {stay, stay, stay, stay, stay, stay, stay, stay, gone, gone},
	replicate:        {stay, stay, stay, stay, stay, stay, stay, stay, gone, gone},
	readPublic:       {stay, stay, stay, stay, stay, stay, stay, stay, gone, gone},
	rotationConfig:   {stay, stay, stay, stay, stay, stay, stay, stay, gone, gone},
}

// step applies one operation of the event to what it concerns.
func (a *application) step(op keytrailv1.Operation) {
	if use := useOf(op); use != notUse {
		a.use(op, use)
		return
	}
	row, ok := transitions[op]
	if !ok {
		return
	}
	whole := len(a.names) == 0 || concernsKey(op) || op == activate && a.key.state == preActive
	if c := row[a.key.state]; whole || c == gone || c == shel {
		a.wholeKey(op, row)
		if c == gone || c == shel {
			return
		}
	}
	for _, name := range a.names {
		a.oneVersion(op, name)
	}
}

// concernsKey: these make a version, and the key with it.
func concernsKey(op keytrailv1.Operation) bool { return isBirth(op) || op == rotate }

func isDestroyed(s keytrailv1.KeyState) bool { return s == destroyed || s == destroyedCompromised }

func (a *application) wholeKey(op keytrailv1.Operation, row [states]cell) {
	c := row[a.key.state]
	if op == generate && c == wrng && a.allNew() {
		// Some sources generate a further version where others rotate.
		c = transitions[rotate][a.key.state]
	}
	if c == back && op == importKey && a.ownMaterial() {
		c = anew
	}
	if op == destroy && endsImportedMaterial(a.ev) {
		a.origin = keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	}
	a.carryOut(op, &a.key, c)
	switch {
	case c == anew || c == back:
		// Which versions came back is not told.
		a.versions = nil
		if c == anew {
			a.origin = originAtBirth(op, a.ev.Key.Origin)
		}
	case isBirth(op) && a.origin == keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED:
		a.origin = originAtBirth(op, a.ev.Key.Origin)
	case op == deactivate || op == compromise || op == destroy:
		a.passOn(op)
	}
}

// ownMaterial: the key is known not to have been imported, so that what is imported under
// its name after its destruction is another key.
func (a *application) ownMaterial() bool {
	return a.origin != keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED &&
		a.origin != keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
}

// allNew: the event names versions, none of which has been made before.
func (a *application) allNew() bool {
	for _, name := range a.names {
		for _, v := range a.versions {
			if v.version == name && v.state != unknown && v.state != pendingMaterial {
				return false
			}
		}
	}
	return len(a.names) > 0
}

// passOn does to every version, without findings, what was done to the key as a whole.
func (a *application) passOn(op keytrailv1.Operation) {
	for i := range a.versions {
		v := &a.versions[i]
		if c := transitions[op][v.state]; c&kindBits != gone {
			a.move(op, v, c)
		}
	}
}

func (a *application) oneVersion(op keytrailv1.Operation, name string) {
	v := a.version(name)
	row := transitions[op]
	if op == generate || op == registerExternal {
		// That the version exists already is said of the key.
		row = transitions[rotate]
	}
	a.carryOut(op, v, row[v.state])
}

// isShell: of an imported key only the material was destroyed, as far as is known. AWS
// keeps such a key, takes its material back and schedules its deletion.
func (a *application) isShell(u *unit) bool {
	return isDestroyed(u.state) && a.origin == keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
}

// endsImportedMaterial: the ends that AWS KMS has for imported material only.
func endsImportedMaterial(ev *keytrailv1.KeyEvent) bool {
	return ev.SourceOperation == "DeleteImportedKeyMaterial" || ev.SourceOperation == "DeleteExpiredKeyMaterial"
}

// carryOut says what is odd about a transition and makes it.
func (a *application) carryOut(op keytrailv1.Operation, u *unit, c cell) {
	switch {
	case c == gone, c == shel && !a.isShell(u):
		a.onDestroyed(op, u)
	case c == back:
		a.reimport(op, u)
	case c&kindBits == wrng:
		a.illegal(op, u)
	case op == destroy && a.unscheduled(u):
		a.unscheduledDestroy(op, u)
	}
	a.move(op, u, c)
}

// move makes a transition.
func (a *application) move(op keytrailv1.Operation, u *unit, c cell) {
	switch c {
	case anew:
		u.set(a.afterBirth(op))
	case back:
		if u.state == destroyedCompromised {
			u.set(compromised)
		} else {
			u.set(active)
		}
	case prev:
		u.set(a.afterCancel(u.previous))
	case mark:
		u.previous = compromised
	case dest:
		if u.previous == compromised {
			c = dcom
		}
		u.set(keytrailv1.KeyState(c))
	case actv:
		if isBirth(op) || op == rotate {
			u.set(a.afterBirth(op))
			return
		}
		u.set(active)
	default:
		if to := keytrailv1.KeyState(c & stateBits); to != unknown {
			u.set(to)
		}
	}
}

// afterBirth is the state in which the source leaves what it just made: what it says
// itself, else active. A key that was made for material from elsewhere waits for it.
func (a *application) afterBirth(op keytrailv1.Operation) keytrailv1.KeyState {
	if w, ok := wordOf(a.ev.Key.StateAfter); ok {
		switch w.state {
		case pendingMaterial, preActive, active, suspended, deactivated:
			return w.state
		default:
		}
	}
	foreign := a.ev.Key.Origin == keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED || a.ev.Key.Origin == keytrailv1.KeyOrigin_KEY_ORIGIN_EXTERNAL
	if op == generate && foreign {
		return pendingMaterial
	}
	return active
}

// afterCancel is the state to which cancelling a destruction leads. AWS and Google leave
// the key disabled, whatever it was; other sources make it what it was.
func (a *application) afterCancel(previous keytrailv1.KeyState) keytrailv1.KeyState {
	if previous == compromised {
		return compromised
	}
	if w, ok := wordOf(a.ev.Key.StateAfter); ok && w.state != destroyPending && !isDestroyed(w.state) {
		return w.state
	}
	system := a.ev.GetSource().GetSystem()
	disables := system == "aws.kms" || strings.HasPrefix(system, "gcp.")
	if disables && previous != pendingMaterial {
		return suspended
	}
	return previous
}

// unscheduled: destroyed at once, at a source that otherwise schedules. Imported material
// may be destroyed at once there too, and expires.
func (a *application) unscheduled(u *unit) bool {
	switch {
	case u.state == unknown || u.state == destroyPending || isDestroyed(u.state):
		return false
	case a.key.state == destroyPending:
		return false
	}
	system := a.ev.GetSource().GetSystem()
	if system != "aws.kms" && !strings.HasPrefix(system, "gcp.") && !strings.HasPrefix(system, "azure.") {
		return false
	}
	if a.ev.SourceOperation == "DeleteKey" {
		return true
	}
	return a.origin != keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
}

func originAtBirth(op keytrailv1.Operation, told keytrailv1.KeyOrigin) keytrailv1.KeyOrigin {
	if told != keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED {
		return told
	}
	switch op {
	case generate:
		return keytrailv1.KeyOrigin_KEY_ORIGIN_GENERATED
	case importKey:
		return keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED
	case registerExternal:
		return keytrailv1.KeyOrigin_KEY_ORIGIN_EXTERNAL
	default:
		return keytrailv1.KeyOrigin_KEY_ORIGIN_UNSPECIFIED
	}
}
