// Package line reads and writes the pieces that the C2SP text formats share: lines,
// decimal numbers, base64 and hashes, each with exactly one accepted spelling.
//
// Pure functions; safe for concurrent use. They are trusted to refuse every second
// spelling of a value, so that what was parsed can be written again byte for byte.
package line

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
)

// HashSize is the size of a SHA-256 hash in bytes.
const HashSize = 32

// HashLength is the length of a hash in base64, in characters.
const HashLength = 44

// Errors of this package.
var (
	ErrNewline = errors.New("line does not end in a newline")
	ErrDecimal = errors.New("not a decimal number below 2^64 without leading zeros")
	ErrBase64  = errors.New("not canonical base64")
	ErrHash    = errors.New("not 32 bytes in canonical base64")
)

// Cut returns the first line of b without its newline, and what follows.
func Cut(b []byte) (first, rest []byte, err error) {
	first, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return nil, nil, ErrNewline
	}
	return first, rest, nil
}

// ParseDecimal reads an ASCII decimal number without sign and leading zeros.
func ParseDecimal(b []byte) (uint64, error) {
	if len(b) == 0 || len(b) > 20 || (b[0] == '0' && len(b) > 1) {
		return 0, ErrDecimal
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, ErrDecimal
		}
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0, ErrDecimal
	}
	return n, nil
}

// ParseBase64 reads standard base64 (RFC 4648 section 4) with padding, without line
// breaks and with the unused bits zero.
func ParseBase64(b []byte) ([]byte, error) {
	return AppendParsed(make([]byte, 0, base64.StdEncoding.DecodedLen(len(b))), b)
}

// AppendParsed appends to dst what ParseBase64 reads.
func AppendParsed(dst, b []byte) ([]byte, error) {
	if len(b)%4 != 0 {
		return nil, ErrBase64
	}
	if len(b) == 0 {
		return dst, nil
	}
	// All but the last four characters hold three bytes each. They are written four at a
	// time, of which the last is written over.
	whole := (len(b)/4 - 1) * 3
	dst = slices.Grow(dst, whole+1)
	into := dst[len(dst) : len(dst)+whole+1]
	var all uint32
	for ; len(b) > 4 && len(into) >= 4; b, into = b[4:], into[3:] {
		b0, b1, b2, b3 := alphabet[b[0]], alphabet[b[1]], alphabet[b[2]], alphabet[b[3]]
		all |= b0 | b1 | b2 | b3
		binary.BigEndian.PutUint32(into, b0<<26|b1<<20|b2<<14|b3<<8)
	}
	dst = dst[:len(dst)+whole]
	last, n := [4]byte(b), 3
	for n > 1 && last[n] == '=' {
		last[n] = 'A'
		n--
	}
	v, bad := quad(last[:])
	if unused := v & (1<<(8*(3-n)) - 1); bad || unused != 0 || all&notInAlphabet != 0 {
		return nil, ErrBase64
	}
	return append(dst, []byte{byte(v >> 16), byte(v >> 8), byte(v)}[:n]...), nil
}

// quad reads four characters; bad is true when one of them is not of the alphabet.
func quad(b []byte) (v uint32, bad bool) {
	b0, b1, b2, b3 := alphabet[b[0]], alphabet[b[1]], alphabet[b[2]], alphabet[b[3]]
	return b0<<18 | b1<<12 | b2<<6 | b3, (b0|b1|b2|b3)&notInAlphabet != 0
}

const notInAlphabet = 1 << 31

// alphabet gives the value of each character: several times faster than the decoder of
// encoding/base64, which decodes most of what a receipt has.
var alphabet = func() (values [256]uint32) {
	for c := range values {
		values[c] = notInAlphabet
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		values[c] = uint32(i)
	}
	return values
}()

// ParseHash reads one hash in base64.
func ParseHash(b []byte) ([HashSize]byte, error) {
	var h [HashSize]byte
	if len(b) != HashLength {
		return h, ErrHash
	}
	if out, err := AppendParsed(h[:0], b); err != nil || len(out) != HashSize {
		return [HashSize]byte{}, ErrHash
	}
	return h, nil
}

// AppendBase64 appends data in base64.
func AppendBase64(b, data []byte) []byte {
	return base64.StdEncoding.AppendEncode(b, data)
}

// AppendHashes appends one line for each hash.
func AppendHashes(b []byte, hashes [][HashSize]byte) []byte {
	for i := range hashes {
		b = AppendBase64(b, hashes[i][:])
		b = append(b, '\n')
	}
	return b
}

// ErrTooManyHashes means a proof of more hashes than a tree of 2^64 leaves can need.
var ErrTooManyHashes = errors.New("more than 63 hashes")

// MaxHashes is the largest number of hashes in a proof (tlog-witness; also the height of
// any tree below 2^63 leaves).
const MaxHashes = 63

// CutHashes reads lines of one hash each up to an empty line, and returns them with what
// follows the empty line. With an error, hashes are the good ones before it.
func CutHashes(b []byte) (hashes [][HashSize]byte, rest []byte, err error) {
	return AppendCutHashes(nil, b)
}

// AppendCutHashes is CutHashes into the array of an empty slice.
func AppendCutHashes(hashes [][HashSize]byte, b []byte) (_ [][HashSize]byte, rest []byte, err error) {
	for {
		first, after, err := Cut(b)
		if err != nil {
			return hashes, nil, err
		}
		if len(first) == 0 {
			return hashes, after, nil
		}
		if len(hashes) == MaxHashes {
			return hashes, nil, ErrTooManyHashes
		}
		h, err := ParseHash(first)
		if err != nil {
			return hashes, nil, err
		}
		hashes = append(hashes, h)
		b = after
	}
}
