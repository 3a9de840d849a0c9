package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
)

// asProgram makes this test binary the program, for tests that need a process.
const asProgram = "KEYTRAIL_WITNESS_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// run runs a command in this process and returns its status and output.
func run(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	status = cli.Run(context.Background(), cmd)
	return status, out.String(), errs.String()
}

// mustRun runs a command that must succeed and returns its output.
func mustRun(t testing.TB, args ...string) string {
	t.Helper()
	status, stdout, stderr := run(args...)
	if status != cli.ExitOK {
		t.Fatalf("%s: exit %d\n%s", strings.Join(args, " "), status, stderr)
	}
	return stdout
}

// mustFail runs a command that must fail with a status and say something.
func mustFail(t testing.TB, want int, says string, args ...string) {
	t.Helper()
	status, _, stderr := run(args...)
	if status != want || !strings.Contains(stderr, says) {
		t.Errorf("%s: exit %d, want %d and %q\n%s", strings.Join(args, " "), status, want, says, stderr)
	}
}

// logUnderTest signs whatever a test wants.
type logUnderTest struct {
	key  *checkpoint.SignerKey
	tree *testonly.Tree
}

func newLog(t testing.TB) *logUnderTest {
	t.Helper()
	return newNamedLog(t, "log.test/one")
}

