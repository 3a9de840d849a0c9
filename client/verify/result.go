package verify

import (
	"fmt"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/policy"
)

// Result is what was verified. Nothing in it is unverified, yet not all of it is proven
// in the same sense: NotProven says what rests on somebody's word.
type Result struct {
	// Checkpoint is the checkpoint of the receipt, or the later one of a bundle.
	Checkpoint *Signed
	// Earlier is the checkpoint that the bundle extends; nil for a receipt.
	Earlier *Signed
	// Entry is the entry that the receipt proves; nil for a bundle.
	Entry *Entry
	// Freshness is what CheckAge found; nil when the age was not checked.
	Freshness *Freshness
}

// Proven returns what was proven, one sentence each, for people.
func (r *Result) Proven() []string {
	c := r.Checkpoint
	var out []string
	if e := r.Entry; e != nil {
		out = append(out,
			fmt.Sprintf("The record is entry %d of the log %s, in its tree of %d entries with the root %x.", e.Index, c.Origin, c.Size, c.Root),
			e.describeEvent(), e.describeRecord())
	}
	if r.Earlier != nil {
		out = append(out, r.describeExtension())
		out = append(out, r.Earlier.describeSignatures(fmt.Sprintf("The tree of %d entries", r.Earlier.Size))...)
	}
	if r.Freshness != nil && !r.Freshness.LogOnly {
		out = append(out, r.Freshness.describe(c))
	}
	return append(out, c.describeSignatures(fmt.Sprintf("The tree of %d entries", c.Size))...)
}

// NotProven returns what was not proven although a reader may think so, one sentence
// each, for people.
func (r *Result) NotProven() []string {
	c := r.Checkpoint
	var out []string
	for _, s := range []*Signed{r.Earlier, c} {
		if s == nil {
			continue
		}
		for _, k := range s.MissingLogKeys {
			out = append(out, fmt.Sprintf("That the log signed the tree of %d entries with its key %s: that signature is missing.", s.Size, describe(k)))
		}
	}
	if c.Quorum == policy.None {
		out = append(out, "That the log shows everyone the same tree: the policy demands no witness.")
	}
	if r.Freshness != nil && r.Freshness.LogOnly {
		out = append(out, r.Freshness.describe(c))
	}
	if r.Earlier != nil {
		if r.Earlier.Size == 0 {
			out = append(out, "Anything about earlier entries: the earlier tree has none, and every tree extends it.")
		}
		return out
	}
	out = append(out, "That the event happened as it says: the log proves what was reported to it, not what is true.")
	if r.Entry.Record.Producer == "" {
		out = append(out, "Who reported the event: the log did not authenticate the producer.")
	}
	if r.Entry.Record.KeySequence > 1 {
		out = append(out, "The key's events before this one: each has a receipt of its own.")
	}
	return out
}

func (r *Result) describeExtension() string {
	from, to := r.Earlier, r.Checkpoint
	if from.Size == to.Size {
		return fmt.Sprintf("Both checkpoints state the same tree of the log %s: %d entries with the root %x.", to.Origin, to.Size, to.Root)
	}
	return fmt.Sprintf("The tree of the log %s with %d entries (root %x) begins with the tree of %d entries (root %x): nothing was changed, dropped or put in between.",
		to.Origin, to.Size, to.Root, from.Size, from.Root)
}

// describeSignatures names who signed a tree.
func (s *Signed) describeSignatures(tree string) []string {
	var out []string
	for _, l := range s.LogKeys {
		out = append(out, fmt.Sprintf("%s is signed with the log's key %s%s.", tree, describe(l.Key), at(l.Time)))
	}
	for _, c := range s.Cosignatures {
		out = append(out, fmt.Sprintf("%s is cosigned by the witness %s with its key %s%s.", tree, c.Witness, describe(c.Key), at(c.Time)))
	}
	if s.Quorum != policy.None {
		out = append(out, fmt.Sprintf("%s has the witnesses that the policy's quorum %q demands.", tree, s.Quorum))
	}
	return out
}

func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " at " + t.Format(time.RFC3339) + " by the signer's clock"
}

// describe names a key for people.
func describe(k checkpoint.VerifierKey) string {
	return fmt.Sprintf("%s %08x (%v)", k.Name(), k.ID(), k.Type())
}

func (e *Entry) describeEvent() string {
	var b strings.Builder
	fmt.Fprintf(&b, "It holds the event %q of the tenant %q: %s (%s)", e.Event.GetEventId(), e.Event.GetTenant(),
		event.OperationName(e.Event.GetOperation()), event.OutcomeName(e.Event.GetOutcome()))
	if ref := e.Event.GetKey().GetRef(); ref != "" {
		fmt.Fprintf(&b, " of the key %q", ref)
	}
	if t := e.Event.GetTime(); t != nil {
		fmt.Fprintf(&b, " at %s by the source's clock", t.AsTime().Format(time.RFC3339Nano))
	}
	return b.String() + "."
}

func (e *Entry) describeRecord() string {
	var b strings.Builder
	fmt.Fprintf(&b, "The log states that it took the record at %s", e.Record.LoggedAt.Format(time.RFC3339Nano))
	if e.Record.Producer != "" {
		fmt.Fprintf(&b, " from the producer %q", e.Record.Producer)
	}
	if e.Record.KeySequence > 0 {
		fmt.Fprintf(&b, " as number %d in the history of its key", e.Record.KeySequence)
	}
	if e.Record.KeySequence > 1 {
		fmt.Fprintf(&b, ", after entry %d", e.Record.PreviousIndex)
	}
	return b.String() + "."
}
