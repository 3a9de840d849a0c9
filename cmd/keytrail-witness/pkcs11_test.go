//go:build cgo && pkcs11

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytrail/keytrail/storage/keystore/keystoretest"
)

// TestPKCS11 is a witness that takes an Ed25519 key in a token for the one in its file.
func TestPKCS11(t *testing.T) {
	pin := keystoretest.Tokens(t, "witness")
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	vkey := strings.TrimSpace(mustRun(t, "key", "add", "--dir", dir, "--type", "ed25519", "--pkcs11", keystoretest.URI("witness", "w1", pin)))
	p := serveWitness(t, dir)
	inToken := fmt.Sprintf("witness w %s\nquorum w\n", vkey)
	if note := cosign(t, p, l.request(t, 0, 3)); !satisfies(t, l, note, inToken) {
		t.Errorf("the token's cosignature does not verify:\n%s", note)
	}
	p.end(t, syscall.SIGTERM)
	mustRun(t, "key", "retire", "--dir", dir, "ed25519.key")
	p = serveWitness(t, dir)
	if note := cosign(t, p, l.request(t, 3, 4)); !satisfies(t, l, note, inToken) {
		t.Errorf("the token's cosignature does not verify:\n%s", note)
	}
	p.end(t, syscall.SIGTERM)

	// In a process of its own, as this one is logged in.
	if err := os.WriteFile(pin, []byte("0000-wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "--dir", dir, "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "the token refuses the PIN") || strings.Contains(string(out), "0000-wrong") {
		t.Errorf("with a wrong PIN: %v\n%s", err, out)
	}
}
