package verify

import (
	"errors"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// Signed is a checkpoint and who signed it, verified under a policy.
type Signed struct {
	checkpoint.Checkpoint
	// Note is the signed checkpoint as it stood in the file.
	Note []byte
	// LogKeys are the log's keys that signed; at least one. MissingLogKeys are those
	// that the policy knows for the log and that did not: one signature is enough for
	// the policy, yet a log that signs with two keys leaves none out.
	LogKeys        []LogSignature
	MissingLogKeys []checkpoint.VerifierKey
	// Cosignatures are those of the policy's witnesses, each witness once.
	// MissingWitnesses are the names of the others.
	Cosignatures     []Cosignature
	MissingWitnesses []string
	// Quorum is what the policy demands; it is met. policy.None demands nothing.
	Quorum string
	// Ignored is the number of signature lines that count for nothing: of keys that the
	// policy does not know or knows for another log, and repeats.
	Ignored int
}

// LogKey is a key of a log whose origin need not be the key's name, as that of other
// people's logs: a policy knows a log by the name of its keys.
type LogKey struct {
	// Origin is the first line of the log's checkpoints.
	Origin string
	Key    checkpoint.VerifierKey
}

// logKeys returns the log keys of a policy.
func logKeys(p *policy.Policy) []LogKey {
	out := make([]LogKey, len(p.Logs))
	for i, l := range p.Logs {
		out[i] = LogKey{Origin: l.Key.Name(), Key: l.Key}
	}
	return out
}

// LogSignature is a good signature of a log's key.
type LogSignature struct {
	Key checkpoint.VerifierKey
	// Time is when the log says it signed, to the second; zero for kinds of signature
	// without a time.
	Time time.Time
}

// Cosignature is a good signature of a witness.
type Cosignature struct {
	// Witness is its name in the policy.
	Witness string
	Key     checkpoint.VerifierKey
	// Time is when the witness says it saw this as the log's largest tree, to the
	// second; zero when it does not say so.
	Time time.Time
}

// Signatures does everything that Checkpoint does but the quorum, for whoever compares what
// a log signed: its signature binds the log whether or not anybody cosigned.
func Signatures(note []byte, p *policy.Policy) (*Signed, error) {
	c, sigs, err := checkpoint.ParseNote(note)
	if err != nil && !errors.Is(err, checkpoint.ErrExtension) {
		return nil, unverifiable(ReasonMalformed, "%v", err)
	}
	keys := p.LogKeys(c.Origin)
	if len(keys) == 0 {
		return nil, unverifiable(ReasonUnknownLog, "the checkpoint is of %s; the policy knows %s", c.Origin, known(p))
	}
	if err != nil {
		return nil, &TamperError{
			Kind: KindExtension, Origin: c.Origin, New: note,
			Detail: "lines follow the root hash; a keytrail log writes none, and not every signature covers them",
		}
	}
	s := &Signed{Checkpoint: c, Note: note, Quorum: p.Quorum}
	if err := s.checkSignatures(sigs, logKeys(p), p.Witnesses); err != nil {
		return nil, err
	}
	if len(s.LogKeys) == 0 {
		return nil, unverifiable(ReasonNoSignature, "no signature line is of a key that the policy knows for %s", c.Origin)
	}
	for _, k := range keys {
		if !s.signedBy(k) {
			s.MissingLogKeys = append(s.MissingLogKeys, k)
		}
	}
	for _, w := range p.Witnesses {
		if !s.cosignedBy(w.Name) {
			s.MissingWitnesses = append(s.MissingWitnesses, w.Name)
		}
	}
	return s, nil
}

// checkSignatures verifies every signature line of a key that the policy knows, repeats
// and those of other logs too: a known key's signature that is not good condemns the
// whole note (signed-note).
func (s *Signed) checkSignatures(sigs []checkpoint.Signature, logs []LogKey, witnesses []policy.Witness) error {
	for _, sig := range sigs {
		counted := false
		for _, l := range logs {
			if !l.Key.Made(sig) {
				continue
			}
			t, err := l.Key.Verify(s.Checkpoint, sig)
			if err != nil {
				return s.badSignature(KindLogSignature, l.Key)
			}
			if l.Origin == s.Origin && !s.signedBy(l.Key) {
				s.LogKeys = append(s.LogKeys, LogSignature{Key: l.Key, Time: timeOf(t)})
				counted = true
			}
		}
		for _, w := range witnesses {
			if !w.Key.Made(sig) {
				continue
			}
			t, err := w.Key.Verify(s.Checkpoint, sig)
			if err != nil {
				return s.badSignature(KindCosignature, w.Key)
			}
			if !s.cosignedBy(w.Name) {
				s.Cosignatures = append(s.Cosignatures, Cosignature{Witness: w.Name, Key: w.Key, Time: timeOf(t)})
				counted = true
			}
		}
		if !counted {
			s.Ignored++
		}
	}
	return nil
}

func (s *Signed) badSignature(kind Kind, k checkpoint.VerifierKey) error {
	return &TamperError{
		Kind: kind, Origin: s.Origin, New: s.Note,
		Detail: "the " + k.Type().String() + " signature line of " + describe(k) + " does not verify over this checkpoint",
	}
}

func (s *Signed) signedBy(k checkpoint.VerifierKey) bool {
	for _, l := range s.LogKeys {
		if l.Key.Equal(k) {
			return true
		}
	}
	return false
}

func (s *Signed) cosignedBy(witness string) bool {
	for _, c := range s.Cosignatures {
		if c.Witness == witness {
			return true
		}
	}
	return false
}

// CheckQuorum holds the policy's demand for witnesses. The error is an *UnverifiableError
// of ReasonQuorum.
func (s *Signed) CheckQuorum(p *policy.Policy) error {
	cosigned := make(map[string]bool, len(s.Cosignatures))
	for _, c := range s.Cosignatures {
		cosigned[c.Witness] = true
	}
	if p.Satisfied(cosigned) {
		return nil
	}
	return unverifiable(ReasonQuorum, "the policy demands %q; %d of %d witnesses cosigned, missing: %s",
		p.Quorum, len(s.Cosignatures), len(p.Witnesses), strings.Join(s.MissingWitnesses, ", "))
}

// timeOf reads a timestamp of tlog-cosignature, where 0 states no time.
func timeOf(seconds uint64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}

// known lists the policy's logs, for people.
func known(p *policy.Policy) string {
	origins := p.Origins()
	if len(origins) == 0 {
		return "no log"
	}
	return strings.Join(origins, ", ")
}
