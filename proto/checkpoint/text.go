package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// A log's keys sign one thing besides checkpoints: the text of a statement about the log
// itself (package statement), as a signed note. No such text can be taken for a checkpoint,
// nor a checkpoint for such a text.
//
// With TypeEd25519 that is signed-note as it stands. For ML-DSA-44 tlog-cosignature
// defines signatures of checkpoints only, so that the signature of a text has a type of
// its own, and with it another key id, and FIPS 204's context keeps the two apart.
const (
	// textContext is the context string of ML-DSA-44 signatures of texts.
	textContext = "keytrail.dev/text/v1"
	// textType takes the place of the type's byte in the key id of ML-DSA-44 signatures of
	// texts: 0xff and a long identifier, as signed-note prescribes for private types.
	textType = "\xffkeytrail.dev/text/v1/ML-DSA-44"
)

// SplitNote reads a signed note of at most MaxNoteSize bytes up to its text, which ends
// in a newline. Nothing is verified.
func SplitNote(note []byte) (text []byte, sigs []Signature, err error) {
	return splitNote(note)
}

// checkText returns why a text cannot be signed: it must not be readable as a checkpoint
// or as what a witness signs.
func checkText(text []byte) error {
	switch _, _, err := cutText(text); {
	case !bytes.HasSuffix(text, []byte("\n")):
		return errors.New("checkpoint: text does not end in a newline")
	case err == nil:
		return errors.New("checkpoint: text can be read as a checkpoint")
	case bytes.HasPrefix(text, []byte("cosignature/v1\n")):
		return errors.New("checkpoint: text can be read as a cosignature")
	}
	return checkCharacters(text)
}

// textID is the key id of the key's signatures of texts, and whether it makes any.
func (k VerifierKey) textID() (uint32, bool) {
	switch k.typ {
	case TypeEd25519:
		return k.id, true
	case TypeMLDSA44:
		h := sha256.New()
		h.Write([]byte(k.name + "\n" + textType))
		h.Write(k.public)
		return binary.BigEndian.Uint32(h.Sum(nil)), true
	case TypeEd25519Cosignature:
	}
	return 0, false
}

// MadeText reports whether a signature line under a text claims to be of this key. It says
// nothing about whether the signature is good.
func (k VerifierKey) MadeText(s Signature) bool {
	id, ok := k.textID()
	return ok && k.name == s.Name && id == s.KeyID
}

// VerifyText checks that the key made the signature over a text, which is not a
// checkpoint's. The error is ErrSignature when the signature is not good.
func (k VerifierKey) VerifyText(text []byte, s Signature) error {
	if !k.MadeText(s) {
		return fmt.Errorf("checkpoint: signature of another key: %q %08x", s.Name, s.KeyID)
	}
	if err := checkText(text); err != nil {
		return err
	}
	good := false
	if k.typ == TypeMLDSA44 {
		good = verifyMLDSA(k.mldsa, text, []byte(textContext), s.Sig)
	} else {
		good = len(s.Sig) == ed25519.SignatureSize && ed25519.Verify(k.public, text, s.Sig)
	}
	if !good {
		return ErrSignature
	}
	return nil
}

// SignText signs a text that no one can take for a checkpoint; others are refused, and so
// are keys of TypeEd25519Cosignature, with which witnesses sign.
func (k SignerKey) SignText(text []byte) (Signature, error) {
	id, ok := k.verifier.textID()
	if !ok {
		return Signature{}, fmt.Errorf("checkpoint: keys of type %v sign no texts", k.verifier.typ)
	}
	if err := checkText(text); err != nil {
		return Signature{}, err
	}
	var sig []byte
	var err error
	if secret := k.secret(); k.verifier.typ == TypeMLDSA44 {
		sig, err = signMLDSA(secret.mldsa, text, []byte(textContext))
	} else {
		sig, err = secret.sign(text, k.verifier.public)
	}
	if err != nil {
		return Signature{}, fmt.Errorf("checkpoint: signing a text with %v key %s+%08x: %w", k.verifier.typ, k.verifier.name, k.verifier.id, err)
	}
	return Signature{Name: k.verifier.name, KeyID: id, Sig: sig}, nil
}
