package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/transparency-dev/merkle/proof"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// What convicts whom. Whoever hands over evidence chose every byte of it except those
// that a signature covers, so only what is signed counts:
//
//   - Two trees of one size with different roots: a fork.
//   - Two trees of different sizes, and a consistency proof that leads to the signed root
//     of the larger one but to another root than the signed one of the smaller: a fork.
//     The hashes of the proof are nodes of the larger tree, for nobody finds others that
//     give its root. A proof that does not lead to the larger root is worth nothing:
//     anyone can write a bad one.
//   - A receipt whose record is proven to be in a signed tree and is not readable, or
//     says that it is another entry: the log wrote a record that contradicts its tree.
//     This is so because a keytrail log writes its records itself. In other people's logs
//     anyone may have put such a leaf, so they are not convicted by it.
//
// These prove nothing: a smaller tree after a larger one, because the signatures do not
// say which was first, and clocks may be set back; an inclusion proof that fails, or an
// index beyond the tree, because anyone can write them; a signature line that does not
// verify, because anyone can spoil one; an extension line, because C2SP allows it.

// Evidence verifies a file of evidence, as (*TamperError).Evidence and keytrail-witness
// write it, and returns who is convicted of what. The verdict follows from the signed
// checkpoints and the proofs alone; what the file says of itself is never believed. The
// log's own signatures convict the log, and a witness's cosignatures the witness, so the
// policy's quorum is not asked for. Other people's logs, whose origin is not the name of
// their keys, come as more. p may be nil when more holds the keys.
//
// Every error is an *UnverifiableError: the file proves nothing, and Detail says what is
// missing.
func Evidence(data []byte, p *policy.Policy, more ...LogKey) (*Conviction, error) {
	e, err := parseEvidence(data)
	if err != nil {
		return nil, unverifiable(ReasonMalformed, "%v", err)
	}
	t := trust{logs: more}
	if p != nil {
		t.logs = append(logKeys(p), more...)
		t.witnesses = p.Witnesses
	}
	later, err := t.open(e.New, "new checkpoint")
	if err != nil {
		return nil, err
	}
	if e.Old == nil {
		return t.convictRecord(e, later)
	}
	earlier, err := t.open(e.Old, "old checkpoint")
	if err != nil {
		return nil, err
	}
	if earlier.Origin != later.Origin {
		return nil, unverifiable(ReasonOtherLog, "one checkpoint is of %s, the other of %s", earlier.Origin, later.Origin)
	}
	if earlier.Size > later.Size {
		earlier, later = later, earlier
	}
	detail, err := contradiction(e, earlier, later)
	if err != nil {
		return nil, err
	}
	return convictFork(e, earlier, later, detail)
}

// trust is whose signatures count.
type trust struct {
	logs      []LogKey
	witnesses []policy.Witness
}

// open reads a checkpoint of the file and finds who signed it. It demands of the log that
// its keys are known, not that they signed: a witness is convicted by its own signatures.
func (t trust) open(note []byte, what string) (*Signed, error) {
	c, sigs, err := checkpoint.ParseForeignNote(note)
	switch {
	case errors.Is(err, checkpoint.ErrExtension):
		return nil, unverifiable(ReasonNoProof, "%s: lines follow the root hash, which not every signature covers", what)
	case err != nil:
		return nil, unverifiable(ReasonMalformed, "%s: %v", what, err)
	}
	if !slices.ContainsFunc(t.logs, func(l LogKey) bool { return l.Origin == c.Origin }) {
		return nil, unverifiable(ReasonUnknownLog, "%s: it is of the log %s, of which no key is known", what, c.Origin)
	}
	s := &Signed{Checkpoint: c, Note: note, Quorum: policy.None}
	if err := s.checkSignatures(sigs, t.logs, t.witnesses); err != nil {
		if bad, ok := errors.AsType[*TamperError](err); ok {
			return nil, unverifiable(ReasonAltered, "%s: %s; this proves only that the file was altered", what, bad.Detail)
		}
		return nil, err
	}
	return s, nil
}

// contradiction says in what way two trees cannot both be of one append-only log. The
// sentence continues one that begins with the log.
func contradiction(e *TamperError, earlier, later *Signed) (string, error) {
	if earlier.Size == later.Size {
		if earlier.Root == later.Root {
			return "", nothing(e.Kind, "both checkpoints are of the same tree")
		}
		return fmt.Sprintf("signed two trees of %d entries: root %x and root %x", later.Size, earlier.Root, later.Root), nil
	}
	if earlier.Size == 0 {
		return "", nothing(e.Kind, "every tree extends the empty one")
	}
	prefix, err := openPrefix(e, earlier, later)
	switch {
	case err != nil:
		return "", nothing(e.Kind, "a tree of %d entries and one of %d do not contradict each other by themselves, and signatures do not say which was first; "+
			"what is missing is a consistency proof that leads to the root of the larger tree (%v)", earlier.Size, later.Size, err)
	case prefix == earlier.Root:
		return "", nothing(e.Kind, "the proof shows that the tree of %d entries extends that of %d entries", later.Size, earlier.Size)
	}
	return fmt.Sprintf("signed a tree of %d entries with the root %x, and a tree of %d entries with the root %x, whose first %d entries have the root %x",
		earlier.Size, earlier.Root, later.Size, later.Root, earlier.Size, prefix), nil
}

