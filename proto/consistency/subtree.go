package consistency

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/internal/line"
)

// SubtreeBundle is a proof that a subtree is part of a tree: the body of tlog-witness's
// sign-subtree request, byte for byte. Nothing in it is verified.
type SubtreeBundle struct {
	// Start is the first entry of the subtree, End the one after the last.
	Start, End uint64
	// Hash is the hash of the subtree.
	Hash [32]byte
	// Hashes is the subtree consistency proof (draft-ietf-plants-merkle-tree-certs section
	// 4.4); at most MaxHashes.
	Hashes [][32]byte
	// Checkpoint is the signed note of the tree, at most checkpoint.MaxNoteSize bytes,
	// ending in a newline.
	Checkpoint []byte
}

// Append appends the encoding of u to b.
func (u *SubtreeBundle) Append(b []byte) []byte {
	b = append(b, "subtree "...)
	b = strconv.AppendUint(b, u.Start, 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, u.End, 10)
	b = append(b, '\n')
	b = line.AppendHashes(b, [][32]byte{u.Hash})
	b = line.AppendHashes(b, u.Hashes)
	b = append(b, '\n')
	return append(b, u.Checkpoint...)
}

// ParseSubtree reads a bundle of at most MaxSize bytes. It accepts exactly what Append
// writes of a bundle within the limits; the checkpoint is only checked to be there and to
// end in a newline.
func ParseSubtree(data []byte) (*SubtreeBundle, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("consistency: %d bytes are more than %d", len(data), MaxSize)
	}
	first, rest, err := line.Cut(data)
	if err != nil {
		return nil, fmt.Errorf("consistency: range of the subtree: %w", err)
	}
	digits, ok := bytes.CutPrefix(first, []byte("subtree "))
	start, end, two := bytes.Cut(digits, []byte(" "))
	if !ok || !two {
		return nil, errors.New("consistency: first line does not state the range of a subtree")
	}
	u := &SubtreeBundle{}
	if u.Start, err = line.ParseDecimal(start); err != nil {
		return nil, fmt.Errorf("consistency: start of the subtree: %w", err)
	}
	if u.End, err = line.ParseDecimal(end); err != nil {
		return nil, fmt.Errorf("consistency: end of the subtree: %w", err)
	}
	if u.Hash, rest, err = cutHash(rest); err != nil {
		return nil, err
	}
	if u.Hashes, rest, err = line.CutHashes(rest); err != nil {
		return nil, fmt.Errorf("consistency: proof, hash %d: %w", len(u.Hashes)+1, err)
	}
	if u.Checkpoint, err = cutCheckpoint(rest); err != nil {
		return nil, err
	}
	return u, nil
}

// cutHash reads the hash of the subtree.
func cutHash(b []byte) (h [32]byte, rest []byte, err error) {
	first, rest, err := line.Cut(b)
	if err != nil {
		return h, nil, fmt.Errorf("consistency: hash of the subtree: %w", err)
	}
	if h, err = line.ParseHash(first); err != nil {
		return h, nil, fmt.Errorf("consistency: hash of the subtree: %w", err)
	}
	return h, rest, nil
}

// cutCheckpoint returns the signed note at the end of a bundle.
func cutCheckpoint(rest []byte) ([]byte, error) {
	switch {
	case len(rest) == 0:
		return nil, errors.New("consistency: no checkpoint")
	case len(rest) > checkpoint.MaxNoteSize:
		return nil, fmt.Errorf("consistency: checkpoint of %d bytes is larger than %d", len(rest), checkpoint.MaxNoteSize)
	case rest[len(rest)-1] != '\n':
		return nil, errors.New("consistency: checkpoint does not end in a newline")
	}
	return bytes.Clone(rest), nil
}
