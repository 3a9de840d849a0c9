package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestSyncBeforeAnswer looks at the system calls of a witness: between the reading of a
// request and its 200 a sync of the store has ended. (The store syncs with fdatasync, the
// counter file with fsync.)
func TestSyncBeforeAnswer(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace")
	}
	if exec.Command(strace, "-o", os.DevNull, "true").Run() != nil {
		t.Skip("strace may not trace here")
	}
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := newLog(t)
	mustRun(t, "enroll", "--dir", dir, l.key.VerifierKey().String())
	p := serveWitness(t, dir)
	trace := filepath.Join(t.TempDir(), "trace")
	s := exec.Command(strace, "-f", "-s", "32", "-e", "trace=fdatasync,read,write", "-o", trace, "-p", strconv.Itoa(p.cmd.Process.Pid))
	attached, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Process.Kill(); _ = s.Wait() }()
	if _, err := attached.Read(make([]byte, 64)); err != nil { // "strace: Process … attached"
		t.Skipf("strace may not attach here: %v", err)
	}
	const requests = 5
	for size := range uint64(requests) {
		if status, body, err := p.add(l.request(t, size, size+1)); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s, %v", status, body, err)
		}
	}
	if status := p.end(t, syscall.SIGTERM); status != 0 {
		t.Fatalf("the witness ended with %d", status)
	}
	_ = s.Wait()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	answers, synced := 0, false
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.Contains(line, "POST /add-checkpoint"):
			synced = false
		case strings.Contains(line, "sync") && strings.Contains(line, "= 0"):
			synced = true
		case strings.Contains(line, "HTTP/1.1 200"):
			if answers++; !synced {
				t.Errorf("answer %d left before a sync had ended", answers)
			}
		}
	}
	if answers != requests {
		t.Errorf("the trace has %d answers, want %d", answers, requests)
	}
}