// openPrefix returns the root of the larger tree at the smaller size, which the proof in
// the file shows.
func openPrefix(e *TamperError, earlier, later *Signed) ([32]byte, error) {
	from := earlier.Checkpoint
	if e.PrefixRoot != nil {
		from.Root = *e.PrefixRoot
	}
	hashes := asSlices(e.Proof)
	err := verifyConsistency(from, later.Checkpoint, hashes)
	mismatch, ok := errors.AsType[proof.RootMismatchError](err)
	if !ok || len(mismatch.CalculatedRoot) != 32 {
		return from.Root, err
	}
	// Where the smaller size is no power of two the proof gives both roots by itself, the
	// smaller tree's first; then it can be asked for the root that it does give.
	from.Root = [32]byte(mismatch.CalculatedRoot)
	return from.Root, verifyConsistency(from, later.Checkpoint, hashes)
}

// convictFork finds who signed both of two contradicting trees.
func convictFork(e *TamperError, earlier, later *Signed, detail string) (*Conviction, error) {
	c := &Conviction{
		Kind: KindFork, Origin: later.Origin, Detail: detail, claimed: e,
		Log:     len(earlier.LogKeys) > 0 && len(later.LogKeys) > 0,
		Earlier: earlier, Later: later,
	}
	for _, w := range earlier.Cosignatures {
		if later.cosignedBy(w.Witness) {
			c.Witnesses = append(c.Witnesses, w.Witness)
		}
	}
	if c.Log || len(c.Witnesses) > 0 {
		return c, nil
	}
	var missing []string
	for _, s := range []*Signed{earlier, later} {
		if len(s.LogKeys) == 0 {
			missing = append(missing, fmt.Sprintf("the tree of %d entries with the root %x", s.Size, s.Root))
		}
	}
	return nil, unverifiable(ReasonNoSignature, "the trees contradict each other, but no known key of the log %s signed %s, and no known witness cosigned both",
		c.Origin, strings.Join(missing, " or "))
}

// convictRecord examines a receipt: whether the log put into its tree what no log may.
func (t trust) convictRecord(e *TamperError, s *Signed) (*Conviction, error) {
	r, err := receipt.Parse(e.File)
	switch {
	case err != nil:
		return nil, nothing(e.Kind, "one checkpoint contradicts nothing; what is missing is a second one or a receipt (%v)", err)
	case !bytes.Equal(r.Checkpoint, e.New):
		return nil, unverifiable(ReasonAltered, "the receipt in the file has another checkpoint than the file")
	case len(s.LogKeys) == 0:
		return nil, unverifiable(ReasonNoSignature, "no known key of the log %s signed the checkpoint", s.Origin)
	case !slices.ContainsFunc(s.LogKeys, func(l LogSignature) bool { return l.Key.Name() == s.Origin }):
		return nil, nothing(e.Kind, "only a keytrail log writes its records itself, and a policy names those")
	case r.Extra == nil:
		return nil, nothing(e.Kind, "the receipt does not hold the record")
	}
	leaf := record.Leaf(r.Extra)
	if r.Index >= s.Size || verifyInclusion(r.Index, s.Size, leaf[:], asSlices(r.Hashes), s.Root) != nil {
		return nil, nothing(e.Kind, "anyone can write a receipt that is not of the tree; this one shows that the file was altered, or that its sender cannot prove the entry")
	}
	c := &Conviction{Origin: s.Origin, Log: true, Later: s, claimed: e}
	entry, err := openEntry(r.Index, r.Extra, leaf)
	switch {
	case isUnverifiable(err):
		return nil, err
	case err != nil:
		c.Kind = KindRecord
		c.Detail = fmt.Sprintf("committed as entry %d to a record that cannot be read: %v", r.Index, err)
	case entry.Record.Index != r.Index:
		c.Kind = KindRecordIndex
		c.Detail = fmt.Sprintf("committed as entry %d to a record that says it is entry %d", r.Index, entry.Record.Index)
	default:
		return nil, nothing(e.Kind, "the receipt in it is good")
	}
	return c, nil
}
