package lifecycle

import keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"

// useKind is what a use does with the key, in the terms of NIST SP 800-57 part 1: apply
// protection, or process what is protected already.
type useKind uint8

const (
	notUse useKind = iota
	process
	apply
)

// useOf gives the kind of a use. Re-encryption does both and is held to the stricter
// rule. Random numbers and hashes need no key.
func useOf(op keytrailv1.Operation) useKind {
	switch op {
	case keytrailv1.Operation_OPERATION_USE_ENCRYPT, keytrailv1.Operation_OPERATION_USE_SIGN,
		keytrailv1.Operation_OPERATION_USE_WRAP, keytrailv1.Operation_OPERATION_USE_MAC,
		keytrailv1.Operation_OPERATION_USE_DATAKEY, keytrailv1.Operation_OPERATION_USE_DERIVE,
		keytrailv1.Operation_OPERATION_USE_REENCRYPT:
		return apply
	case keytrailv1.Operation_OPERATION_USE_DECRYPT, keytrailv1.Operation_OPERATION_USE_VERIFY,
		keytrailv1.Operation_OPERATION_USE_UNWRAP, keytrailv1.Operation_OPERATION_USE_MAC_VERIFY:
		return process
	default:
		return notUse
	}
}

// allows says which uses a state allows. Suspended, deactivated and compromised keys may
// still process, NIST says, where the risk is accepted; before activation and while
// destruction is pending there is no use at all.
func allows(s keytrailv1.KeyState, use useKind) bool {
	switch s {
	case unknown, active:
		return true
	case suspended, deactivated, compromised:
		return use == process
	default:
		return false
	}
}

// use checks a use that took place against the state of the key and of each version
// named. Of a key or version about which nothing is known it shows that it is active.
func (a *application) use(op keytrailv1.Operation, use useKind) {
	a.unavailable = false
	if a.key.state == unknown {
		a.key.set(active)
	}
	if len(a.names) == 0 || masks(a.key.state) {
		a.checkUse(op, use, &a.key)
		return
	}
	for _, name := range a.names {
		v := a.version(name)
		if v.state == unknown {
			// As old as the key, for all that is known: it shares the key's fate.
			v.set(a.key.state)
		}
		a.checkUse(op, use, v)
	}
}

// masks says whether a state of the key rules whatever the states of its versions are.
// Deactivation and compromise do not: they were passed on to the versions that they
// concern, and a version made later stands for itself.
func masks(s keytrailv1.KeyState) bool {
	return s != active && s != deactivated && s != compromised
}

func (a *application) checkUse(op keytrailv1.Operation, use useKind, u *unit) {
	switch {
	case isDestroyed(u.state):
		a.onDestroyed(op, u)
	case !allows(u.state, use):
		a.forbiddenUse(op, u)
	}
}
