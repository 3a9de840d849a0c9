package keystore_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
)

var aCheckpoint = checkpoint.Checkpoint{Origin: name, Size: 1, Root: [32]byte{1}}

// pinFile writes a PIN into a file and returns its path.
func pinFile(t testing.TB, pin string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(pin), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokenKey returns a key of a file that names a token, and the token.
func tokenKey(t testing.TB, pin string) (keystore.Key, *keystore.Token) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v, err := checkpoint.NewVerifierKey(name, checkpoint.TypeEd25519, public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Parse([]byte(v.String() + "\npkcs11:token=t;object=o?module-path=/none.so&pin-source=file:" + pinFile(t, pin) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	token := &keystore.Token{PIN: "1234", Key: private}
	k.Plug(token)
	return k, token
}

func TestTokenSigns(t *testing.T) {
	k, token := tokenKey(t, "1234\n")
	if err := k.Check(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := k.Signer.Sign(aCheckpoint, 0)
			if err != nil {
				t.Error(err)
			} else if _, err := k.Signer.VerifierKey().Verify(aCheckpoint, s); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if token.Logins != 1 {
		t.Errorf("%d logins", token.Logins)
	}
	if b, err := k.Encode(); err != nil || strings.Contains(string(b), "PRIVATE") {
		t.Errorf("its file: %s, %v", b, err)
	}
}

func TestTokenThatWasAwayIsLoggedInAgain(t *testing.T) {
	k, token := tokenKey(t, "1234")
	for range 3 {
		if _, err := k.Signer.Sign(aCheckpoint, 0); err != nil {
			t.Fatal(err)
		}
		token.Epoch++
	}
	if token.Logins != 3 {
		t.Errorf("%d logins, want 3", token.Logins)
	}
}

func TestTokenWithAnotherKeyIsRefused(t *testing.T) {
	k, token := tokenKey(t, "1234")
	if _, err := k.Signer.Sign(aCheckpoint, 0); err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	right := token.Key
	token.Key = other
	if err := k.Check(); !errors.Is(err, keystore.ErrSwapped) {
		t.Errorf("check: %v", err)
	}
	if _, err := k.Signer.Sign(aCheckpoint, 0); !errors.Is(err, keystore.ErrSwapped) {
		t.Errorf("signing: %v", err)
	}
	token.Key = right
	if _, err := k.Signer.Sign(aCheckpoint, 0); err != nil {
		t.Errorf("with the right key again: %v", err)
	}
	// Swapped under an open session: nothing is checked before, so the signature must be.
	token.Key = other
	if _, err := k.Signer.Sign(aCheckpoint, 0); !errors.Is(err, checkpoint.ErrSignature) {
		t.Errorf("swapped under a session: %v", err)
	}
	token.Key, token.Spoil = right, true
	if _, err := k.Signer.Sign(aCheckpoint, 0); !errors.Is(err, checkpoint.ErrSignature) {
		t.Errorf("a token that miscalculates: %v", err)
	}
}

// A token locks after a few wrong PINs: one is enough to see that it is wrong.
func TestWrongPINIsTriedOnce(t *testing.T) {
	k, token := tokenKey(t, "4321")
	for range 5 {
		if _, err := k.Signer.Sign(aCheckpoint, 0); !errors.Is(err, keystore.ErrPIN) || strings.Contains(err.Error(), "4321") {
			t.Errorf("signing: %v", err)
		}
	}
	if err := k.Check(); !errors.Is(err, keystore.ErrPIN) || token.Logins != 1 {
		t.Errorf("check: %v; %d logins", err, token.Logins)
	}
}

func TestPINFile(t *testing.T) {
	k, token := tokenKey(t, "1234\r\n")
	path := strings.TrimSuffix(k.URI[strings.LastIndex(k.URI, "file:")+len("file:"):], "\n")
	if err := k.Check(); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
		t.Errorf("readable: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 0)); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(); err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("empty: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if token.Logins != 1 {
		t.Errorf("%d logins", token.Logins)
	}
}

func TestURI(t *testing.T) {
	v := generate(t, name, checkpoint.TypeEd25519).Signer.VerifierKey().String() + "\n"
	const good = "pkcs11:token=t;object=o?module-path=/m.so&pin-source=file:/p"
	for _, uri := range []string{
		good, "pkcs11:token=t;object=o?module-path=/m.so", "pkcs11:serial=1;id=%00%ff?module-path=/m.so",
		"pkcs11:token=a%20b;manufacturer=m;model=o;object=o;id=%01;type=private?pin-source=file:///p&module-path=/m.so",
	} {
		if k, err := keystore.Parse([]byte(v + uri + "\n")); err != nil || k.URI != uri {
			t.Errorf("%s: %+v, %v", uri, k, err)
		}
	}
	for uri, says := range map[string]string{
		"":                                  "of the scheme pkcs11",
		"PKCS11:token=t":                    "of the scheme pkcs11",
		"pkcs11:":                           "names no token",
		"pkcs11:object=o?module-path=/m.so": "names no token",
		"pkcs11:token=t?module-path=/m.so":  "names no key",
		"pkcs11:token=t;object=o":           "names no PKCS#11 module",
		"pkcs11:token=t;object=o?module-path=m.so":                           "not absolute",
		"pkcs11:token=t;object=o;type=cert?module-path=/m":                   "type is not private",
		"pkcs11:token=t;token=u;object=o?module-path=/m.so":                  "token stands twice",
		"pkcs11:token=;object=o?module-path=/m.so":                           "token is empty",
		"pkcs11:token=t;object?module-path=/m.so":                            "object is empty",
		"pkcs11:token=t;object=%zz?module-path=/m.so":                        "object is not percent-encoded",
		"pkcs11:token=t;object=%00?module-path=/m.so":                        "object is not percent-encoded",
		"pkcs11:token=t;slot-id=1;object=o?module-path=/m.so":                `"slot-id" is not known`,
		"pkcs11:token=t;object=o?module-path=/m.so&x=y":                      `"x" is not known`,
		"pkcs11:token=t;object=o?module-path=/m.so&pin-source=/p":            "pin-source is not of the form",
		"pkcs11:token=t;object=o?module-path=/m.so&pin-source=file:p":        "not absolute",
		"pkcs11:token=t;object=o?module-path=/m.so&pin-source=file://host/p": "not absolute",
		"pkcs11:token=a b;object=o?module-path=/m.so":                        "write spaces",
		"pkcs11:token=ä;object=o?module-path=/m.so":                          "write spaces",
		good + strings.Repeat("x", 4096):                                     "longer than",
	} {
		_, err := keystore.Parse([]byte(v + uri + "\n"))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", uri, err, says)
		}
	}
	_, err := keystore.Parse([]byte(v + "pkcs11:token=t;object=o?module-path=/m.so&pin-value=s3cret\n"))
	if err == nil || !strings.Contains(err.Error(), "pin-source") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a PIN in the URI: %v", err)
	}
	pq := generate(t, name, checkpoint.TypeMLDSA44).Signer.VerifierKey()
	if _, err := keystore.Parse([]byte(pq.String() + "\n" + good + "\n")); err == nil || !strings.Contains(err.Error(), "no token speaks ML-DSA-44") {
		t.Errorf("ML-DSA-44: %v", err)
	}
}
