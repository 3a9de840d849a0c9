package checkpoint

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// A keytrail log's origin is the name of its keys. Other logs need not keep to that
// (tlog-checkpoint: the origin only SHOULD be a schema-less URL; that of sum.golang.org is
// "go.sum database tree"), and a witness cosigns them too. What follows is for witnesses:
// whoever verifies a log of the policy uses ParseNote.

// CheckOrigin returns why s cannot be the origin of any log that a witness can cosign: 1 to
// MaxNameLength bytes (tlog-cosignature) of UTF-8 without control characters. Spaces and
// plus signs are allowed, but not at either end: nobody would see them in a list.
func CheckOrigin(s string) error {
	switch {
	case s == "":
		return errors.New("origin is empty")
	case len(s) > MaxNameLength:
		return fmt.Errorf("origin of %d bytes is longer than %d", len(s), MaxNameLength)
	case !utf8.ValidString(s):
		return errors.New("origin is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return errors.New("origin contains a control character")
		}
	}
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	if unicode.IsSpace(first) || unicode.IsSpace(last) {
		return errors.New("origin begins or ends in a space")
	}
	return nil
}

// ParseForeignNote reads a signed checkpoint of any C2SP log as ParseNote does, with two
// differences: the origin keeps to CheckOrigin only, and size and root hash may contradict
// each other, because a witness answers that differently (tlog-witness) from what it cannot
// read. Lines after the root hash are ErrExtension here too.
func ParseForeignNote(note []byte) (Checkpoint, []Signature, error) {
	text, sigs, err := splitNote(note)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, rest, err := cutText(text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if err := CheckOrigin(c.Origin); err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint: %w", err)
	}
	if len(rest) > 0 {
		return c, sigs, ErrExtension
	}
	return c, sigs, nil
}

// Cosign signs the checkpoint of any log as a witness does: with a key whose signatures
// carry a time, and a time that is not 0 (tlog-witness). The timestamp is in seconds since
// 1970.
func (k SignerKey) Cosign(c Checkpoint, timestamp uint64) (Signature, error) {
	if !k.verifier.typ.Timestamped() {
		return Signature{}, fmt.Errorf("checkpoint: cosigning: %v signatures carry no time", k.verifier.typ)
	}
	if timestamp == 0 {
		return Signature{}, errors.New("checkpoint: cosigning: no time")
	}
	if err := CheckOrigin(c.Origin); err != nil {
		return Signature{}, fmt.Errorf("checkpoint: cosigning: %w", err)
	}
	if (c.Size == 0) != (c.Root == EmptyRoot()) {
		return Signature{}, fmt.Errorf("checkpoint: cosigning: size %d does not go with the root hash", c.Size)
	}
	return k.sign(c, timestamp)
}
