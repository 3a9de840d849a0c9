package checkpoint

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"

	"github.com/keytrail/keytrail/proto/internal/line"
)

// signerPrefix begins the encoding of a private key.
const signerPrefix = "PRIVATE+KEY+"

// SignerKey is a private key with its name. Its secret is in it, or with an external signer
// such as a token. Whatever prints it shows the public key id only; Encode alone returns the
// secret. Safe for concurrent use.
type SignerKey struct {
	verifier VerifierKey
	// secret returns the key itself. It is a function because fmt calls no method of an
	// unexported field and follows pointers under some verbs: of a function it prints
	// the address only, wherever a key is part of what is printed.
	secret func() *secret
}

type secret struct {
	// seed is what the key is derived from: 32 bytes for either algorithm, nothing with an
	// external signer.
	seed []byte
	// One of the two is set.
	mldsa *mldsa44.PrivateKey
	// ed25519 is an ed25519.PrivateKey or an external signer.
	ed25519 crypto.Signer
}

// GenerateEd25519 returns a new Ed25519 key of TypeEd25519, as a log signs with. The
// secret comes from random, which must be crypto/rand.Reader outside of tests.
func GenerateEd25519(name string, random io.Reader) (*SignerKey, error) {
	return generate(name, TypeEd25519, random)
}

// GenerateEd25519Cosigner returns a new Ed25519 key of TypeEd25519Cosignature, as a
// witness signs with; random is as for GenerateEd25519.
func GenerateEd25519Cosigner(name string, random io.Reader) (*SignerKey, error) {
	return generate(name, TypeEd25519Cosignature, random)
}

// GenerateMLDSA44 returns a new ML-DSA-44 key, as logs and witnesses sign with; random is
// as for GenerateEd25519.
func GenerateMLDSA44(name string, random io.Reader) (*SignerKey, error) {
	return generate(name, TypeMLDSA44, random)
}

// seedSize is the size in bytes of the secret behind a key of either algorithm.
const seedSize = 32

func generate(name string, typ KeyType, random io.Reader) (*SignerKey, error) {
	seed := make([]byte, seedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("checkpoint: signer key: reading random bytes: %w", err)
	}
	return NewSignerKey(name, typ, seed)
}

// NewSignerKey returns the key of a name and a kind that a secret seed of 32 bytes gives.
func NewSignerKey(name string, typ KeyType, seed []byte) (*SignerKey, error) {
	if len(seed) != seedSize {
		return nil, fmt.Errorf("checkpoint: signer key: seed of %d bytes, not %d", len(seed), seedSize)
	}
	k := &secret{seed: bytes.Clone(seed)}
	var public []byte
	switch typ {
	case TypeEd25519, TypeEd25519Cosignature:
		private := ed25519.NewKeyFromSeed(seed)
		k.ed25519, public = private, private.Public().(ed25519.PublicKey)
	case TypeMLDSA44:
		k.mldsa, public = newMLDSA(k.seed)
	default:
		return nil, fmt.Errorf("checkpoint: signer key: %v is not supported", typ)
	}
	v, err := NewVerifierKey(name, typ, public)
	if err != nil {
		return nil, err
	}
	return &SignerKey{verifier: v, secret: func() *secret { return k }}, nil
}

// NewSignerFrom returns the key v with a secret that signer holds and does not hand out, as
// a token does. The kinds are those of Ed25519: signer is called with the message itself,
// crypto.Hash(0) and no source of chance, and must be safe for concurrent use. A signature
// that does not verify under v leaves Sign as an error, whatever went wrong in signer.
func NewSignerFrom(v VerifierKey, signer crypto.Signer) (*SignerKey, error) {
	if v.typ != TypeEd25519 && v.typ != TypeEd25519Cosignature {
		return nil, fmt.Errorf("checkpoint: signer key: external signers make Ed25519 signatures, not those of %v", v.typ)
	}
	if public, ok := signer.Public().(ed25519.PublicKey); !ok || !bytes.Equal(public, v.public) {
		return nil, errors.New("checkpoint: signer key: the external signer has another public key")
	}
	k := &secret{ed25519: signer}
	return &SignerKey{verifier: v, secret: func() *secret { return k }}, nil
}

