package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// programs is where the programs are built, each by the first test that needs it.
var programs struct {
	dir string
	mu  sync.Mutex
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "keytrail-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// The programs of others, as named in go.mod.
const (
	litewitness = "filippo.io/torchwood/cmd/litewitness"
	litebastion = "filippo.io/torchwood/cmd/litebastion"
	sunlight    = "filippo.io/sunlight/cmd/sunlight"
)

// build returns the path of a program: one of ours by the name of its directory in cmd,
// others by package.
func build(t testing.TB, pkg string) string {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	file := filepath.Join(programs.dir, path.Base(pkg))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	dir := "."
	if !strings.Contains(pkg, "/") {
		// With the product's go.mod, so that what is tested is what is shipped.
		dir, pkg = "../..", "./cmd/"+pkg
	}
	cmd := exec.Command("go", "build", "-o", file, pkg)
	cmd.Dir = dir
	if path.Base(pkg) == path.Base(sunlight) {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return file
}

// run runs a program to its end and returns what it printed.
func run(t testing.TB, pkg string, args ...string) string {
	t.Helper()
	program := build(t, pkg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", path.Base(pkg), strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// process is a server that runs until the test ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *output
	ended  chan struct{}
}

// output collects what a process says, to be shown when the test fails.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts a server. It is interrupted when the test ends, and killed when that does
// not end it.
func start(t testing.TB, pkg, dir string, args ...string) *process {
	t.Helper()
	return startWith(t, nil, pkg, dir, args...)
}

// startWith starts a server with additions to the environment.
func startWith(t testing.TB, env []string, pkg, dir string, args ...string) *process {
	t.Helper()
	p := &process{name: path.Base(pkg), cmd: exec.Command(build(t, pkg), args...), stderr: new(output), ended: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.stderr
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = w
	p.stdout = bufio.NewReader(out)
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is told by the state
	}()
	t.Cleanup(func() {
		p.stop(t)
		_ = out.Close()
		if t.Failed() {
			said := p.stderr.String()
			t.Logf("%s said in the end:\n%s", p.name, said[max(0, len(said)-4000):])
		}
	})
	return p
}

// stop interrupts the server and waits for its end. A second stop does nothing.
func (p *process) stop(t testing.TB) {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		t.Errorf("%s did not end when interrupted", p.name)
	}
}

// line waits for the server's first line on standard output and returns its words.
func (p *process) line(t testing.TB) []string {
	t.Helper()
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := p.stdout.ReadString('\n')
		read <- answer{line, err}
	}()
	select {
	case a := <-read:
		if a.err != nil {
			t.Fatalf("%s ended before it was ready: %v\n%s", p.name, a.err, p.stderr)
		}
		return strings.Fields(a.line)
	case <-time.After(30 * time.Second):
		t.Fatalf("%s is not ready", p.name)
		return nil
	}
}

// word returns what follows a prefix in the words of a ready line.
func word(t testing.TB, words []string, prefix string) string {
	t.Helper()
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, prefix); ok {
			return v
		}
	}
	t.Fatalf("no %s in %q", prefix, words)
	return ""
}

// startAt starts a server that takes no port 0 and says not which it took: args are made
// for a port that was free a moment before. Another one is tried when it is taken.
func startAt(t testing.TB, pkg, dir string, args func(addr string) []string) (*process, string) {
	t.Helper()
	var p *process
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		p = start(t, pkg, dir, args(addr)...)
		if p.listens(addr) {
			return p, addr
		}
	}
	t.Fatalf("%s does not listen:\n%s", p.name, p.stderr)
	return nil, ""
}

// listens waits until the server accepts connections or has ended.
func (p *process) listens(addr string) bool {
	for range 300 {
		select {
		case <-p.ended:
			return false
		case <-time.After(50 * time.Millisecond):
		}
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// eventually asks again until done says so or a minute is over.
func eventually(t testing.TB, what string, done func() error) {
	t.Helper()
	err := errors.New("not tried")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// drain reads what is left of a body, within a limit.
func drain(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 16<<20)) }
