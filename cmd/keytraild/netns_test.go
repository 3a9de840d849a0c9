package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/logdir"
)

// TestNetNS has the log in one network namespace and its three witnesses in another, and cuts
// the link between them. Meanwhile appends must go on and publication wait, and say why; once
// the link is mended, what waited must be published without anybody's help.
func TestNetNS(t *testing.T) {
	if os.Getenv("KEYTRAIL_NETNS") == "" {
		t.Skip("KEYTRAIL_NETNS is not set: run make netns")
	}
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip is not installed (Debian: iproute2)")
	}
	s := newSplit(t)
	s.start(t)
	s.append(t, "witnessed", 5)
	for name, cut := range map[string]struct{ namespace, link string }{
		"connections hang":       {s.far, s.farLink},
		"network is unreachable": {s.near, s.nearLink},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.info(t)
			s.ip(t, "-n", cut.namespace, "link", "set", cut.link, "down")
			// What asks for a receipt waits until the link is mended.
			waiting := s.appending(t, "witnessed", 3)
			for range 10 {
				s.append(t, "durable", 10)
			}
			s.eventually(t, "publication says why it waits", func(i logInfo) bool { return i.Problem != "" })
			during := s.info(t)
			if during.Published != before.Published || during.Durable < before.Durable+100 {
				t.Errorf("while cut off: %+v, before: %+v", during, before)
			}
			select {
			case err := <-waiting:
				t.Fatalf("what waits for witnesses ended while they were cut off: %v", err)
			case <-time.After(3 * time.Second):
			}

			s.ip(t, "-n", cut.namespace, "link", "set", cut.link, "up")
			mended := time.Now()
			if err := <-waiting; err != nil {
				t.Errorf("what waited for witnesses: %v", err)
			}
			s.eventually(t, "all is published", func(i logInfo) bool { return i.Published == i.Durable && i.Problem == "" })
			t.Logf("mended after %v: %d entries were waiting", time.Since(mended).Round(time.Millisecond), during.Durable-during.Published)
			if after := s.info(t); after.Durable != before.Durable+103 {
				t.Errorf("afterwards: %+v, before: %+v", after, before)
			}
			s.verify(t, before.Durable+102)
		})
	}
}

// split is a log and its witnesses with a link between their network namespaces.
type split struct {
	dir, bin, grpc string
	// near is the log's namespace, far the witnesses'.
	near, far, nearLink, farLink string
	events                       int
}

// Addresses of the two ends of the link (RFC 5737).
const (
	nearAddress = "192.0.2.1"
	farAddress  = "192.0.2.2"
)

// newSplit builds the programs and the network.
func newSplit(t *testing.T) *split {
	t.Helper()
	id := strconv.Itoa(os.Getpid())
	s := &split{
		dir: t.TempDir(), near: "keytrail-log-" + id, far: "keytrail-witnesses-" + id,
		nearLink: "kl" + id, farLink: "kw" + id,
	}
	s.bin = filepath.Join(s.dir, "bin")
	build := exec.Command("go", "build", "-o", s.bin+string(filepath.Separator), ".", "../keytrail", "../keytrail-witness")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	for _, ns := range []string{s.near, s.far} {
		s.ip(t, "netns", "add", ns)
		t.Cleanup(func() { s.ip(t, "netns", "delete", ns) })
		s.ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	s.ip(t, "link", "add", s.nearLink, "netns", s.near, "type", "veth", "peer", "name", s.farLink, "netns", s.far)
	for _, end := range [][3]string{{s.near, s.nearLink, nearAddress}, {s.far, s.farLink, farAddress}} {
		s.ip(t, "-n", end[0], "address", "add", end[2]+"/24", "dev", end[1])
		s.ip(t, "-n", end[0], "link", "set", end[1], "up")
	}
	return s
}

func (s *split) ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// in is a program in a namespace. It is killed when ctx ends.
func (s *split) in(ctx context.Context, namespace, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", namespace, filepath.Join(s.bin, program)}, args...)...)
	cmd.Dir = s.dir
	return cmd
}

// run runs a program to its end, which must be a good one within a minute, and returns its
// output.
func (s *split) run(t *testing.T, namespace, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.in(ctx, namespace, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, &stderr)
	}
	return out
}

