package checkpoint_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// external is a signer outside of the package, with what may go wrong in one.
type external struct {
	ed25519.PrivateKey
	spoil func(sig []byte) ([]byte, error)
}

func (e external) Sign(random io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := e.PrivateKey.Sign(random, msg, opts)
	if err != nil || e.spoil == nil {
		return sig, err
	}
	return e.spoil(sig)
}

func TestExternalSignerIsTheSameKey(t *testing.T) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	c := checkpoint.Checkpoint{Origin: "log.example", Size: 1, Root: [32]byte{1}}
	for _, typ := range []checkpoint.KeyType{checkpoint.TypeEd25519, checkpoint.TypeEd25519Cosignature} {
		inside, err := checkpoint.NewSignerKey("log.example", typ, private.Seed())
		if err != nil {
			t.Fatal(err)
		}
		outside, err := checkpoint.NewSignerFrom(inside.VerifierKey(), external{PrivateKey: private})
		if err != nil {
			t.Fatal(err)
		}
		want, err := inside.Sign(c, 7)
		if err != nil {
			t.Fatal(err)
		}
		got, err := outside.Sign(c, 7)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != want.Name || got.KeyID != want.KeyID || !bytes.Equal(got.Sig, want.Sig) {
			t.Errorf("%v: signature %v, want %v", typ, got, want)
		}
		if _, err := outside.VerifierKey().Verify(c, got); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
		if s := outside.Encode(); s != "" {
			t.Errorf("%v: a key without its secret is written as %q", typ, s)
		}
		if s := fmt.Sprintf("%v %+v %#v", outside, *outside, outside); !strings.Contains(s, "[redacted]") || strings.Contains(s, "spoil") {
			t.Errorf("%v: printed as %s", typ, s)
		}
	}
}

// A token that answers with a wrong signature must not put it into the world.
func TestExternalSignerIsNotTrusted(t *testing.T) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	inside, err := checkpoint.NewSignerKey("log.example", checkpoint.TypeEd25519, private.Seed())
	if err != nil {
		t.Fatal(err)
	}
	v := inside.VerifierKey()
	c := checkpoint.Checkpoint{Origin: "log.example", Size: 1, Root: [32]byte{1}}
	gone := errors.New("token is gone")
	for name, b := range map[string]struct {
		spoil func([]byte) ([]byte, error)
		want  error
	}{
		"flipped bit": {func(s []byte) ([]byte, error) { s[9] ^= 1; return s, nil }, checkpoint.ErrSignature},
		"cut off":     {func(s []byte) ([]byte, error) { return s[:63], nil }, checkpoint.ErrSignature},
		"nothing":     {func([]byte) ([]byte, error) { return nil, nil }, checkpoint.ErrSignature},
		"other key":   {func([]byte) ([]byte, error) { return ed25519.Sign(other, c.Text()), nil }, checkpoint.ErrSignature},
		"fails":       {func([]byte) ([]byte, error) { return nil, gone }, gone},
	} {
		k, err := checkpoint.NewSignerFrom(v, external{private, b.spoil})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := k.Sign(c, 0); !errors.Is(err, b.want) || s.Sig != nil {
			t.Errorf("%s: signature %x, error %v, want %v", name, s.Sig, err, b.want)
		}
	}
	if _, err := checkpoint.NewSignerFrom(v, external{PrivateKey: other}); err == nil {
		t.Error("a signer with another public key is taken")
	}
	_, _, pq := signers(t)
	if _, err := checkpoint.NewSignerFrom(pq.VerifierKey(), external{PrivateKey: private}); err == nil {
		t.Error("an external signer for ML-DSA-44 is taken")
	}
}
