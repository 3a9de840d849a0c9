package verify

import (
	"fmt"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/statement"
)

// FinalStatement is a verified final statement of a log.
type FinalStatement struct {
	statement.Statement
	// LogKeys are the keys of the log that ended which signed it; at least one.
	// MissingLogKeys are those that the policy knows and that did not sign.
	LogKeys, MissingLogKeys []checkpoint.VerifierKey
}

// Statement verifies a final statement under a policy that knows the log which ended: its
// form, and every signature of one of that log's keys. The policy's quorum says nothing
// about it, because witnesses do not sign statements.
func Statement(data []byte, p *policy.Policy) (*FinalStatement, error) {
	n, err := statement.Parse(data)
	if err != nil {
		return nil, unverifiable(ReasonMalformed, "%v", err)
	}
	keys := p.LogKeys(n.Origin)
	if len(keys) == 0 {
		return nil, unverifiable(ReasonUnknownLog, "the statement is of %s; the policy knows %s", n.Origin, known(p))
	}
	signed, err := n.Verify(keys)
	if err != nil {
		return nil, &TamperError{Kind: KindLogSignature, Detail: err.Error(), Origin: n.Origin, File: data}
	}
	if len(signed) == 0 {
		return nil, unverifiable(ReasonNoSignature, "no signature line is of a key that the policy knows for %s", n.Origin)
	}
	s := &FinalStatement{Statement: n.Statement, LogKeys: signed}
	for _, k := range keys {
		if !contains(signed, k) {
			s.MissingLogKeys = append(s.MissingLogKeys, k)
		}
	}
	return s, nil
}

func contains(keys []checkpoint.VerifierKey, k checkpoint.VerifierKey) bool {
	for _, other := range keys {
		if other.Equal(k) {
			return true
		}
	}
	return false
}

// Proven returns what was proven, one sentence each, for people.
func (s *FinalStatement) Proven() []string {
	out := []string{
		fmt.Sprintf("The log %s declares that it has ended and is continued by %s.", s.Origin, s.Successor),
		fmt.Sprintf("The log declares that the largest tree it knows to have signed has %d entries and the root %x.", s.Signed.Size, s.Signed.Root),
		fmt.Sprintf("The log declares that it still has the first %d entries, under the root %x.", s.Kept.Size, s.Kept.Root),
	}
	for _, k := range s.Keys {
		out = append(out, fmt.Sprintf("The log declares that its successor signs with the key %s.", k))
	}
	for _, k := range s.LogKeys {
		out = append(out, fmt.Sprintf("All of this is signed with the log's key %s.", describe(k)))
	}
	return out
}

// NotProven returns what was not proven although a reader may think so, one sentence
// each, for people.
func (s *FinalStatement) NotProven() []string {
	var out []string
	for _, k := range s.MissingLogKeys {
		out = append(out, fmt.Sprintf("That the log signed it with its key %s: that signature is missing.", describe(k)))
	}
	return append(out,
		fmt.Sprintf("That the log signed no larger tree than %d entries: one of its checkpoints that does contradicts this statement.", s.Signed.Size),
		"When it was made: the time is by the log's own clock.",
		"That everyone was shown the same statement: no witness signs it.")
}
