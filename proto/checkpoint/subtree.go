package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Subtree is a part of a log's tree that a cosigner can vouch for by itself: the entries
// from Start to End, as the hash of their Merkle tree (tlog-cosignature,
// draft-ietf-plants-merkle-tree-certs section 4). With Start 0 it is the tree of size End.
type Subtree struct {
	// Origin names the log, 1 to MaxNameLength bytes.
	Origin string
	// Start is the first entry, End the one after the last.
	Start, End uint64
	// Hash is the RFC 6962 Merkle tree hash of the entries.
	Hash [32]byte
}

// Validate returns why s is no subtree: it has one entry at least, and begins at a multiple
// of the smallest power of two that is not less than its size (section 4.1 of the draft).
func (s Subtree) Validate() error {
	if err := CheckOrigin(s.Origin); err != nil {
		return err
	}
	if s.Start >= s.End {
		return fmt.Errorf("checkpoint: subtree from %d to %d has no entry", s.Start, s.End)
	}
	// Start is a multiple of that power of two if it has no bit in common with the largest
	// number of an entry within.
	for size := s.End - s.Start - 1; size > 0; size >>= 1 {
		if s.Start&1 != 0 {
			return fmt.Errorf("checkpoint: %d to %d is no subtree", s.Start, s.End)
		}
		s.Start >>= 1
	}
	return nil
}

// CosignSubtree signs a subtree with an ML-DSA-44 key. It states no time: the time 0 says
// that nothing is claimed about larger trees.
func (k SignerKey) CosignSubtree(s Subtree) (Signature, error) {
	if k.verifier.typ != TypeMLDSA44 {
		return Signature{}, fmt.Errorf("checkpoint: %v key cannot sign subtrees", k.verifier.typ)
	}
	if err := s.Validate(); err != nil {
		return Signature{}, err
	}
	msg, err := subtreeMessage(k.verifier.name, s, 0)
	if err != nil {
		return Signature{}, err
	}
	raw, err := k.secret().sign(msg, nil)
	if err != nil {
		return Signature{}, fmt.Errorf("checkpoint: signing with %v key %s+%08x: %w", k.verifier.typ, k.verifier.name, k.verifier.id, err)
	}
	sig := append(make([]byte, timestampSize, timestampSize+len(raw)), raw...)
	return Signature{Name: k.verifier.name, KeyID: k.verifier.id, Sig: sig}, nil
}

// VerifySubtree checks that the key signed a subtree without a time. The error is
// ErrSignature when the signature is not good.
func (k VerifierKey) VerifySubtree(s Subtree, sig Signature) error {
	if k.typ != TypeMLDSA44 {
		return fmt.Errorf("checkpoint: %v key cannot sign subtrees", k.typ)
	}
	if !k.Made(sig) {
		return fmt.Errorf("checkpoint: signature of another key: %q %08x", sig.Name, sig.KeyID)
	}
	if err := s.Validate(); err != nil {
		return err
	}
	if len(sig.Sig) < timestampSize || binary.BigEndian.Uint64(sig.Sig) != 0 {
		return ErrSignature
	}
	msg, err := subtreeMessage(k.name, s, 0)
	if err != nil {
		return err
	}
	if !verifyMLDSA(k.mldsa, msg, nil, sig.Sig[timestampSize:]) {
		return ErrSignature
	}
	return nil
}

// subtreeMessage returns the cosigned_message of tlog-cosignature, which an ML-DSA-44
// signature covers. A checkpoint is the subtree that begins with 0.
func subtreeMessage(name string, s Subtree, timestamp uint64) ([]byte, error) {
	if len(name) > MaxNameLength || len(s.Origin) > MaxNameLength {
		return nil, fmt.Errorf("checkpoint: name or origin is longer than %d bytes", MaxNameLength)
	}
	if s.Start != 0 && timestamp != 0 {
		return nil, errors.New("checkpoint: only a whole tree is signed with a time")
	}
	b := append([]byte("subtree/v1\n\x00"), byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, timestamp)
	b = append(b, byte(len(s.Origin)))
	b = append(b, s.Origin...)
	b = binary.BigEndian.AppendUint64(b, s.Start)
	b = binary.BigEndian.AppendUint64(b, s.End)
	return append(b, s.Hash[:]...), nil
}
