package monitor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind says what an alarm is about.
type Kind string

// The kinds of alarm.
const (
	// KindFork is two signed trees of the log that contradict each other, or another file
	// in the evidence folder that convicts it. It stays until that file is moved away.
	KindFork Kind = "fork"
	// KindSplitView is a fork found by comparing with what others were shown; without
	// evidence, a larger tree that others were shown and the log keeps back.
	KindSplitView Kind = "split-view"
	// KindWentBack is a smaller tree than one seen before.
	KindWentBack Kind = "went-back"
	// KindBadSignature is a checkpoint with a signature that does not verify.
	KindBadSignature Kind = "bad-signature"
	// KindUnreadable is an answer that is no checkpoint of the log, or payloads that are
	// none.
	KindUnreadable Kind = "unreadable"
	// KindQuorumMissing is a checkpoint that too few witnesses cosigned.
	KindQuorumMissing Kind = "quorum-missing"
	// KindStale is a checkpoint that is older than allowed.
	KindStale Kind = "stale"
	// KindUnreachable is a server that does not answer.
	KindUnreachable Kind = "unreachable"
	// KindInconsistent is a tile that contradicts the signed checkpoint.
	KindInconsistent Kind = "inconsistent"
	// KindCommitment is a payload that its leaf does not commit to.
	KindCommitment Kind = "commitment"
	// KindChain is a gap or fork in the history of a key, or of the log's clock.
	KindChain Kind = "chain"
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		KindFork, KindSplitView, KindWentBack, KindBadSignature, KindUnreadable, KindQuorumMissing,
		KindStale, KindUnreachable, KindInconsistent, KindCommitment, KindChain,
	}
}

// Severity says how bad an alarm is, and what it does to the verdict.
type Severity string

// The severities.
const (
	// SeverityInfo is worth knowing and changes no verdict: a witness does not answer.
	SeverityInfo Severity = "info"
	// SeverityWarning means that something could not be checked: nothing is said about it.
	SeverityWarning Severity = "warning"
	// SeverityCritical means that tampering is proven, to the monitor at least.
	SeverityCritical Severity = "critical"
)

// Alarm is something wrong that holds now.
type Alarm struct {
	Kind     Kind
	Severity Severity
	// Subject tells alarms of one kind apart: a witness, a file, "payloads"; empty for the
	// log itself.
	Subject string
	// Detail is one sentence for people.
	Detail string
	// Evidence is the path of a file for keytrail verify evidence; empty when there is none.
	Evidence string
	// same is what has to change for the alarm to be told again: not the detail, which may
	// hold an age or the words of the network.
	same string
}

// Change is an alarm that is to be told.
type Change struct {
	Alarm
	// Cleared means that it holds no longer.
	Cleared bool
	Time    time.Time
}

// String returns one line for people, without the log's name.
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", c.Time.UTC().Format(time.RFC3339), c.Severity, c.Kind)
	if c.Cleared {
		b.WriteString(" cleared")
	}
	if c.Subject != "" {
		fmt.Fprintf(&b, " (%s)", c.Subject)
	}
	fmt.Fprintf(&b, ": %s", c.Detail)
	if c.Evidence != "" {
		fmt.Fprintf(&b, " [evidence: %s]", c.Evidence)
	}
	return b.String()
}

// tracker knows what was told. An alarm is told when it is new, when it gets another
// severity, other evidence or another content than its detail alone, and when it is over.
type tracker struct{ told map[[2]string]Alarm }

func (t *tracker) changes(now time.Time, alarms []Alarm) []Change {
	current := make(map[[2]string]Alarm, len(alarms))
	var out []Change
	for _, a := range alarms {
		key := [2]string{string(a.Kind), a.Subject}
		current[key] = a
		old, ok := t.told[key]
		if !ok || old.same != a.same || old.Severity != a.Severity || old.Evidence != a.Evidence {
			out = append(out, Change{Alarm: a, Time: now})
		}
	}
	var over []Change
	for key, a := range t.told {
		if _, ok := current[key]; !ok {
			over = append(over, Change{Alarm: a, Cleared: true, Time: now})
		}
	}
	slices.SortFunc(over, func(a, b Change) int { return strings.Compare(string(a.Kind)+a.Subject, string(b.Kind)+b.Subject) })
	t.told = current
	return append(out, over...)
}

// Verdict is what a round says about the log.
type Verdict int

// The verdicts, the worst last.
const (
	// Fine means that all was checked and nothing was found.
	Fine Verdict = iota
	// Unknown means that something could not be checked.
	Unknown
	// Tampered means that tampering is proven.
	Tampered
)

// verdict is that of the worst alarm.
func verdict(alarms []Alarm) Verdict {
	v := Fine
	for _, a := range alarms {
		switch a.Severity {
		case SeverityCritical:
			v = Tampered
		case SeverityWarning:
			v = max(v, Unknown)
		case SeverityInfo:
		}
	}
	return v
}
