package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/policy"
)

// TestMain runs the tests with the three programs in PATH.
func TestMain(m *testing.M) {
	os.Exit(withPrograms(m))
}

func withPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keytrail-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), ".", "../keytrail", "../keytrail-witness")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// long says whether the long suites were asked for (make crash).
func long() bool { return os.Getenv("KEYTRAIL_LONG") != "" }

// lasting is how long a suite may go on: a moment in make test, the first figure in make
// crash, and in make soak what KEYTRAIL_SOAK says.
func lasting(t *testing.T, crash time.Duration) time.Duration {
	t.Helper()
	if s := os.Getenv("KEYTRAIL_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("KEYTRAIL_SOAK: %v", err)
		}
		return d
	}
	if long() {
		return crash
	}
	return 0
}

// server is one of the programs, through all its restarts.
type server struct {
	tb      testing.TB
	program string
	args    []string
	// before comes before the program in its command line, as a tracer does.
	before []string
	env    []string
	// cutOff, when set, kills the next run so long after its beginning.
	cutOff time.Duration
	// listen has the flag of each address; addr what it was bound to first and is bound to
	// from then on, so that clients and policies find it again.
	listen map[string]string
	addr   map[string]string

	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	stderr string        // path of what it wrote there, all runs
	begin  int64         // where the last run's begins
	ready  time.Duration // how long the last start took
}

