package view

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
)

// token is where the next page begins. It holds the size that the first page covered, so
// that the pages together are one answer however the log grows.
type token struct {
	next uint64
	size uint64
}

const (
	tokenVersion = 1
	tokenSumSize = 16
	tokenSize    = 1 + 8 + 8 + tokenSumSize
)

// A token carries a hash over itself and the question, which keeps it from being used
// with another one. It is no secret: whoever makes one up gets the answer to a question
// that he was allowed to ask.
func (t token) sum(question []byte) [tokenSumSize]byte {
	b := append([]byte("keytrail view page\n"), tokenVersion)
	b = binary.BigEndian.AppendUint64(b, t.next)
	b = binary.BigEndian.AppendUint64(b, t.size)
	h := sha256.Sum256(append(b, question...))
	return [tokenSumSize]byte(h[:])
}

func (t token) encode(question []byte) string {
	b := []byte{tokenVersion}
	b = binary.BigEndian.AppendUint64(b, t.next)
	b = binary.BigEndian.AppendUint64(b, t.size)
	sum := t.sum(question)
	return base64.RawURLEncoding.EncodeToString(append(b, sum[:]...))
}

// parseToken reads a token that belongs to a question; any other is an *ArgumentError.
func parseToken(s string, question []byte) (token, error) {
	bad := &ArgumentError{"page_token", "is not one that this query returned; a token goes with the same filter"}
	if len(s) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return token{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tokenSize || b[0] != tokenVersion {
		return token{}, bad
	}
	t := token{next: binary.BigEndian.Uint64(b[1:]), size: binary.BigEndian.Uint64(b[9:])}
	sum := t.sum(question)
	if subtle.ConstantTimeCompare(sum[:], b[17:]) != 1 || t.next >= t.size {
		return token{}, bad
	}
	return t, nil
}
