package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"

	"github.com/keytrail/keytrail/proto/internal/line"
)

// KeyType is the byte that signed-note assigns to a kind of signature.
type KeyType uint8

// The kinds of signature that this package makes and verifies.
const (
	// TypeEd25519 signs the note text.
	TypeEd25519 KeyType = 0x01
	// TypeEd25519Cosignature signs the note text and a time.
	TypeEd25519Cosignature KeyType = 0x04
	// TypeMLDSA44 signs the checkpoint and a time with ML-DSA-44 (FIPS 204).
	TypeMLDSA44 KeyType = 0x06
)

// String returns the name of the kind, for people.
func (t KeyType) String() string {
	switch t {
	case TypeEd25519:
		return "Ed25519"
	case TypeEd25519Cosignature:
		return "Ed25519 cosignature"
	case TypeMLDSA44:
		return "ML-DSA-44"
	}
	return fmt.Sprintf("signature type 0x%02x", uint8(t))
}

// Timestamped reports whether signatures of this kind carry a time, as those of a
// witness must.
func (t KeyType) Timestamped() bool {
	return t == TypeEd25519Cosignature || t == TypeMLDSA44
}

// publicKeySize returns the size in bytes of the public keys of a kind, 0 for an unknown
// kind.
func (t KeyType) publicKeySize() int {
	switch t {
	case TypeEd25519, TypeEd25519Cosignature:
		return ed25519.PublicKeySize
	case TypeMLDSA44:
		return mldsa44.PublicKeySize
	}
	return 0
}

// ErrSignature means that a signature was not made by the key over the checkpoint.
var ErrSignature = errors.New("checkpoint: signature does not verify")

// maxTimestamp is the latest time in a signature, in seconds since 1970 (tlog-cosignature).
const maxTimestamp = 1<<63 - 1

// timestampSize is the size of the time before a signature in bytes.
const timestampSize = 8

// VerifierKey is a public key with its name. The zero value verifies nothing.
type VerifierKey struct {
	name   string
	id     uint32
	typ    KeyType
	public []byte
	// mldsa is the decoded key of TypeMLDSA44.
	mldsa *mldsa44.PublicKey
}

// NewVerifierKey returns the key of a name, a kind and the encoded public key.
func NewVerifierKey(name string, typ KeyType, public []byte) (VerifierKey, error) {
	if err := CheckName(name); err != nil {
		return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: %w", err)
	}
	size := typ.publicKeySize()
	if size == 0 {
		return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: %v is not supported", typ)
	}
	if len(public) != size {
		return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: %v public key of %d bytes, not %d", typ, len(public), size)
	}
	k := VerifierKey{name: name, typ: typ, public: bytes.Clone(public), id: keyID(name, typ, public)}
	if typ == TypeMLDSA44 {
		var err error
		if k.mldsa, err = parseMLDSA(public); err != nil {
			return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: reading ML-DSA-44 public key: %w", err)
		}
	}
	return k, nil
}