// newServer makes a server that is not started. It is killed when the test ends.
func newServer(tb testing.TB, program, stderr string, listen map[string]string, args ...string) *server {
	s := &server{tb: tb, program: program, args: args, listen: listen, addr: make(map[string]string), stderr: stderr}
	tb.Cleanup(func() {
		s.kill()
		if tb.Failed() {
			tb.Logf("the end of what %s said:\n%s", s.stderr, tail(s.said(), 4000))
		}
	})
	return s
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// errEnded means that a program has ended instead of serving.
var errEnded = errors.New("ended before it was ready")

// start starts the program and waits until it serves. An address that was let go a moment
// ago may be in use still, by a connection of a client to itself: then it is tried again.
func (s *server) start() error {
	for attempt := 0; ; attempt++ {
		err := s.launch()
		if err == nil || attempt == 50 || !strings.Contains(s.lastSaid(), "address already in use") {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// launch starts the program once.
func (s *server) launch() error {
	if s.running() {
		return errors.New("it is running")
	}
	program, err := exec.LookPath(s.program)
	if err != nil {
		return err
	}
	line := append(append(append([]string(nil), s.before...), program), s.args...)
	for name, flag := range s.listen {
		addr := s.addr[name]
		if addr == "" {
			addr = "127.0.0.1:0"
		}
		line = append(line, flag, addr)
	}
	log, err := os.OpenFile(s.stderr, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if s.begin, err = log.Seek(0, 2); err != nil {
		return err
	}
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stderr = log
	// What is not ended by the test ends with it: a tracer and the traced, too.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	first := make(chan string, 1)
	ended := make(chan struct{})
	s.ended = ended
	if s.cutOff > 0 {
		cmd := s.cmd
		time.AfterFunc(s.cutOff, func() { _ = cmd.Process.Kill() })
		s.cutOff = 0
	}
	go func(cmd *exec.Cmd) {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		first <- line
		_, _ = r.WriteTo(nopWriter{})
		_ = cmd.Wait() // what it says is in cmd.ProcessState
		close(ended)
	}(s.cmd)
	select {
	case word := <-first:
		if !strings.HasPrefix(word, "ready ") {
			<-ended
			return errEnded
		}
		for _, w := range strings.Fields(word) {
			if name, addr, ok := strings.Cut(w, "="); ok {
				s.addr[name] = addr
			}
		}
	case <-time.After(2 * time.Minute):
		s.kill()
		return errors.New("not ready after two minutes")
	}
	s.ready = time.Since(begin)
	return nil
}

type nopWriter struct{}

func (nopWriter) Write(b []byte) (int, error) { return len(b), nil }

// mustStart is start for what must go well.
func (s *server) mustStart() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatalf("starting %s: %v\n%s", s.program, err, tail(s.lastSaid(), 2000))
	}
}

func (s *server) running() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal to the program, and not to what traces it, unless it is SIGKILL.
func (s *server) signal(sig syscall.Signal) {
	if !s.running() {
		return
	}
	pid := s.cmd.Process.Pid
	if len(s.before) > 0 && sig != syscall.SIGKILL {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for _, f := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(f); err == nil {
				_ = syscall.Kill(child, sig)
			}
		}
		return
	}
	_ = syscall.Kill(-pid, sig)
}

// kill kills the program if it runs, and looks at what it said.
func (s *server) kill() {
	if s.ended == nil {
		return
	}
	s.signal(syscall.SIGKILL)
	<-s.ended
	s.sane()
}

// stop ends the program cleanly.
func (s *server) stop() {
	s.tb.Helper()
	s.signal(syscall.SIGTERM)
	if !s.wait(time.Minute) {
		s.tb.Errorf("%s does not stop", s.program)
		s.kill()
		return
	}
	if !s.cmd.ProcessState.Success() {
		s.tb.Errorf("%s stopped with %v:\n%s", s.program, s.cmd.ProcessState, tail(s.lastSaid(), 2000))
	}
	s.sane()
}

// wait waits until the program has ended by itself.
func (s *server) wait(atMost time.Duration) bool {
	select {
	case <-s.ended:
		s.sane()
		return true
	case <-time.After(atMost):
		return false
	}
}

// killed says whether the last run was ended by SIGKILL, and not by the program.
func (s *server) killed() bool {
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

func (s *server) said() string {
	b, _ := os.ReadFile(s.stderr)
	return string(b)
}

// lastSaid is what the last run wrote to standard error.
func (s *server) lastSaid() string { return s.said()[s.begin:] }

// sane fails the test when the program has panicked. A store that cannot be trusted ends
// the process with a message, never with a stack.
func (s *server) sane() {
	said := s.lastSaid()
	for _, word := range []string{"panic:", "\ngoroutine ", "fatal error:", "DATA RACE"} {
		if at := strings.Index(said, word); at >= 0 {
			s.tb.Errorf("%s panicked:\n%s", s.program, said[at:min(len(said), at+3000)])
			return
		}
	}
}

// cluster is a log and its witnesses as processes.
type cluster struct {
	tb        testing.TB
	dir       string
	policy    *policy.Policy
	log       *server
	witnesses []*server
}

// logDir is the log's directory.
func (c *cluster) logDir() string { return filepath.Join(c.dir, "log") }

// newCluster makes a log with n witnesses, of which more than half must cosign with both of
// their keys. The witnesses run, the log does not.
func newCluster(tb testing.TB, witnesses int) *cluster {
	tb.Helper()
	c := &cluster{tb: tb, dir: tb.TempDir()}
	d, err := logdir.Init(c.logDir(), "fault.test/log")
	if err != nil {
		tb.Fatal(err)
	}
	if witnesses > 0 {
		text := c.addWitnesses(d.Policy, witnesses)
		if err := os.WriteFile(filepath.Join(c.logDir(), "policy"), []byte(text), 0o644); err != nil {
			tb.Fatal(err)
		}
		d.Policy = text
	}
	if c.policy, err = policy.Parse([]byte(d.Policy)); err != nil {
		tb.Fatal(err)
	}
	c.log = c.server(c.logDir())
	return c
}

// server is a server of a log's directory.
func (c *cluster) server(dir string) *server {
	return newServer(c.tb, "keytraild", dir+".stderr", map[string]string{"grpc": "--grpc", "http": "--http"}, "--dir", dir, "--log-level", "warn")
}

// addWitnesses makes and starts witnesses and returns the policy with them.
func (c *cluster) addWitnesses(logPolicy string, n int) string {
	var keys []string
	var out strings.Builder
	for line := range strings.Lines(logPolicy) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "log" {
			keys = append(keys, f[1])
			out.WriteString(line)
		}
	}
	names := ""
	for i := range n {
		name := fmt.Sprint("w", i)
		dir := filepath.Join(c.dir, name)
		vkeys := strings.Fields(c.run("keytrail-witness", "init", "--dir", dir, "--name", "fault.test/"+name))
		c.run("keytrail-witness", append([]string{"enroll", "--dir", dir}, keys...)...)
		w := newServer(c.tb, "keytrail-witness", dir+".stderr", map[string]string{"http": "--listen"}, "--dir", dir, "--log-level", "warn")
		w.mustStart()
		c.witnesses = append(c.witnesses, w)
		for j, k := range vkeys {
			fmt.Fprintf(&out, "witness %s.%d %s http://%s\n", name, j, k, w.addr["http"])
		}
		fmt.Fprintf(&out, "group %s all %s.0 %s.1\n", name, name, name)
		names += " " + name
	}
	fmt.Fprintf(&out, "group most %d%s\nquorum most\n", n/2+1, names)
	return out.String()
}

// run runs a program to its good end and returns what it printed.
func (c *cluster) run(program string, args ...string) string {
	c.tb.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.tb.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// fsck checks a stopped log and returns what keytrail fsck said and its exit status.
func fsck(tb testing.TB, dir string) (string, int) {
	tb.Helper()
	cmd := exec.Command("keytrail", "fsck", "--dir", dir)
	out, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		tb.Fatal(err)
	}
	if strings.Contains(string(out), "panic:") || strings.Contains(string(out), "\ngoroutine ") {
		tb.Errorf("fsck panicked:\n%s", out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// dial connects to the log.
func (c *cluster) dial() *client.Client {
	c.tb.Helper()
	cl, err := client.Dial(c.log.addr["grpc"], client.TLS{})
	if err != nil {
		c.tb.Fatal(err)
	}
	return cl
}

// stop ends all cleanly and wants a clean fsck.
func (c *cluster) stop() {
	c.tb.Helper()
	c.log.stop()
	for _, w := range c.witnesses {
		w.stop()
	}
	if out, status := fsck(c.tb, c.logDir()); status != 0 {
		c.tb.Errorf("fsck: status %d\n%s", status, out)
	}
}
