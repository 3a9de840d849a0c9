package lifecycle

import (
	"strings"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// word is what a source's own word for a state means.
type word struct {
	// state is what the word stands for.
	state keytrailv1.KeyState
	// also are states that the word does not contradict: a source without a state for
	// compromise calls such a key enabled or disabled.
	also []keytrailv1.KeyState
}

// says reports whether the word can be said of a state.
func (w word) says(s keytrailv1.KeyState) bool {
	if s == w.state {
		return true
	}
	for _, other := range w.also {
		if s == other {
			return true
		}
	}
	return false
}

// wordOf reads the words of AWS KMS, Google Cloud KMS, KMIP and this schema, in any case
// and with or without separators. Others are not understood, and ignored.
func wordOf(s string) (word, bool) {
	switch plain(s) {
	case "enabled": // AWS, Google
		return word{active, []keytrailv1.KeyState{preActive, deactivated, compromised}}, true
	case "disabled": // AWS, Google
		return word{suspended, []keytrailv1.KeyState{preActive, deactivated, compromised}}, true
	case "pendingdeletion", "pendingreplicadeletion", // AWS
		"destroyscheduled", // Google
		"destroypending":
		return word{state: destroyPending}, true
	case "pendingimport": // AWS, Google; AWS says it of a key whose material was deleted too
		return word{pendingMaterial, []keytrailv1.KeyState{destroyed, destroyedCompromised}}, true
	case "creating", // AWS
		"pendinggeneration", "importfailed", // Google
		"pendingmaterial":
		return word{state: pendingMaterial}, true
	case "preactive": // KMIP
		return word{state: preActive}, true
	case "active": // KMIP
		return word{state: active}, true
	case "suspended":
		return word{state: suspended}, true
	case "deactivated": // KMIP
		return word{state: deactivated}, true
	case "compromised": // KMIP
		return word{state: compromised}, true
	case "destroyed": // KMIP, Google
		return word{destroyed, []keytrailv1.KeyState{destroyedCompromised}}, true
	case "destroyedcompromised": // KMIP
		return word{state: destroyedCompromised}, true
	}
	return word{}, false
}

func plain(s string) string {
	s = strings.TrimPrefix(strings.ToLower(s), "key_state_")
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == ' ' {
			return -1
		}
		return r
	}, s)
}

// isUnavailable: AWS says it of a key whose key store is disconnected. It is no state of
// the key's life.
func isUnavailable(s string) bool { return plain(s) == "unavailable" }

// wordBefore compares the source's word for the state before the event with the events so
// far. A birth has no state before it.
func (a *application) wordBefore() {
	if isBirth(a.ev.Operation) && a.key.state == unknown {
		return
	}
	a.hear(a.ev.Key.StateBefore, "before")
}

func (a *application) wordAfter() {
	a.hear(a.ev.Key.StateAfter, "after")
}

// hear takes the source's word for the state of what the event concerns: it fills in what
// is not known, and where it contradicts the events it is a finding, and believed. Only
// a compromise or a destruction is not taken back on a word.
func (a *application) hear(s, when string) {
	if s == "" {
		return
	}
	if isUnavailable(s) {
		a.unavailable = true
		return
	}
	w, ok := wordOf(s)
	if !ok {
		return
	}
	a.unavailable = false
	if len(a.names) == 0 {
		a.believe(&a.key, w, s, when)
		return
	}
	if w.says(a.key.state) && masks(a.key.state) {
		return
	}
	for _, name := range a.names {
		a.believe(a.version(name), w, s, when)
	}
}

func (a *application) believe(u *unit, w word, s, when string) {
	if w.says(u.state) || a.isShell(u) && w.state != active {
		return
	}
	if u.state != unknown {
		a.stateMismatch(u, s, when)
	}
	if u.state != compromised && !isDestroyed(u.state) {
		u.set(w.state)
	}
}
