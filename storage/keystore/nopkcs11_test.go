//go:build !cgo || !pkcs11

package keystore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
)

func TestBuildWithoutPKCS11(t *testing.T) {
	const uri = "pkcs11:token=t;object=o?module-path=/m.so"
	v := generate(t, name, checkpoint.TypeEd25519).Signer.VerifierKey()
	k, err := keystore.Parse([]byte(v.String() + "\n" + uri + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !k.Signer.VerifierKey().Equal(v) {
		t.Error("the public key is not the one of the file")
	}
	if err := k.Check(); !errors.Is(err, keystore.ErrNoPKCS11) || !strings.Contains(err.Error(), "make build-pkcs11") {
		t.Errorf("check: %v", err)
	}
	if _, err := k.Signer.Sign(aCheckpoint, 0); !errors.Is(err, keystore.ErrNoPKCS11) {
		t.Errorf("signing: %v", err)
	}
	if _, err := keystore.GenerateInToken(name, checkpoint.TypeEd25519, uri); !errors.Is(err, keystore.ErrNoPKCS11) {
		t.Errorf("generating: %v", err)
	}
}
