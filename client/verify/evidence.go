package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxEvidenceSize is the largest file of evidence in bytes: two checkpoints of the largest
// size with their line ends escaped, a receipt or bundle in base64, and room around them.
const MaxEvidenceSize = 2 << 20

// maxProof is how many hashes a proof can have: a tree is at most 64 levels high.
const maxProof = 64

// parseEvidence reads what (*TamperError).Evidence writes. It takes no field twice and no
// other field; white space and the order of fields are free. Nothing in it is verified.
func parseEvidence(data []byte) (*TamperError, error) {
	if len(data) > MaxEvidenceSize {
		return nil, fmt.Errorf("evidence: %d bytes are more than %d", len(data), MaxEvidenceSize)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("evidence: not UTF-8")
	}
	v, err := decodeEvidence(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("evidence: %w", err)
	case v.Format != EvidenceFormat:
		return nil, fmt.Errorf("evidence: format %q is not %q", v.Format, EvidenceFormat)
	case len(v.Proof) > maxProof:
		return nil, fmt.Errorf("evidence: a proof of %d hashes is longer than %d", len(v.Proof), maxProof)
	}
	e := &TamperError{Kind: v.Kind, Detail: v.Detail, Origin: v.Origin, New: []byte(v.New), File: v.File}
	if v.Old != "" {
		e.Old = []byte(v.Old)
	}
	for _, h := range v.Proof {
		if len(h) != 32 {
			return nil, fmt.Errorf("evidence: a hash of %d bytes", len(h))
		}
		e.Proof = append(e.Proof, [32]byte(h))
	}
	if v.PrefixRoot != nil {
		if len(v.PrefixRoot) != 32 {
			return nil, fmt.Errorf("evidence: a prefix root of %d bytes", len(v.PrefixRoot))
		}
		root := [32]byte(v.PrefixRoot)
		e.PrefixRoot = &root
	}
	return e, nil
}

// decodeEvidence reads field by field, because encoding/json would take a name twice, and
// in any letters.
func decodeEvidence(data []byte) (evidence, error) {
	var v evidence
	fields := map[string]any{
		"format": &v.Format, "kind": &v.Kind, "detail": &v.Detail, "origin": &v.Origin,
		"old_checkpoint": &v.Old, "new_checkpoint": &v.New,
		"proof": &v.Proof, "prefix_root": &v.PrefixRoot, "file": &v.File,
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return v, errors.New("no JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return v, err
		}
		name, _ := t.(string) // A key is always a string.
		into, ok := fields[name]
		if !ok {
			return v, fmt.Errorf("field %q is unknown or there twice", name)
		}
		delete(fields, name)
		if err := dec.Decode(into); err != nil {
			return v, fmt.Errorf("field %q: %w", name, err)
		}
	}
	if _, err := dec.Token(); err != nil { // The closing brace.
		return v, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("something follows the JSON object")
	}
	return v, nil
}

// Conviction is what a file of evidence proves: that whoever held certain keys signed what
// cannot both be true of an append-only log.
type Conviction struct {
	// Kind is KindFork, KindRecord or KindRecordIndex, whatever the file says.
	Kind Kind
	// Origin is the log that the signed checkpoints name.
	Origin string
	// Detail says what contradicts what, for people.
	Detail string
	// Log says that the log itself is convicted: it signed both sides.
	Log bool
	// Witnesses are the names of the witnesses that cosigned both sides.
	Witnesses []string
	// Earlier and Later are the checkpoints, the smaller tree first; their quorum is not
	// examined. Earlier is nil when one signed tree shows the misbehaviour alone.
	Earlier, Later *Signed

	claimed *TamperError
}

// Convicted returns who did what, one sentence each, for people.
func (c *Conviction) Convicted() []string {
	var out []string
	if c.Log {
		out = append(out, fmt.Sprintf("The log %s %s.", c.Origin, c.Detail))
	}
	for _, w := range c.Witnesses {
		out = append(out, fmt.Sprintf("The witness %s cosigned both of two contradicting trees of the log %s: one of %d entries with the root %x, one of %d entries with the root %x.",
			w, c.Origin, c.Earlier.Size, c.Earlier.Root, c.Later.Size, c.Later.Root))
	}
	return out
}

// Proven returns what was proven, one sentence each, for people.
func (c *Conviction) Proven() []string {
	out := c.Convicted()
	for _, s := range []*Signed{c.Earlier, c.Later} {
		if s != nil {
			out = append(out, s.describeSignatures(fmt.Sprintf("The tree of %d entries with the root %x", s.Size, s.Root))...)
		}
	}
	return out
}

// NotProven returns what was not proven although a reader may think so, one sentence
// each, for people.
func (c *Conviction) NotProven() []string {
	var out []string
	if !c.Log {
		out = append(out, fmt.Sprintf("That the log %s did anything wrong: its known keys did not sign both trees.", c.Origin))
	}
	if k := c.claimed.Kind; k != c.Kind {
		out = append(out, fmt.Sprintf("That it is %q, as the file says.", string(k)))
	}
	if o := c.claimed.Origin; o != c.Origin {
		out = append(out, fmt.Sprintf("Anything about the log %q, which the file names.", o))
	}
	if c.Earlier == nil {
		out = append(out, fmt.Sprintf("That %s is a keytrail log, which writes its records itself: that is taken from the policy.", c.Origin))
	}
	return append(out, "Who did it: the operator, or whoever else could use the keys.")
}

// nothing is the verdict on a file that proves nothing, with what is missing.
func nothing(claimed Kind, format string, args ...any) error {
	return unverifiable(ReasonNoProof, "the file says %q, but %s", string(claimed), fmt.Sprintf(format, args...))
}
