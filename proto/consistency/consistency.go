// Package consistency reads and writes consistency bundles: an earlier size, the proof
// that a later tree extends the tree of that size, and the later signed checkpoint. A
// bundle is the body of tlog-witness's add-checkpoint request, byte for byte; a subtree
// bundle is that of its sign-subtree request.
//
// Pure functions; safe for concurrent use. The package is trusted with the form alone:
// package client/verify decides whether a bundle proves anything.
package consistency

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/internal/line"
)

// Limits of what is read.
const (
	// MaxHashes is the largest number of hashes (tlog-witness).
	MaxHashes = line.MaxHashes
	// MaxSize is the largest bundle in bytes.
	MaxSize = checkpoint.MaxNoteSize + 4<<10
)

// Bundle is a proof as it stands in a file; nothing in it is verified.
type Bundle struct {
	// OldSize is the size of the earlier tree.
	OldSize uint64
	// Hashes is the RFC 6962 consistency proof; at most MaxHashes.
	Hashes [][32]byte
	// Checkpoint is the later signed note, at most checkpoint.MaxNoteSize bytes, ending
	// in a newline.
	Checkpoint []byte
}

// Append appends the encoding of u to b.
func (u *Bundle) Append(b []byte) []byte {
	b = append(b, "old "...)
	b = strconv.AppendUint(b, u.OldSize, 10)
	b = append(b, '\n')
	b = line.AppendHashes(b, u.Hashes)
	b = append(b, '\n')
	return append(b, u.Checkpoint...)
}

// Parse reads a bundle of at most MaxSize bytes. It accepts exactly what Append writes of
// a bundle within the limits; the checkpoint is only checked to be there and to end in a
// newline.
func Parse(data []byte) (*Bundle, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("consistency: %d bytes are more than %d", len(data), MaxSize)
	}
	first, rest, err := line.Cut(data)
	if err != nil {
		return nil, fmt.Errorf("consistency: old size: %w", err)
	}
	digits, ok := bytes.CutPrefix(first, []byte("old "))
	if !ok {
		return nil, errors.New("consistency: first line does not state the old size")
	}
	u := &Bundle{}
	if u.OldSize, err = line.ParseDecimal(digits); err != nil {
		return nil, fmt.Errorf("consistency: old size: %w", err)
	}
	if u.Hashes, rest, err = line.CutHashes(rest); err != nil {
		return nil, fmt.Errorf("consistency: proof, hash %d: %w", len(u.Hashes)+1, err)
	}
	if u.Checkpoint, err = cutCheckpoint(rest); err != nil {
		return nil, err
	}
	return u, nil
}
