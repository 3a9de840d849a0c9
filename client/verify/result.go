package verify

import (
	"encoding/hex"
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
}

// Proven returns what was proven, one sentence each, for people.
func (r *Result) Proven() []string {
	c := r.Checkpoint
	var out []string
	if e := r.Entry; e != nil {
		out = append(out,
			fmt.Sprintf("The record is entry %d of the log %s in its tree of %d entries with the root %x.", e.Index, c.Origin, c.Size, c.Root),
			fmt.Sprintf("The log committed to exactly this record: %s, recorded as number %s.", e.describe(), count(e.Index)))
		if e.Record.KeySequence > 0 {
			out = append(out, e.describeHistory())
		}
	}
	if r.Earlier != nil {
		out = append(out, r.describeExtension())
		out = append(out, r.Earlier.describeSignatures(fmt.Sprintf("The tree of %d entries", r.Earlier.Size))...)
	}
	return append(out, c.describeSignatures(fmt.Sprintf("The tree of %d entries", c.Size))...)
}

// NotProven returns what was not proven although a reader may think so, one sentence
// each, for people.
func (r *Result) NotProven() []string {
	c := r.Checkpoint
	var out []string
	for _, k := range c.MissingLogKeys {
		out = append(out, fmt.Sprintf("That the log signed with its key %s: that signature is missing.", describe(k)))
	}
	if c.Quorum == policy.None {
		out = append(out, "That the log shows everyone the same tree: the policy demands no witness.")
	}
	if r.Earlier != nil {
		if r.Earlier.Size == 0 {
			out = append(out, "Anything about earlier entries: the earlier tree has none, and every tree extends it.")
		}
		return out
	}
	out = append(out, "That the event happened as it says: the log proves what was reported to it, and when it says it was told.")
	if r.Entry.Record.Producer == "" {
		out = append(out, "Who reported the event: the log did not authenticate the producer.")
	}
	if r.Entry.Record.KeySequence > 1 {
		out = append(out, "The key's events before this one: each has a receipt of its own.")
	}
	return out
}

// count turns an index into the number of an entry for people, who count from 1.
func count(index uint64) string {
	return fmt.Sprint(index + 1)
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

func (e *Entry) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)", event.OperationName(e.Event.GetOperation()), event.OutcomeName(e.Event.GetOutcome()))
	if ref := e.Event.GetKey().GetRef(); ref != "" {
		fmt.Fprintf(&b, " of the key %q", ref)
	}
	fmt.Fprintf(&b, " of the tenant %q, event id %q, salt and record hashed to %s", e.Event.GetTenant(), e.Event.GetEventId(), hex.EncodeToString(e.Leaf[1:]))
	return b.String()
}

func (e *Entry) describeHistory() string {
	if e.Record.KeySequence == 1 {
		return "In the history of its key the log counted it as number 1."
	}
	return fmt.Sprintf("In the history of its key the log counted it as number %d, after entry %d.", e.Record.KeySequence, e.Record.PreviousIndex)
}
