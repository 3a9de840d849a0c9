package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/witness/bastion/bastiontest"
)

// TestBastion has a log cosigned through a bastion, which gets neither health nor metrics.
func TestBastion(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	hash := strings.TrimSpace(mustRun(t, "bastion-key", "--dir", dir))
	b := bastiontest.New(t)
	roots := filepath.Join(base, "roots.pem")
	if err := os.WriteFile(roots, b.Authority, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	p := serveWitness(t, dir, "--bastion", b.Address)
	for round := range uint64(2) {
		select {
		case <-b.Offered:
		case <-time.After(20 * time.Second):
			t.Fatal("the witness does not come")
		}
		r, err := http.Post(b.URL+"/"+hash+"/add-checkpoint", "", bytes.NewReader(l.request(t, round, round+1)))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("round %d: %d", round, r.StatusCode)
		}
		for _, path := range []string{"/metrics", "/healthz", "/list"} {
			if r, err := http.Get(b.URL + "/" + hash + path); err != nil || r.StatusCode != http.StatusNotFound {
				t.Errorf("%s through the bastion: %v, %v; want 404", path, r, err)
			}
		}
		if m := p.get(t, "/metrics"); !strings.Contains(m, "keytrail_witness_bastion_connected{bastion=\""+b.Address+"\"} 1\n") {
			t.Error("the metrics do not say that the bastion is connected")
		}
		b.Drop()
	}
	if status := p.end(t, syscall.SIGTERM); status != 0 {
		t.Errorf("a clean stop exits with %d", status)
	}
	if again := strings.TrimSpace(mustRun(t, "bastion-key", "--dir", dir)); again != hash {
		t.Errorf("the key's hash is %s, then %s", hash, again)
	}
	file := location{dir: dir}.bastionFile()
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	mustFail(t, cli.ExitError, "others can read it", "bastion-key", "--dir", dir)
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	mustFail(t, cli.ExitError, "no PEM block", "--dir", dir, "--listen", "127.0.0.1:0", "--bastion", b.Address)
	mustFail(t, cli.ExitError, "make a new witness", "bastion-key", "--dir", filepath.Join(base, "none"))
}