func newNamedLog(t testing.TB, origin string) *logUnderTest {
	t.Helper()
	k, err := checkpoint.GenerateEd25519(origin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &logUnderTest{k, testonly.New(rfc6962.DefaultHasher)}
}

func (l *logUnderTest) request(t testing.TB, old, size uint64) []byte {
	t.Helper()
	for l.tree.Size() < size {
		l.tree.AppendData(fmt.Append(nil, l.tree.Size()))
	}
	c := checkpoint.Checkpoint{Origin: l.key.Name(), Size: size, Root: [32]byte(l.tree.HashAt(size))}
	note, err := checkpoint.SignNote(c, time.Now(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	u := consistency.Bundle{OldSize: old, Checkpoint: note}
	if old > 0 {
		hashes, err := l.tree.ConsistencyProof(old, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hashes {
			u.Hashes = append(u.Hashes, [32]byte(h))
		}
	}
	return u.Append(nil)
}

// process is a witness that runs.
type process struct {
	cmd *exec.Cmd
	url string
}

func serveWitness(t testing.TB, dir string, args ...string) *process {
	t.Helper()
	args = append([]string{"--dir", dir, "--listen", "127.0.0.1:0", "--log-level", "error"}, args...)
	p := &process{cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stderr = os.Stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready http=")
	if err != nil || !ok {
		t.Fatalf("the witness is not ready: %q, %v", line, err)
	}
	p.url = "http://" + addr
	return p
}

// end sends a signal and waits; it returns the exit status.
func (p *process) end(t testing.TB, s os.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait() // the state says how it ended
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) add(body []byte) (int, string, error) {
	r, err := http.Post(p.url+"/add-checkpoint", "", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

func (p *process) get(t testing.TB, path string) string {
	t.Helper()
	r, err := http.Get(p.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", path, r.StatusCode, b, err)
	}
	return string(b)
}

// originHash names a log in the monitoring URL.
func originHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// TestLife is a witness from its making to its evidence: what an operator does, in order.
func TestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	vkeys := strings.Fields(mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1"))
	if len(vkeys) != 2 {
		t.Fatalf("init prints %q, want two keys", vkeys)
	}
	mustFail(t, cli.ExitError, "not empty", "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	if out := mustRun(t, "list", "--dir", dir); !strings.Contains(out, vkeys[1]) || !strings.Contains(out, "log log.test/one\n") || !strings.Contains(out, "never cosigned") {
		t.Errorf("list prints\n%s", out)
	}
	p := serveWitness(t, dir)
	status, lines, err := p.add(l.request(t, 0, 7))
	if err != nil || status != http.StatusOK {
		t.Fatalf("the answer is %d %s, %v", status, lines, err)
	}
	trust, err := policy.Parse(fmt.Appendf(nil, "log %s\nwitness a %s\nwitness b %s\ngroup both all a b\nquorum both\n", l.key.VerifierKey(), vkeys[0], vkeys[1]))
	if err != nil {
		t.Fatal(err)
	}
	const monitor = "/0d5f0a1b/checkpoint"
	if r, err := http.Get(p.url + monitor); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("a log nobody knows: %v", err)
	}
	u, err := consistency.Parse(l.request(t, 0, 7))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := verify.Checkpoint(append(u.Checkpoint, lines...), trust); err != nil || len(s.Cosignatures) != 2 {
		t.Errorf("the verifier says %+v, %v", s, err)
	}
	fork := &logUnderTest{l.key, testonly.New(rfc6962.DefaultHasher)}
	fork.tree.AppendData([]byte("forked"))
	if status, _, err := p.add(fork.request(t, 7, 7)); err != nil || status != http.StatusUnprocessableEntity {
		t.Errorf("a fork: %d, %v", status, err)
	}
	if m := p.get(t, "/metrics"); !strings.Contains(m, "keytrail_witness_forks_total 1\n") {
		t.Error("the fork is not counted")
	}
	if h := p.get(t, "/healthz"); h != "ok\n" {
		t.Errorf("health is %q", h)
	}
	mustFail(t, cli.ExitError, "hint: stop the witness first", "adopt", "--dir", dir)
	file := strings.TrimSpace(mustRun(t, "evidence", "--dir", dir))
	if out := mustRun(t, "evidence", "--dir", dir, file); !strings.Contains(out, verify.EvidenceFormat) {
		t.Errorf("evidence prints\n%s", out)
	}
	mustFail(t, cli.ExitUsage, "no name", "evidence", "--dir", dir, "../keys/ed25519.key")
	if status := p.end(t, syscall.SIGTERM); status != 0 {
		t.Errorf("a clean stop exits with %d", status)
	}
	if out := mustRun(t, "list", "--dir", dir); !strings.Contains(out, "cosigned size 7 root") {
		t.Errorf("list prints\n%s", out)
	}
	mustRun(t, "remove", "--dir", dir, "log.test/one")
	mustFail(t, cli.ExitError, "not enrolled", "remove", "--dir", dir, "log.test/one")
}

// TestRefusesToStart holds what an operator is told when keys or state are not right.
func TestRefusesToStart(t *testing.T) {
	newDir := func() string {
		dir := filepath.Join(t.TempDir(), "w")
		mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
		return dir
	}
	for name, c := range map[string]struct {
		harm func(dir string) error
		says string
	}{
		"readable key": {func(dir string) error { return os.Chmod(filepath.Join(dir, "keys", "mldsa44.key"), 0o640) }, "others can read it"},
		"no key":       {func(dir string) error { return os.Remove(filepath.Join(dir, "keys", "mldsa44.key")) }, "there is no ML-DSA-44 key"},
		"no keys":      {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "keys")) }, "hint: make a witness with"},
		"no counter":   {func(dir string) error { return os.Remove(filepath.Join(dir, "counter")) }, "keytrail-witness adopt"},
		"no store":     {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "store")) }, "make a new witness with new keys"},
		"another store": {func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "store")), os.Rename(filepath.Join(newDir(), "store"), filepath.Join(dir, "store")))
		}, "went back"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir()
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			mustFail(t, cli.ExitError, c.says, "--dir", dir, "--listen", "127.0.0.1:0")
		})
	}
	mustFail(t, cli.ExitUsage, "--dir is required")
	mustFail(t, cli.ExitUsage, "--log-list", "enroll", "--dir", "x")
	mustFail(t, cli.ExitUsage, "verifier key", "enroll", "--dir", "x", "not-a-key")
	mustFail(t, cli.ExitUsage, "go together", "--dir", "x", "--tls-cert", "y")
}

// TestAdopt goes on after the counter file was lost.
func TestAdopt(t *testing.T) {
	base := t.TempDir()
	dir, counter := filepath.Join(base, "w"), filepath.Join(base, "elsewhere")
	mustRun(t, "init", "--dir", dir, "--counter", counter, "--name", "witness.test/w1")
	mustFail(t, cli.ExitError, "adopt", "list", "--dir", dir)
	if err := os.Remove(counter); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "adopt", "--dir", dir, "--counter", counter)
	mustRun(t, "list", "--dir", dir, "--counter", counter)
}
