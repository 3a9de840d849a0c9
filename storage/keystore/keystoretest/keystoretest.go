// Package keystoretest makes PKCS#11 tokens of SoftHSM for tests, in temporary directories.
//
// SoftHSM keeps one set of tokens a process: it is told of them by the environment when a key
// in one is reached first. Tests that use it do not run side by side.
package keystoretest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Module is where Debian has the module of SoftHSM.
const Module = "/usr/lib/softhsm/libsofthsm2.so"

// PIN is the PIN of every token.
const PIN = "5678-test"

// Tokens makes tokens with these labels and a file that holds their PIN, and returns its path.
// It sets SOFTHSM2_CONF for this process and those it starts, and is called once a process.
func Tokens(t testing.TB, labels ...string) (pinFile string) {
	t.Helper()
	if _, err := os.Stat(Module); err != nil {
		t.Fatalf("SoftHSM is missing, make test-pkcs11 installs it: %v", err)
	}
	dir := t.TempDir()
	pinFile = filepath.Join(dir, "pin")
	for path, content := range map[string]string{
		pinFile:                             PIN + "\n",
		filepath.Join(dir, "softhsm2.conf"): fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens")),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	for _, label := range labels {
		out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "1234-test", "--pin", PIN).CombinedOutput()
		if err != nil {
			t.Fatalf("making token %s: %v\n%s", label, err, out)
		}
	}
	return pinFile
}

// URI names a key in a token that Tokens made.
func URI(token, object, pinFile string) string {
	return fmt.Sprintf("pkcs11:token=%s;object=%s?module-path=%s&pin-source=file:%s",
		url.PathEscape(token), url.PathEscape(object), Module, pinFile)
}
