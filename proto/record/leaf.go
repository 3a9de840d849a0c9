package record

import (
	"crypto/sha256"
	"fmt"
)

const (
	// SaltSize is the size of a payload's salt in bytes: random, new for each record.
	SaltSize = 32
	// MaxPayloadSize is the size of the largest payload in bytes.
	MaxPayloadSize = SaltSize + MaxRecordSize
	// LeafSize is the size of a leaf in bytes: the version and a SHA-256.
	LeafSize = 1 + sha256.Size
	// LeafVersion is the first byte of a leaf that commits to a record. Other first
	// bytes are reserved for leaves that are public themselves.
	LeafVersion = 0x01

	leafDomain = "keytrail.dev/record/v1\n"
)

// AppendPayload appends salt and record to dst: what the log keeps privately behind a
// leaf, and what a receipt shows to open it.
func AppendPayload(dst []byte, salt *[SaltSize]byte, r *Record) []byte {
	return r.Append(append(dst, salt[:]...))
}

// Open takes a payload apart into salt and the record's bytes, which are part of payload.
// It bounds sizes and does not parse the record.
func Open(payload []byte) (salt [SaltSize]byte, rec []byte, err error) {
	if len(payload) <= SaltSize || len(payload) > MaxPayloadSize {
		return salt, nil, fmt.Errorf("opening payload: %d bytes; allowed are %d to %d", len(payload), SaltSize+1, MaxPayloadSize)
	}
	copy(salt[:], payload)
	return salt, payload[SaltSize:], nil
}

// Leaf is the public commitment to a payload, and what the tree hashes:
//
//	0x01 || SHA-256("keytrail.dev/record/v1\n" || salt || record)
//
// The salt keeps whoever sees the leaf from trying records until one fits.
func Leaf(payload []byte) [LeafSize]byte {
	h := sha256.New()
	h.Write([]byte(leafDomain))
	h.Write(payload)
	var leaf [LeafSize]byte
	leaf[0] = LeafVersion
	h.Sum(leaf[:1])
	return leaf
}

// ParseLeaf returns the hash in a leaf that commits to a record. A leaf with another
// first byte or of another size is refused.
func ParseLeaf(leaf []byte) (hash [sha256.Size]byte, err error) {
	switch {
	case len(leaf) != LeafSize:
		return hash, fmt.Errorf("parsing leaf: %d bytes instead of %d", len(leaf), LeafSize)
	case leaf[0] != LeafVersion:
		return hash, fmt.Errorf("parsing leaf: first byte is %#02x, not %#02x", leaf[0], LeafVersion)
	}
	return [sha256.Size]byte(leaf[1:]), nil
}