// keyID returns the id that signed-note and tlog-cosignature prescribe.
func keyID(name string, typ KeyType, public []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', byte(typ)})
	h.Write(public)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// ParseVerifierKey reads a vkey (signed-note): NAME+ID+BASE64. The id must be the one
// that belongs to name, kind and key.
func ParseVerifierKey(vkey string) (VerifierKey, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	id, typ, public, err := parseKey(rest)
	if err != nil {
		return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: %w", err)
	}
	k, err := NewVerifierKey(name, typ, public)
	if err != nil {
		return VerifierKey{}, err
	}
	if k.id != id {
		return VerifierKey{}, fmt.Errorf("checkpoint: verifier key: key id is %08x, but name and key have %08x", id, k.id)
	}
	return k, nil
}

// parseKey reads ID+BASE64, the end of public and private keys alike. Its errors hold
// nothing of what it reads.
func parseKey(s string) (id uint32, typ KeyType, key []byte, err error) {
	hex, b64, ok := strings.Cut(s, "+")
	if !ok {
		return 0, 0, nil, errors.New("not of the form NAME+ID+KEY")
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil || len(hex) != 2*keyIDSize || strings.ToLower(hex) != hex {
		return 0, 0, nil, errors.New("key id is not 8 lower-case hexadecimal digits")
	}
	raw, err := line.ParseBase64([]byte(b64))
	if err != nil {
		return 0, 0, nil, err
	}
	if len(raw) == 0 {
		return 0, 0, nil, errors.New("key is empty")
	}
	return uint32(n), KeyType(raw[0]), raw[1:], nil
}

// Name returns the key's name: the origin for a log's key.
func (k VerifierKey) Name() string { return k.name }

// ID returns the key's id.
func (k VerifierKey) ID() uint32 { return k.id }

// Type returns the kind of signature.
func (k VerifierKey) Type() KeyType { return k.typ }

// PublicKey returns a copy of the encoded public key: 32 bytes of Ed25519 or 1,312 of
// ML-DSA-44.
func (k VerifierKey) PublicKey() []byte { return bytes.Clone(k.public) }

// String returns the vkey that ParseVerifierKey reads.
func (k VerifierKey) String() string {
	b := fmt.Appendf(nil, "%s+%08x+", k.name, k.id)
	return string(line.AppendBase64(b, append([]byte{byte(k.typ)}, k.public...)))
}

// Equal reports whether the two have the same name, kind and public key.
func (k VerifierKey) Equal(o VerifierKey) bool {
	return k.name == o.name && k.typ == o.typ && bytes.Equal(k.public, o.public)
}

// SameKey reports whether the two hold the same underlying public key, whatever their
// names and ids (tlog-policy). An Ed25519 key is the same key for both of its kinds.
func (k VerifierKey) SameKey(o VerifierKey) bool {
	return bytes.Equal(k.public, o.public)
}

// Made reports whether a signature line claims to be of this key. It says nothing about
// whether the signature is good.
func (k VerifierKey) Made(s Signature) bool {
	return k.name == s.Name && k.id == s.KeyID
}

// Verify checks that the key made the signature over c, and returns the time that the
// signer stated, in seconds since 1970; 0 for TypeEd25519, which has none. The error is
// ErrSignature when the signature is not good.
func (k VerifierKey) Verify(c Checkpoint, s Signature) (timestamp uint64, err error) {
	if !k.Made(s) {
		return 0, fmt.Errorf("checkpoint: signature of another key: %q %08x", s.Name, s.KeyID)
	}
	sig := s.Sig
	if k.typ.Timestamped() {
		if len(sig) < timestampSize {
			return 0, ErrSignature
		}
		timestamp, sig = binary.BigEndian.Uint64(sig), sig[timestampSize:]
		if timestamp > maxTimestamp {
			return 0, ErrSignature
		}
	}
	msg, err := message(k.name, k.typ, c, timestamp)
	if err != nil {
		return 0, err
	}
	switch k.typ {
	case TypeEd25519, TypeEd25519Cosignature:
		if len(sig) != ed25519.SignatureSize || !ed25519.Verify(k.public, msg, sig) {
			return 0, ErrSignature
		}
	case TypeMLDSA44:
		if !verifyMLDSA(k.mldsa, msg, nil, sig) {
			return 0, ErrSignature
		}
	}
	return timestamp, nil
}

// message returns the bytes that a signature covers (signed-note, tlog-cosignature).
func message(name string, typ KeyType, c Checkpoint, timestamp uint64) ([]byte, error) {
	switch typ {
	case TypeEd25519:
		return c.Text(), nil
	case TypeEd25519Cosignature:
		return c.AppendText(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", timestamp)), nil
	case TypeMLDSA44:
		return subtreeMessage(name, Subtree{Origin: c.Origin, End: c.Size, Hash: c.Root}, timestamp)
	}
	return nil, fmt.Errorf("checkpoint: %v is not supported", typ)
}
