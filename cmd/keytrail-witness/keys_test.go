package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/keystore"
)

// cosign has the running witness cosign and returns the checkpoint with its lines.
func cosign(t testing.TB, p *process, request []byte) []byte {
	t.Helper()
	status, lines, err := p.add(request)
	if err != nil || status != http.StatusOK {
		t.Fatalf("the answer is %d %s, %v", status, lines, err)
	}
	u, err := consistency.Parse(request)
	if err != nil {
		t.Fatal(err)
	}
	return append(u.Checkpoint, lines...)
}

// satisfies says whether a checkpoint verifies under a policy whose lines follow the log's.
func satisfies(t testing.TB, l *logUnderTest, note []byte, lines string) bool {
	t.Helper()
	p, err := policy.Parse(fmt.Appendf(nil, "log %s\n%s", l.key.VerifierKey(), lines))
	if err != nil {
		t.Fatal(err)
	}
	_, err = verify.Checkpoint(note, p)
	return err == nil
}

// TestRotation replaces both keys of a witness while it serves two logs, of which one is idle
// all the time.
func TestRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	old := strings.Fields(mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1"))
	busy, idle := newLog(t), newNamedLog(t, "log.test/idle")
	mustRun(t, "enroll", "--dir", dir, busy.key.VerifierKey().String(), idle.key.VerifierKey().String())
	p := serveWitness(t, dir)
	before := cosign(t, p, busy.request(t, 0, 3))
	cosign(t, p, idle.request(t, 0, 5))

	// Added while it runs; they cosign after its next start.
	added := []string{
		strings.TrimSpace(mustRun(t, "key", "add", "--dir", dir, "--type", "ed25519")),
		strings.TrimSpace(mustRun(t, "key", "add", "--dir", dir, "--type", "mldsa44")),
	}
	mustFail(t, cli.ExitError, "5 keys, 4 can sign", "key", "add", "--dir", dir, "--type", "ed25519")
	mustFail(t, cli.ExitError, "stop the witness first", "key", "retire", "--dir", dir, "ed25519.key")
	if out := mustRun(t, "key", "list", "--dir", dir); strings.Count(out, "\nsigns ") != 4 || !strings.Contains(out, strings.Split(added[0], "+")[1]+"  Ed25519 cosignature  keys/ed25519-") {
		t.Errorf("key list prints\n%s", out)
	}
	p.end(t, syscall.SIGTERM)

	// The overlap: whoever trusts the old key, the new one or either of them verifies.
	p = serveWitness(t, dir)
	overlap := cosign(t, p, busy.request(t, 3, 4))
	both := fmt.Sprintf("witness o %s\nwitness n %s\ngroup w any o n\nquorum w\n", old[0], added[0])
	all := fmt.Sprintf("witness a %s\nwitness b %s\nwitness c %s\nwitness d %s\ngroup w all a b c d\nquorum w\n", old[0], old[1], added[0], added[1])
	onlyNew := fmt.Sprintf("witness a %s\nwitness b %s\ngroup w all a b\nquorum w\n", added[0], added[1])
	onlyOld := fmt.Sprintf("witness a %s\nwitness b %s\ngroup w all a b\nquorum w\n", old[0], old[1])
	check := func(when string, note []byte, lines string, want bool) {
		t.Helper()
		if got := satisfies(t, busy, note, lines); got != want {
			t.Errorf("%s: verifies %v, want %v, under\n%s", when, got, want, lines)
		}
	}
	check("before", before, both, true)
	check("before", before, onlyOld, true)
	check("before", before, onlyNew, false)
	check("overlap", overlap, all, true)
	p.end(t, syscall.SIGTERM)

	for _, file := range []string{"ed25519.key", "mldsa44.key"} {
		if out := mustRun(t, "key", "retire", "--dir", dir, file); out != "moved to "+filepath.Join(dir, "keys", "retired", file)+"\n" {
			t.Errorf("key retire prints %q", out)
		}
		mustRun(t, "list", "--dir", dir)
	}
	mustFail(t, cli.ExitError, "there is no Ed25519 key", "key", "retire", "--dir", dir, fileOf(t, dir, "ed25519-*.key"))
	mustFail(t, cli.ExitError, "hint: see the ids", "key", "retire", "--dir", dir, "ed25519.key")
	// The retired secrets can be destroyed: nothing needs them.
	if err := os.RemoveAll(filepath.Join(dir, "keys", keystore.RetiredDir)); err != nil {
		t.Fatal(err)
	}

	p = serveWitness(t, dir)
	after := cosign(t, p, busy.request(t, 4, 5))
	check("after", after, both, true)
	check("after", after, onlyNew, true)
	check("after", after, onlyOld, false)
	// The idle log's state is known, and shown with the new keys.
	latest := p.get(t, fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(idle.key.Name()))))
	if !satisfies(t, idle, []byte(latest), onlyNew) {
		t.Errorf("what is served of the idle log does not verify with the new keys:\n%s", latest)
	}
	if status, size, err := p.add(idle.request(t, 0, 6)); err != nil || status != http.StatusConflict || size != "5\n" {
		t.Errorf("a history from nothing of the idle log: %d %q, %v", status, size, err)
	}
	cosign(t, p, idle.request(t, 5, 6))
}

// fileOf returns the name of the one key file of a pattern.
func fileOf(t testing.TB, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "keys", pattern))
	if err != nil || len(names) != 1 {
		t.Fatalf("%s is %q, %v", pattern, names, err)
	}
	return filepath.Base(names[0])
}

func TestKeyAddRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	file := filepath.Join(t.TempDir(), "k.key")
	if err := keystore.Write(file, keystore.Key{Signer: newNamedLog(t, "witness.test/w1").key}); err != nil {
		t.Fatal(err)
	}
	mustFail(t, cli.ExitError, "are for logs", "key", "add", "--dir", dir, "--file", file)
	mustFail(t, cli.ExitUsage, "--type is required", "key", "add", "--dir", dir)
	mustFail(t, cli.ExitUsage, "none of ed25519, mldsa44", "key", "add", "--dir", dir, "--type", "ed25519-cosigner")
	mustFail(t, cli.ExitUsage, "--dir is required", "key", "list")
	mustFail(t, cli.ExitError, "keytrail keygen", "key", "add", "--dir", dir, "--file", file+"x")
}

// A witness whose Ed25519 key is in a token that is lost goes on with another one: its state
// is cosigned with what is there.
func TestRetireLostKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	p := serveWitness(t, dir)
	cosign(t, p, l.request(t, 0, 3))
	p.end(t, syscall.SIGTERM)
	lost := filepath.Join(dir, "keys", "ed25519.key")
	k, err := keystore.Read(lost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lost, []byte(k.Signer.VerifierKey().String()+"\npkcs11:token=gone;object=o?module-path=/none.so\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustFail(t, cli.ExitError, lost+": reaching key witness.test/w1+", "--dir", dir, "--listen", "127.0.0.1:0")
	mustRun(t, "key", "add", "--dir", dir, "--type", "ed25519")
	mustRun(t, "key", "retire", "--dir", dir, "ed25519.key")
	cosign(t, serveWitness(t, dir), l.request(t, 3, 4))
}
