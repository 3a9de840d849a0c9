package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the programs available to scripts and tests: keytrail is this binary
// under another name, the servers are built.
func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){"keytrail": main})
}

// withServer runs tests with keytraild and keytrail-witness in PATH.
type withServer struct{ m *testing.M }

func (w withServer) Run() int {
	dir, err := os.MkdirTemp("", "keytraild-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../keytraild", "../keytrail-witness").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the servers: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return w.m.Run()
}

// TestScript runs the scripts, each in a directory of its own. Beside testscript's own
// commands they have:
//
//	serve DIR [FLAG…]   start keytraild on free ports, wait until it is ready, and set
//	                    KEYTRAIL_SERVER and HTTP; its log is in server.log
//	halt                stop it cleanly
//	flip FILE [LINE]    change one bit in the middle of a file, of the last one that a
//	                    pattern matches; with LINE one letter in the middle of that line
//	cut FILE SIZE       cut a file off
//	certificates DIR    make a CA and certificates; see cmdCertificates
func TestScript(t *testing.T) {
	testscript.Run(t, scripts(t, "testdata/script"))
}

// scripts are the scripts of a directory, with what they can use.
func scripts(t *testing.T, dir string) testscript.Params {
	t.Helper()
	testdata, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TESTDATA", testdata)
			env.Values[serverKey{}] = &testServer{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": cmdServe, "halt": cmdHalt, "flip": cmdFlip, "cut": cmdCut, "certificates": cmdCertificates,
		},
	}
}

type serverKey struct{}

// testServer is the server of a script.
type testServer struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: serve DIR [FLAG…]")
	}
	s := ts.Value(serverKey{}).(*testServer)
	program, err := exec.LookPath("keytraild")
	ts.Check(err)
	s.cmd = exec.Command(program, append([]string{"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dir"}, args...)...)
	s.cmd.Dir = ts.MkAbs(".")
	log, err := os.Create(ts.MkAbs("server.log"))
	ts.Check(err)
	defer log.Close()
	s.cmd.Stderr = log
	stdout, err := s.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(s.cmd.Start())
	s.ended = make(chan struct{})
	ts.Defer(s.kill)
	line, err := readReady(bufio.NewReader(stdout))
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // halt looks at the process's state
		close(ended)
	}(s.cmd, s.ended)
	if err != nil {
		ts.Fatalf("keytraild is not ready: %v\n%s", err, ts.ReadFile("server.log"))
	}
	for _, word := range strings.Fields(line) {
		if addr, ok := strings.CutPrefix(word, "grpc="); ok {
			ts.Setenv("KEYTRAIL_SERVER", addr)
		}
		if addr, ok := strings.CutPrefix(word, "http="); ok {
			ts.Setenv("HTTP", addr)
		}
	}
}

// readReady reads the line that a server prints when it serves.
func readReady(r *bufio.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		line, err := r.ReadString('\n')
		got <- result{line, err}
	}()
	select {
	case res := <-got:
		if res.err == nil && !strings.HasPrefix(res.line, "ready grpc=") {
			res.err = fmt.Errorf("it printed %q", res.line)
		}
		return res.line, res.err
	case <-time.After(30 * time.Second):
		return "", fmt.Errorf("no line on standard output after 30 s")
	}
}

func (s *testServer) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

func cmdHalt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: halt")
	}
	s := ts.Value(serverKey{}).(*testServer)
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		ts.Fatalf("keytraild did not stop\n%s", ts.ReadFile("server.log"))
	}
	if !s.cmd.ProcessState.Success() {
		ts.Fatalf("keytraild: %v\n%s", s.cmd.ProcessState, ts.ReadFile("server.log"))
	}
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: flip FILE [LINE]")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("there is no %s", args[0])
	}
	name := names[len(names)-1]
	b, err := os.ReadFile(name)
	ts.Check(err)
	if len(args) == 1 {
		b[len(b)/2] ^= 1
	} else {
		var number int
		_, err := fmt.Sscan(args[1], &number)
		ts.Check(err)
		lines := bytes.SplitAfter(b, []byte("\n"))
		line := lines[number-1] // shares its bytes with b
		at := &line[len(line)/2]
		if *at == 'A' {
			*at = 'B'
		} else {
			*at = 'A'
		}
	}
	ts.Check(os.WriteFile(name, b, 0o600))
}

func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE SIZE")
	}
	var size int64
	_, err := fmt.Sscan(args[1], &size)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}

// TestDemo runs what make demo runs.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	cmd := exec.Command("bash", "demo/demo.sh")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("What you have seen")) {
		t.Errorf("the demo does not end with its summary:\n%s", out)
	}
}
