package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Kind says what was found tampered with.
type Kind string

// The kinds of tampering.
const (
	// KindLogSignature is a signature line of a log's key that does not verify.
	KindLogSignature Kind = "bad log signature"
	// KindCosignature is a signature line of a witness's key that does not verify.
	KindCosignature Kind = "bad cosignature"
	// KindExtension is a checkpoint with lines after the root hash: no keytrail log
	// writes any, and an ML-DSA-44 signature does not cover them.
	KindExtension Kind = "extension line"
	// KindIndexBeyondTree is a receipt for an entry that the signed tree does not have.
	KindIndexBeyondTree Kind = "index beyond the tree"
	// KindInclusion is a record, salt, index or proof that does not lead to the signed
	// root.
	KindInclusion Kind = "not in the tree"
	// KindRecord is a proven entry whose record cannot be read.
	KindRecord Kind = "malformed record"
	// KindRecordIndex is a proven entry whose record states another index.
	KindRecordIndex Kind = "record of another index"
	// KindFork is two signed trees of one size.
	KindFork Kind = "fork"
	// KindWentBack is a later tree that is smaller than an earlier one.
	KindWentBack Kind = "went back"
	// KindConsistency is a consistency proof that does not lead to both signed roots.
	KindConsistency Kind = "bad consistency proof"
)

// TamperError is the verdict "tampered".
type TamperError struct {
	Kind Kind
	// Detail says what contradicts what, for people.
	Detail string
	// Origin is the log's name as the checkpoint states it.
	Origin string
	// Old and New are signed checkpoints as they stood in the files. Old is nil except
	// where two checkpoints were compared.
	Old, New []byte
	// Proof is the inclusion or consistency proof, if there was one.
	Proof [][32]byte
	// PrefixRoot is the root that the larger tree has at the size of the smaller one,
	// which Proof shows; nil when that is not known. Only where the smaller size is a
	// power of two does the proof not give it by itself.
	PrefixRoot *[32]byte
	// File is the receipt or bundle that was examined; nil when a checkpoint was.
	File []byte
}

// Error returns kind and detail.
func (e *TamperError) Error() string {
	return fmt.Sprintf("tampered: %s: %s", e.Kind, e.Detail)
}

// evidence is what Evidence writes.
type evidence struct {
	Format     string   `json:"format"`
	Kind       Kind     `json:"kind"`
	Detail     string   `json:"detail"`
	Origin     string   `json:"origin"`
	Old        string   `json:"old_checkpoint,omitempty"`
	New        string   `json:"new_checkpoint"`
	Proof      [][]byte `json:"proof,omitempty"`
	PrefixRoot []byte   `json:"prefix_root,omitempty"`
	File       []byte   `json:"file,omitempty"`
}

// EvidenceFormat is the value of "format" in what Evidence writes.
const EvidenceFormat = "keytrail.dev/evidence/v1"

// Evidence returns an indented JSON object that holds everything a third party needs to
// come to the same verdict with the log's public keys: both signed checkpoints as text,
// the proof and the examined file in base64. The package's function Evidence reads it.
func (e *TamperError) Evidence() []byte {
	v := evidence{
		Format: EvidenceFormat, Kind: e.Kind, Detail: e.Detail, Origin: e.Origin,
		Old: string(e.Old), New: string(e.New), Proof: asSlices(e.Proof), File: e.File,
	}
	if e.PrefixRoot != nil {
		v.PrefixRoot = e.PrefixRoot[:]
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // Strings and byte slices always encode.
	return b.Bytes()
}

// Reason says what is missing.
type Reason string

// The reasons for which nothing can be said.
const (
	// ReasonMalformed is a file that is damaged, cut off, or of another format.
	ReasonMalformed Reason = "not readable"
	// ReasonUnknownLog is a checkpoint of a log that the policy does not know.
	ReasonUnknownLog Reason = "unknown log"
	// ReasonNoSignature is a checkpoint that no key signed which the policy knows for
	// the log.
	ReasonNoSignature Reason = "no known signature"
	// ReasonQuorum is a checkpoint that too few witnesses cosigned.
	ReasonQuorum Reason = "quorum not met"
	// ReasonNoRecord is a receipt without the record.
	ReasonNoRecord Reason = "no record"
	// ReasonNewer is a proven entry of a kind that this version cannot read.
	ReasonNewer Reason = "newer record"
	// ReasonOtherLog is two checkpoints of different logs.
	ReasonOtherLog Reason = "different logs"
	// ReasonStale is a checkpoint that nobody who counts has called the newest lately.
	ReasonStale Reason = "too old"
	// ReasonAltered is evidence with a signature line that does not verify: whoever had
	// the file could have changed it.
	ReasonAltered Reason = "altered"
	// ReasonNoProof is evidence that proves nothing against anybody.
	ReasonNoProof Reason = "nothing proven"
	// ReasonOtherBundle is a bundle made for another earlier checkpoint.
	ReasonOtherBundle Reason = "bundle for another checkpoint"
)

// UnverifiableError is the verdict "unverifiable".
type UnverifiableError struct {
	Reason Reason
	// Detail says what is missing, for people.
	Detail string
}

// Error returns reason and detail.
func (e *UnverifiableError) Error() string {
	return fmt.Sprintf("unverifiable: %s: %s", e.Reason, e.Detail)
}

func unverifiable(reason Reason, format string, args ...any) error {
	return &UnverifiableError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// prefix says in which of two checkpoints something was found.
func prefix(what string, err error) error {
	if e, ok := errors.AsType[*TamperError](err); ok {
		e.Detail = what + ": " + e.Detail
	} else if e, ok := errors.AsType[*UnverifiableError](err); ok {
		e.Detail = what + ": " + e.Detail
	}
	return err
}

// addProof adds to evidence found in a checkpoint the file in which it stood.
func addProof(err error, hashes [][32]byte, file []byte) error {
	if e, ok := errors.AsType[*TamperError](err); ok {
		e.Proof, e.File = hashes, file
	}
	return err
}
