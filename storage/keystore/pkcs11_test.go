//go:build cgo && pkcs11

package keystore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
	"github.com/keytrail/keytrail/storage/keystore/keystoretest"
)

// TestPKCS11 makes keys in a token of SoftHSM, signs with them, and takes them away. It is one
// test because SoftHSM learns of its tokens once a process.
func TestPKCS11(t *testing.T) {
	pin := keystoretest.Tokens(t, "one", "a token")
	uri := keystoretest.URI("a token", "log key", pin)
	dir := t.TempDir()
	k, err := keystore.GenerateInToken(name, checkpoint.TypeEd25519, uri)
	if err != nil {
		t.Fatal(err)
	}
	if err := keystore.Write(filepath.Join(dir, "a.key"), k); err != nil {
		t.Fatal(err)
	}
	read, err := keystore.Read(filepath.Join(dir, "a.key"))
	if err != nil {
		t.Fatal(err)
	}
	signs := func(k keystore.Key) error {
		t.Helper()
		s, err := k.Signer.Sign(aCheckpoint, 9)
		if err != nil {
			return err
		}
		_, err = k.Signer.VerifierKey().Verify(aCheckpoint, s)
		return err
	}
	if err := errors.Join(read.Check(), signs(read), signs(k)); err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.GenerateInToken(name, checkpoint.TypeEd25519, uri); !errors.Is(err, keystore.ErrKeyExists) {
		t.Errorf("generating over a key: %v", err)
	}
	t.Run("existing", func(t *testing.T) {
		again, err := keystore.InToken(name, checkpoint.TypeEd25519, uri)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Signer.VerifierKey().Equal(k.Signer.VerifierKey()) {
			t.Error("another key was found than the one that was made")
		}
		if _, err := keystore.InToken(name, checkpoint.TypeEd25519, keystoretest.URI("one", "log key", pin)); err == nil || !strings.Contains(err.Error(), "has no Ed25519 key") {
			t.Errorf("in a token without it: %v", err)
		}
	})
	t.Run("cosigner", func(t *testing.T) {
		w, err := keystore.GenerateInToken("witness.test/w", checkpoint.TypeEd25519Cosignature, keystoretest.URI("a token", "witness", pin))
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.Signer.Cosign(aCheckpoint, 9)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := w.Signer.VerifierKey().Verify(aCheckpoint, s); err != nil || at != 9 {
			t.Errorf("the cosignature is of %d, %v", at, err)
		}
	})
	t.Run("sessions lost", func(t *testing.T) {
		closeSessions(t)
		if err := signs(read); err != nil {
			t.Error(err)
		}
	})
	t.Run("swapped", func(t *testing.T) {
		other, err := keystore.GenerateInToken(name, checkpoint.TypeEd25519, keystoretest.URI("one", "other", pin))
		if err != nil {
			t.Fatal(err)
		}
		swapped, err := keystore.Parse([]byte(k.Signer.VerifierKey().String() + "\n" + other.URI + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := swapped.Check(); !errors.Is(err, keystore.ErrSwapped) {
			t.Errorf("check: %v", err)
		}
		if err := signs(swapped); !errors.Is(err, keystore.ErrSwapped) {
			t.Errorf("signing: %v", err)
		}
	})
	t.Run("refusals", func(t *testing.T) { refusals(t, k.Signer.VerifierKey().String(), uri, pin) })
}

func refusals(t *testing.T, vkey, uri, pin string) {
	// Whoever is logged in has this process logged in, whatever the PIN.
	closeSessions(t)
	wrong := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("0000-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ old, new, says string }{
		"wrong PIN":     {pin, wrong, "the token refuses the PIN"},
		"no PIN":        {"&pin-source=file:" + pin, "", "the token demands a PIN"},
		"missing token": {"token=a%20token", "token=none", "none of the"},
		"no such key":   {"object=log%20key", "object=none", "has no Ed25519 key"},
		"no module":     {keystoretest.Module, "/none/module.so", "none that can be loaded"},
		"not a module":  {keystoretest.Module, pin, "none that can be loaded"},
	} {
		changed := strings.Replace(uri, c.old, c.new, 1)
		if changed == uri {
			t.Fatalf("%s: nothing is changed", what)
		}
		k, err := keystore.Parse([]byte(vkey + "\n" + changed + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		err = k.Check()
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "0000-wrong") {
			t.Errorf("%s: %v", what, err)
		}
		t.Log(err)
	}
}

// closeSessions ends all sessions of this process, as when a token is pulled out and put back.
func closeSessions(t *testing.T) {
	t.Helper()
	ctx := pkcs11.New(keystoretest.Module)
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slots {
		if err := ctx.CloseAllSessions(s); err != nil {
			t.Fatal(err)
		}
	}
}
