package witness_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// ed25519Sign signs the text of c as a log of another make does, whose origin or root may
// be what the package checkpoint refuses to sign.
func ed25519Sign(t testing.TB, k *checkpoint.SignerKey, c checkpoint.Checkpoint) checkpoint.Signature {
	t.Helper()
	encoded := k.Encode()
	raw, err := base64.StdEncoding.DecodeString(encoded[strings.LastIndex(encoded, "+")+1:])
	// Base64 may hold plus signs: the key is the end of 33 bytes.
	if err != nil || len(raw) != 33 {
		raw, err = base64.StdEncoding.DecodeString(encoded[len(encoded)-44:])
	}
	if err != nil {
		t.Fatal(err)
	}
	sig := ed25519.Sign(ed25519.NewKeyFromSeed(raw[1:]), c.Text())
	return checkpoint.Signature{Name: k.Name(), KeyID: k.VerifierKey().ID(), Sig: sig}
}
