package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log/logdir"
)

// program finds one of our programs: as it was named, beside this one, or in PATH.
func program(named, name string) string {
	if named != "" {
		return named
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return name
}

// benchWitnesses are witnesses that bench has started, each a process of its own.
type benchWitnesses struct {
	dir       string
	processes []*exec.Cmd
}

// startWitnesses makes n witnesses for a new log, starts them, and writes the log's policy:
// a majority of them, each with its Ed25519 and its ML-DSA-44 key.
func startWitnesses(ctx context.Context, n int, d *logdir.Dir, stderr io.Writer) (ws *benchWitnesses, err error) {
	ws = &benchWitnesses{}
	if n == 0 {
		return ws, nil
	}
	if ws.dir, err = os.MkdirTemp("", "keytrail-bench-witnesses-"); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ws.end())
		}
	}()
	exe := program("", "keytrail-witness")
	text, _, _ := strings.Cut(d.Policy, "quorum ")
	var groups []string
	for i := 1; i <= n; i++ {
		dir := filepath.Join(ws.dir, fmt.Sprint(i))
		keys, err := exec.CommandContext(ctx, exe, "init", "--dir", dir, "--name", fmt.Sprintf("witness%d.invalid", i)).Output()
		if err != nil {
			return ws, cli.Hint(fmt.Errorf("making a witness with %s: %w", exe, err), "build the programs into one directory: make build")
		}
		args := []string{"enroll", "--dir", dir}
		for _, k := range d.Keys() {
			args = append(args, k.String())
		}
		if out, err := exec.CommandContext(ctx, exe, args...).CombinedOutput(); err != nil {
			return ws, fmt.Errorf("enrolling the log: %w: %s", err, out)
		}
		cmd := exec.CommandContext(ctx, exe, "--dir", dir, "--listen", "127.0.0.1:0", "--log-level", "error")
		addr, err := startReady(cmd, "http=", stderr)
		if err != nil {
			return ws, err
		}
		ws.processes = append(ws.processes, cmd)
		for j, vkey := range strings.Fields(string(keys)) {
			text += fmt.Sprintf("witness w%d.%d %s http://%s\n", i, j+1, vkey, addr)
		}
		text += fmt.Sprintf("group g%d all w%d.1 w%d.2\n", i, i, i)
		groups = append(groups, fmt.Sprint("g", i))
	}
	text += fmt.Sprintf("group majority %d %s\nquorum majority\n", n/2+1, strings.Join(groups, " "))
	if err := os.WriteFile(filepath.Join(d.Path, "policy"), []byte(text), 0o600); err != nil {
		return ws, fmt.Errorf("writing the policy: %w", err)
	}
	return ws, nil
}

// startReady starts a program and returns the address that its ready line gives for word.
func startReady(cmd *exec.Cmd, word string, stderr io.Writer) (string, error) {
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	for _, w := range strings.Fields(line) {
		if addr, ok := strings.CutPrefix(w, word); ok {
			return addr, nil
		}
	}
	_ = cmd.Process.Kill()
	return "", fmt.Errorf("%s did not start: %q, %w", cmd.Path, line, errors.Join(err, cmd.Wait()))
}

// end ends the witnesses and throws their state away.
func (ws *benchWitnesses) end() error {
	for _, cmd := range ws.processes {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if ws.dir == "" {
		return nil
	}
	return os.RemoveAll(ws.dir)
}
