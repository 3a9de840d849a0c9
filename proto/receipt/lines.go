package receipt

import (
	"errors"

	"github.com/keytrail/keytrail/proto/internal/line"
)

// LineSize is the length of the line of a hash with its newline, in bytes.
const LineSize = line.HashLength + 1

// Lines are the lines of an inclusion proof as they stand in a receipt, LineSize bytes each.
// Each ends in a newline; nothing else is known of them. A hash has one spelling only.
type Lines []byte

// Len is the number of lines.
func (l Lines) Len() int { return len(l) / LineSize }

// Hash reads a line; ok is false when it holds no hash.
func (l Lines) Hash(i int) (h [line.HashSize]byte, ok bool) {
	h, err := line.ParseHash(l[i*LineSize : (i+1)*LineSize-1])
	return h, err == nil
}

var errLines = errors.New("receipt: inclusion proof: not lines of a hash each and an empty one")

// ParseLines is the method Parse for whoever can do without some of the hashes: it leaves
// Hashes empty and returns their lines, which are part of data. A receipt whose lines all
// hold hashes is one that Parse reads; all others are refused by Parse too.
func (r *Receipt) ParseLines(data []byte) (Lines, error) {
	rest, err := r.parseBegin(data)
	if err != nil {
		return nil, err
	}
	end := 0
	for ; len(rest) > end && rest[end] != '\n'; end += LineSize {
		if len(rest) < end+LineSize || rest[end+LineSize-1] != '\n' || end == MaxHashes*LineSize {
			return nil, errLines
		}
	}
	if len(rest) == end {
		return nil, errLines
	}
	if err := checkNote(rest[end+1:]); err != nil {
		return nil, err
	}
	r.Checkpoint = rest[end+1:]
	return Lines(rest[:end:end]), nil
}
