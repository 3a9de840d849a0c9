package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

// TestWhileRunning enrolls and removes logs while the witness runs: it serves them from then
// on, and what a command did outlives a kill right after it.
func TestWhileRunning(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	p := serveWitness(t, dir)
	l := newLog(t)
	if status, _, err := p.add(l.request(t, 0, 1)); err != nil || status != http.StatusNotFound {
		t.Fatalf("a log that is not enrolled: %d, %v", status, err)
	}
	vkey := l.key.VerifierKey().String()
	mustRun(t, "enroll", "--dir", dir, "--qpd", "1000", "--contact", "a@log.test", vkey)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	// The socket of the killed witness is still there, and in nobody's way.
	if out := mustRun(t, "list", "--dir", dir); !strings.Contains(out, "log log.test/one\n") {
		t.Fatalf("after a kill list prints\n%s", out)
	}
	p = serveWitness(t, dir)
	if status, body, err := p.add(l.request(t, 0, 1)); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s, %v", status, body, err)
	}
	var all listing
	if err := json.Unmarshal([]byte(mustRun(t, "list", "--dir", dir, "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Keys) != 2 || len(all.Logs) != 1 || all.Logs[0].Cosigned == nil || all.Logs[0].Cosigned.Size != 1 ||
		all.Logs[0].PerDay != 1000 || all.Logs[0].Contact != "a@log.test" || all.Logs[0].Keys[0] != vkey {
		t.Errorf("list --json says %+v", all)
	}
	if out := mustRun(t, "list", "--dir", dir); !strings.Contains(out, "cosigned size 1 root ") {
		t.Errorf("list prints\n%s", out)
	}
	list := filepath.Join(t.TempDir(), "list")
	other := newLog(t).key.VerifierKey()
	listed := strings.ReplaceAll("logs/v0\nvkey VKEY\norigin other\nqpd 5\ncontact x\n", "VKEY", other.String())
	if err := os.WriteFile(list, []byte(listed), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := mustRun(t, "enroll", "--dir", dir, "--log-list", list); out != "1 logs in the list, 1 new\n" {
		t.Errorf("enroll prints %q", out)
	}
	mustFail(t, cli.ExitError, "last key", "remove", "--dir", dir, "log.test/one", "--key", vkey)
	mustFail(t, cli.ExitError, "not enrolled", "remove", "--dir", dir, "log.test/none")
	mustRun(t, "remove", "--dir", dir, "log.test/one")
	if status, _, err := p.add(l.request(t, 1, 2)); err != nil || status != http.StatusNotFound {
		t.Errorf("a log that was removed: %d, %v", status, err)
	}
	if status := p.end(t, syscall.SIGTERM); status != 0 {
		t.Errorf("a clean stop exits with %d", status)
	}
	if out := mustRun(t, "list", "--dir", dir); strings.Contains(out, "log log.test/one\n") || !strings.Contains(out, "log other\n") {
		t.Errorf("after the stop list prints\n%s", out)
	}
}

// TestControlIsPrivate looks at who may reach the control socket.
func TestControlIsPrivate(t *testing.T) {
	l := location{dir: t.TempDir()}
	old := syscall.Umask(0)
	lis, err := l.listenControl()
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	for path, want := range map[string]os.FileMode{l.socket(): 0o600, filepath.Dir(l.socket()): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

// TestLongPath has a witness in a directory whose path is too long for a socket: it serves,
// and the commands want it stopped.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	p := serveWitness(t, dir)
	p.get(t, "/healthz")
	mustFail(t, cli.ExitError, "hint: stop the witness first", "list", "--dir", dir)
}
