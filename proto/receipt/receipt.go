// Package receipt reads and writes receipts: proofs that an entry is in a log, in the
// format of C2SP tlog-proof version 1 (".tlog-proof").
//
// Pure functions; safe for concurrent use. The package is trusted with the form alone: a
// receipt that parses may be wrong in every other way, and package client/verify decides.
package receipt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/internal/line"
)

// Limits of what is read.
const (
	// MaxExtra is the largest extra data in bytes: salt and record of the largest event
	// fit (32 KiB, with 8 KiB for what the log adds), and in base64 the line stays below
	// the 64 KiB to which other readers of the format are limited.
	MaxExtra = 40 << 10
	// MaxHashes is the largest number of hashes.
	MaxHashes = line.MaxHashes
	// MaxSize is the largest receipt in bytes.
	MaxSize = checkpoint.MaxNoteSize + 64<<10
)

// header is the first line.
const header = "c2sp.org/tlog-proof@v1"

// Receipt is a proof as it stands in a file; nothing in it is verified.
type Receipt struct {
	// Index is the entry's place in the log, from 0.
	Index uint64
	// Hashes is the RFC 6962 inclusion proof, leaf's sibling first; at most MaxHashes.
	Hashes [][32]byte
	// Extra holds the entry's salt and record, at most MaxExtra bytes. Nil when absent.
	Extra []byte
	// Checkpoint is the signed note, at most checkpoint.MaxNoteSize bytes, ending in a
	// newline.
	Checkpoint []byte
}

// Size is the number of bytes that Append appends, at most.
func (r *Receipt) Size() int {
	const lines = len(header) + len("extra \nindex 18446744073709551615\n\n\n")
	return lines + base64.StdEncoding.EncodedLen(len(r.Extra)) + len(r.Hashes)*(line.HashLength+1) + len(r.Checkpoint)
}

// Append appends the encoding of r to b.
func (r *Receipt) Append(b []byte) []byte {
	b = append(b, header+"\n"...)
	if len(r.Extra) > 0 {
		b = append(b, "extra "...)
		b = line.AppendBase64(b, r.Extra)
		b = append(b, '\n')
	}
	b = append(b, "index "...)
	b = strconv.AppendUint(b, r.Index, 10)
	b = append(b, '\n')
	b = line.AppendHashes(b, r.Hashes)
	b = append(b, '\n')
	return append(b, r.Checkpoint...)
}

// Parse reads a receipt of at most MaxSize bytes. It accepts exactly what Append writes
// of a receipt within the limits; the checkpoint is only checked to be there and to end
// in a newline.
func Parse(data []byte) (*Receipt, error) {
	r := &Receipt{}
	if err := r.Parse(data); err != nil {
		return nil, err
	}
	r.Checkpoint = bytes.Clone(r.Checkpoint)
	return r, nil
}

// Parse is the function Parse into the arrays of what r has held, for whoever reads many
// receipts. Checkpoint becomes part of data. After an error r holds nothing of use.
func (r *Receipt) Parse(data []byte) error {
	hashes := r.Hashes[:0]
	rest, err := r.parseBegin(data)
	if err != nil {
		return err
	}
	if r.Hashes, rest, err = line.AppendCutHashes(hashes, rest); err != nil {
		return fmt.Errorf("receipt: inclusion proof, hash %d: %w", len(r.Hashes)+1, err)
	}
	if err := checkNote(rest); err != nil {
		return err
	}
	r.Checkpoint = rest
	return nil
}

// parseBegin reads what stands before the hashes, and returns what follows.
func (r *Receipt) parseBegin(data []byte) (rest []byte, err error) {
	extra := r.Extra[:0]
	*r = Receipt{}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("receipt: %d bytes are more than %d", len(data), MaxSize)
	}
	first, rest, err := line.Cut(data)
	if err != nil || string(first) != header {
		return nil, errors.New("receipt: first line is not " + header)
	}
	first, rest, err = line.Cut(rest)
	if err == nil && bytes.HasPrefix(first, []byte("extra ")) {
		if r.Extra, err = parseExtra(extra, first[len("extra "):]); err == nil {
			first, rest, err = line.Cut(rest)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	digits, ok := bytes.CutPrefix(first, []byte("index "))
	if !ok {
		return nil, errors.New("receipt: no index line")
	}
	if r.Index, err = line.ParseDecimal(digits); err != nil {
		return nil, fmt.Errorf("receipt: index: %w", err)
	}
	return rest, nil
}

func parseExtra(into, b64 []byte) ([]byte, error) {
	extra, err := line.AppendParsed(slices.Grow(into, base64.StdEncoding.DecodedLen(len(b64))), b64)
	if err != nil {
		return nil, fmt.Errorf("extra data: %w", err)
	}
	if len(extra) == 0 {
		return nil, errors.New("extra data: line without data")
	}
	if len(extra) > MaxExtra {
		return nil, fmt.Errorf("extra data: %d bytes are more than %d", len(extra), MaxExtra)
	}
	return extra, nil
}

func checkNote(note []byte) error {
	switch {
	case len(note) == 0:
		return errors.New("receipt: no checkpoint")
	case len(note) > checkpoint.MaxNoteSize:
		return fmt.Errorf("receipt: checkpoint of %d bytes is larger than %d", len(note), checkpoint.MaxNoteSize)
	case note[len(note)-1] != '\n':
		return errors.New("receipt: checkpoint does not end in a newline")
	}
	return nil
}
