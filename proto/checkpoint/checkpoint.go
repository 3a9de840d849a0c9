// Package checkpoint reads, writes, signs and verifies checkpoints: signed notes that
// state a log's size and root hash (C2SP tlog-checkpoint, signed-note and
// tlog-cosignature).
//
// It is stricter than the specifications in three places. A checkpoint has three lines:
// extension lines are refused, because an ML-DSA-44 signature does not cover them and
// anyone could add some. Each value has one spelling: no leading zeros, no loose base64.
// An origin keeps to the rules of key names, because a policy can name no other.
//
// Pure functions without a clock; safe for concurrent use. The package is trusted to
// report a signature as good only when the key made it over exactly these three lines,
// and to keep private keys out of everything that is printed.
package checkpoint

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keytrail/keytrail/proto/internal/line"
)

// MaxNameLength is the longest origin or key name in bytes: the message that ML-DSA-44
// signs has one byte for its length (tlog-cosignature).
const MaxNameLength = 255

// ErrExtension means that lines follow the root hash.
var ErrExtension = errors.New("checkpoint: extension line after the root hash")

// Checkpoint is the state of a log's tree.
type Checkpoint struct {
	// Origin names the log; it is also the name of the log's keys.
	Origin string
	// Size is the number of entries.
	Size uint64
	// Root is the RFC 6962 Merkle tree hash; SHA-256 of nothing when Size is 0.
	Root [32]byte
}

// EmptyRoot returns the root hash of the tree without entries (RFC 6962 section 2.1).
func EmptyRoot() [32]byte {
	return sha256.Sum256(nil)
}

// Text returns the note text: three lines, each with its newline.
func (c Checkpoint) Text() []byte {
	return c.AppendText(make([]byte, 0, c.textLength()))
}

// textLength is the greatest length of the note text.
func (c Checkpoint) textLength() int { return len(c.Origin) + 1 + 20 + 1 + line.HashLength + 1 }

// AppendText appends the note text to b.
func (c Checkpoint) AppendText(b []byte) []byte {
	b = append(b, c.Origin...)
	b = append(b, '\n')
	b = strconv.AppendUint(b, c.Size, 10)
	b = append(b, '\n')
	b = line.AppendBase64(b, c.Root[:])
	return append(b, '\n')
}

// Validate returns why c cannot be written as a checkpoint.
func (c Checkpoint) Validate() error {
	if err := CheckName(c.Origin); err != nil {
		return fmt.Errorf("checkpoint: origin: %w", err)
	}
	if c.Size == 0 && c.Root != EmptyRoot() {
		return errors.New("checkpoint: size 0 without the empty tree's root hash")
	}
	if c.Size != 0 && c.Root == EmptyRoot() {
		return errors.New("checkpoint: the empty tree's root hash with a size above 0")
	}
	return nil
}

// ParseText reads a note text. It accepts exactly what AppendText writes of a valid
// checkpoint. When only the absence of further lines is violated the error is
// ErrExtension, and the checkpoint is what the first three lines say.
func ParseText(text []byte) (Checkpoint, error) {
	c, rest, err := cutText(text)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := c.Validate(); err != nil {
		return Checkpoint{}, err
	}
	if len(rest) > 0 {
		return c, ErrExtension
	}
	return c, nil
}

// cutText reads the first three lines of a note text, and returns what follows them. It
// checks the spelling of each value but not what the values say.
func cutText(text []byte) (c Checkpoint, rest []byte, err error) {
	origin, rest, err := line.Cut(text)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint: origin: %w", err)
	}
	c.Origin = string(origin)
	size, rest, err := line.Cut(rest)
	if err == nil {
		c.Size, err = line.ParseDecimal(size)
	}
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint: size: %w", err)
	}
	root, rest, err := line.Cut(rest)
	if err == nil {
		c.Root, err = line.ParseHash(root)
	}
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint: root hash: %w", err)
	}
	return c, rest, nil
}

// CheckName returns why s cannot be an origin or the name of a key: 1 to MaxNameLength
// bytes of UTF-8 without spaces, plus signs (signed-note) and control characters.
func CheckName(s string) error {
	switch {
	case s == "":
		return errors.New("name is empty")
	case len(s) > MaxNameLength:
		return fmt.Errorf("name of %d bytes is longer than %d", len(s), MaxNameLength)
	case !utf8.ValidString(s):
		return errors.New("name is not UTF-8")
	case strings.Contains(s, "+"):
		return errors.New("name contains a plus sign")
	case strings.ContainsFunc(s, unicode.IsSpace):
		return errors.New("name contains a space")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("name contains a control character")
	}
	return nil
}