// ParseSignerKey reads PRIVATE+KEY+NAME+ID+BASE64, as Encode, sumdb/note and
// transparency-dev/formats write it. Its errors hold nothing of the key.
func ParseSignerKey(skey string) (*SignerKey, error) {
	rest, ok := strings.CutPrefix(skey, signerPrefix)
	if !ok {
		return nil, errors.New("checkpoint: signer key: does not begin with " + signerPrefix)
	}
	name, rest, _ := strings.Cut(rest, "+")
	id, typ, seed, err := parseKey(rest)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: signer key: %w", err)
	}
	k, err := NewSignerKey(name, typ, seed)
	if err != nil {
		return nil, err
	}
	if k.verifier.id != id {
		return nil, errors.New("checkpoint: signer key: key id does not belong to name and key")
	}
	return k, nil
}

// Encode returns the secret encoding that ParseSignerKey reads. It is empty for a key of
// NewSignerFrom, whose secret is not here.
func (k SignerKey) Encode() string {
	if k.secret().seed == nil {
		return ""
	}
	b := fmt.Appendf(nil, "%s%s+%08x+", signerPrefix, k.verifier.name, k.verifier.id)
	return string(line.AppendBase64(b, append([]byte{byte(k.verifier.typ)}, k.secret().seed...)))
}

// Name returns the key's name.
func (k SignerKey) Name() string { return k.verifier.name }

// VerifierKey returns the public key.
func (k SignerKey) VerifierKey() VerifierKey { return k.verifier }

// Sign signs c. The timestamp, in seconds since 1970, goes into signatures of the kinds
// that carry one and is ignored by TypeEd25519.
func (k SignerKey) Sign(c Checkpoint, timestamp uint64) (Signature, error) {
	if err := c.Validate(); err != nil {
		return Signature{}, err
	}
	return k.sign(c, timestamp)
}

func (k SignerKey) sign(c Checkpoint, timestamp uint64) (Signature, error) {
	if timestamp > maxTimestamp {
		return Signature{}, fmt.Errorf("checkpoint: timestamp %d is above 2^63-1", timestamp)
	}
	msg, err := message(k.verifier.name, k.verifier.typ, c, timestamp)
	if err != nil {
		return Signature{}, err
	}
	var sig []byte
	if k.verifier.typ.Timestamped() {
		sig = binary.BigEndian.AppendUint64(sig, timestamp)
	}
	raw, err := k.secret().sign(msg, k.verifier.public)
	if err != nil {
		return Signature{}, fmt.Errorf("checkpoint: signing with %v key %s+%08x: %w", k.verifier.typ, k.verifier.name, k.verifier.id, err)
	}
	sig = append(sig, raw...)
	return Signature{Name: k.verifier.name, KeyID: k.verifier.id, Sig: sig}, nil
}

// sign signs a message. Signatures of an external signer are verified with the public key.
func (s *secret) sign(msg []byte, public ed25519.PublicKey) ([]byte, error) {
	if s.mldsa != nil {
		return signMLDSA(s.mldsa, msg, nil)
	}
	sig, err := s.ed25519.Sign(nil, msg, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if s.seed == nil && !ed25519.Verify(public, msg, sig) {
		return nil, fmt.Errorf("the signer's answer: %w", ErrSignature)
	}
	return sig, nil
}

// SignNote returns c as a note with one signature of each signer, in their order. A
// signature with a time states t in whole seconds: for a log's own ML-DSA-44 key that is
// when it signs, by its own clock.
func SignNote(c Checkpoint, t time.Time, signers ...*SignerKey) ([]byte, error) {
	if len(signers) == 0 {
		return nil, errors.New("checkpoint: no signer")
	}
	if t.Unix() < 0 {
		return nil, errors.New("checkpoint: time of signing is before 1970")
	}
	sigs := make([]Signature, 0, len(signers))
	for _, k := range signers {
		s, err := k.Sign(c, uint64(t.Unix()))
		if err != nil {
			return nil, err
		}
		sigs = append(sigs, s)
	}
	return AppendNote(nil, c, sigs), nil
}

// redacted is what every way of printing a private key shows.
func (k SignerKey) redacted() string {
	return fmt.Sprintf("%s%s+%08x+[redacted]", signerPrefix, k.verifier.name, k.verifier.id)
}

// String returns the name and the id, not the secret.
func (k SignerKey) String() string { return k.redacted() }

// Format writes what String returns, for every verb and flag of fmt.
func (k SignerKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.redacted()) }

// MarshalText returns what String returns, so that no encoder and no slog handler writes
// the secret.
func (k SignerKey) MarshalText() ([]byte, error) { return []byte(k.redacted()), nil }