// serve starts a program and returns the words of its ready line.
func (s *split) serve(t *testing.T, namespace, program string, args ...string) map[string]string {
	t.Helper()
	cmd := s.in(context.Background(), namespace, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", program, &stderr)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("%s is not ready: %q, %v", program, line, err)
	}
	words := make(map[string]string)
	for _, w := range strings.Fields(line) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return words
}

// start makes and starts three witnesses, of which two must cosign with both of their keys,
// and the log.
func (s *split) start(t *testing.T) {
	t.Helper()
	logDir := filepath.Join(s.dir, "log")
	d, err := logdir.Init(logDir, "netns.test/log")
	if err != nil {
		t.Fatal(err)
	}
	keys := make([]string, 0, 2)
	var policy strings.Builder
	for line := range strings.Lines(d.Policy) {
		if f := strings.Fields(line); f[0] == "log" {
			keys = append(keys, f[1])
			policy.WriteString(line)
		}
	}
	for i := range 3 {
		name := fmt.Sprint("w", i)
		vkeys := strings.Fields(string(s.run(t, s.far, "keytrail-witness", "init", "--dir", name, "--name", "netns.test/"+name)))
		s.run(t, s.far, "keytrail-witness", append([]string{"enroll", "--dir", name}, keys...)...)
		url := "http://" + s.serve(t, s.far, "keytrail-witness", "--dir", name, "--listen", farAddress+":0")["http"]
		for j, k := range vkeys {
			fmt.Fprintf(&policy, "witness %s.%d %s %s\n", name, j, k, url)
		}
		fmt.Fprintf(&policy, "group %s all %s.0 %s.1\n", name, name, name)
	}
	policy.WriteString("group two 2 w0 w1 w2\nquorum two\n")
	if err := os.WriteFile(filepath.Join(logDir, "policy"), []byte(policy.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	s.grpc = s.serve(t, s.near, "keytraild", "--dir", "log", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")["grpc"]
}

// appending appends some new events and returns a channel that gets how that ended.
func (s *split) appending(t *testing.T, wait string, n int) <-chan error {
	t.Helper()
	var events bytes.Buffer
	for range n {
		s.events++
		fmt.Fprintf(&events, `{"schemaVersion":1,"eventId":"e-%d","source":{"system":"pkcs11"},"tenant":"acme",`+
			`"time":"2025-03-01T10:00:00Z","operation":"key.generate","outcome":"success"}`+"\n", s.events)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	cmd := s.in(ctx, s.near, "keytrail", "--server", s.grpc, "append", "--wait", wait, "-")
	cmd.Stdin = &events
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		ended <- err
	}()
	return ended
}

func (s *split) append(t *testing.T, wait string, n int) {
	t.Helper()
	if err := <-s.appending(t, wait, n); err != nil {
		t.Fatalf("appending, %s: %v", wait, err)
	}
}

// logInfo is a part of what keytrail log-info prints.
type logInfo struct {
	Durable   uint64 `json:"durable_size,string"`
	Published uint64 `json:"published_size,string"`
	Problem   string `json:"publication_problem"`
}

func (s *split) info(t *testing.T) logInfo {
	t.Helper()
	var i logInfo
	if err := json.Unmarshal(s.run(t, s.near, "keytrail", "--server", s.grpc, "log-info", "--json"), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

// eventually waits until the log's state is as it should be, for two minutes at most.
func (s *split) eventually(t *testing.T, what string, ok func(logInfo) bool) {
	t.Helper()
	var i logInfo
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if i = s.info(t); ok(i) {
			return
		}
	}
	t.Fatalf("not within two minutes: %s; the log says %+v", what, i)
}

// verify checks a receipt offline, under the policy that demands the quorum.
func (s *split) verify(t *testing.T, index uint64) {
	t.Helper()
	file := fmt.Sprintf("%d.tlog-proof", index)
	s.run(t, s.near, "keytrail", "--server", s.grpc, "receipt", strconv.FormatUint(index, 10), "-o", file)
	s.run(t, s.far, "keytrail", "verify", "receipt", file, "--policy", "log/policy")
}
