package main_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// commandCase is a command that writes a directory.
type commandCase struct {
	name string
	// args of keytrail; it writes below root.
	args []string
	root string
	// before makes something to do for the next run, first for the first one of all.
	before func(t *testing.T, first bool)
	// whole are the arguments of a command that says that what was finished before is whole.
	whole []string
	// nothing is what must not be there after a run that failed.
	nothing string
}

// TestCrashInjectCommands lets every kind of system call on every kind of file that backup,
// restore and mirror write fail in turn, a full disk among the errors: the command says
// so and does not take it for a lying log, or does all the same; what was finished before is whole;
// and the next run finishes.
func TestCrashInjectCommands(t *testing.T) {
	needStrace(t)
	t.Parallel()
	c := newCluster(t, 0)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, bulk: 2 << 10}
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 300 })
	more := func(t *testing.T) {
		t.Helper()
		cl := c.dial()
		defer cl.Close()
		ev := newEvent(l.numbers.Add(1), 1)
		if _, err := cl.Append(t.Context(), &rpc.AppendRequest{Event: ev, Wait: rpc.Wait_WAIT_PUBLISHED}); err != nil {
			t.Fatal(err)
		}
	}
	url, server := "http://"+c.log.addr["http"], c.log.addr["grpc"]
	backup, mirror, restored := filepath.Join(c.dir, "backup"), filepath.Join(c.dir, "mirror"), filepath.Join(c.dir, "out", "log")
	policy := filepath.Join(c.logDir(), "policy")
	renew := func(dir string) func(t *testing.T, first bool) {
		return func(t *testing.T, first bool) {
			t.Helper()
			if first || rand.IntN(3) > 0 {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			more(t)
		}
	}
	for _, cc := range []commandCase{
		{
			name: "backup", args: []string{"backup", "--dir", c.logDir(), "--url", url, "--server", server, backup}, root: backup,
			before: renew(backup), whole: []string{"restore", "--check", backup},
		},
		{
			name: "mirror", args: []string{"mirror", "--url", url, "--dir", mirror, "--policy", policy, "--payloads", "--server", server}, root: mirror,
			before: renew(mirror), whole: []string{"fsck", "--url", mirror, "--policy", policy},
		},
		{
			name: "restore", args: []string{"restore", backup, restored, "--policy", policy}, root: filepath.Dir(restored),
			before: func(t *testing.T, _ bool) {
				t.Helper()
				if err := errors.Join(os.RemoveAll(restored), os.MkdirAll(filepath.Dir(restored), 0o700)); err != nil {
					t.Fatal(err)
				}
			},
			nothing: restored,
		},
	} {
		t.Run(cc.name, func(t *testing.T) { c.tryCommand(t, &cc) })
	}
	c.stop()
}

// tryCommand tries all faults of a command, in any order.
func (c *cluster) tryCommand(t *testing.T, cc *commandCase) {
	in := &injection{cluster: c, root: cc.root, chance: rand.New(rand.NewPCG(rand.Uint64(), 0)), outcomes: make(map[string]int)}
	file := filepath.Join(c.dir, cc.name+".trace")
	cc.before(t, true)
	if out, status := traced(t, watching(file), cc.args); status != 0 {
		t.Fatalf("without a fault: %d\n%s", status, out)
	}
	points := in.points(file)
	cc.before(t, false)
	if out, status := traced(t, watching(file), cc.args); status != 0 {
		t.Fatalf("again without a fault: %d\n%s", status, out)
	}
	for p, calls := range in.points(file) {
		points[p] = max(points[p], calls)
	}
	left := in.cases(points)
	all, met := len(left), 0 // met are those in which a call failed
	end := time.Now().Add(lasting(t, 25*time.Second))
	for tries := 0; len(left) > 0 && (met < 2 && tries < 20 || time.Now().Before(end)); tries++ {
		cc.before(t, false)
		calls := in.rehearse(t, cc, file)
		next := slices.IndexFunc(left, func(ic injectCase) bool { return calls[ic.point] >= firsts[ic.when] })
		if next < 0 {
			continue // another one may be met by a first run, or by one that is not
		}
		ic, before := left[next], in.hits
		left = slices.Delete(left, next, next+1)
		in.tryCase(t, cc, ic, file)
		if t.Failed() {
			t.Fatalf("the case was %v", ic)
		}
		if in.hits > before {
			met++
		}
	}
	t.Logf("%d of %d cases at %d points, %d system calls failed; outcomes %v", all-len(left), all, len(points), in.hits, in.outcomes)
	if met == 0 {
		t.Error("no system call failed")
	}
}

// rehearse runs a command without a fault, and returns its points. It puts back what the
// command found, so that the next run makes the same calls on the same files.
func (in *injection) rehearse(t *testing.T, cc *commandCase, file string) map[point]int {
	t.Helper()
	found := filepath.Join(in.dir, "found")
	if err := os.RemoveAll(found); err != nil {
		t.Fatal(err)
	}
	_, err := os.Stat(cc.root)
	there := err == nil
	if there {
		if out, err := exec.Command("cp", "-a", cc.root, found).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	in.paths = nil
	if out, status := traced(t, watching(file), cc.args); status != 0 {
		t.Fatalf("without a fault: %d\n%s", status, out)
	}
	points := in.points(file)
	if err := os.RemoveAll(cc.root); err != nil {
		t.Fatal(err)
	}
	if there {
		if err := os.Rename(found, cc.root); err != nil {
			t.Fatal(err)
		}
	}
	return points
}

// tryCase runs a command with one fault, and then without.
func (in *injection) tryCase(t *testing.T, cc *commandCase, ic injectCase, file string) {
	t.Helper()
	_, err := os.Stat(cc.root)
	finished := err == nil && cc.whole != nil
	out, status := traced(t, in.failing(file, ic), cc.args)
	trace, _ := os.ReadFile(file)
	hits := strings.Count(string(trace), "(INJECTED)")
	in.hits += hits
	outcome := "done all the same"
	switch {
	case hits == 0:
		outcome = "not met"
	case status != 0:
		outcome = "says so"
	}
	in.outcomes[outcome]++
	if status != 0 && status != 1 {
		t.Errorf("%v: status %d, want 0 or 1:\n%s", ic, status, out)
	}
	if status != 0 && !strings.Contains(out, "input/output error") && !strings.Contains(out, "no space left") {
		t.Errorf("%v: it does not say what failed:\n%s", ic, out)
	}
	if status != 0 && cc.nothing != "" {
		if _, err := os.Lstat(cc.nothing); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: something is in the place of the result: %v", ic, err)
		}
	}
	if finished {
		if out, status := traced(t, nil, cc.whole); status != 0 {
			t.Errorf("%v: what was finished before is not whole: %d\n%s", ic, status, out)
		}
	}
	if status == 0 && cc.nothing != "" {
		return // a place that is taken is refused
	}
	if out, status := traced(t, nil, cc.args); status != 0 {
		t.Errorf("%v: the next run ends with status %d:\n%s", ic, status, out)
	}
	if cc.whole != nil {
		if out, status := traced(t, nil, cc.whole); status != 0 {
			t.Errorf("%v: what the next run finished is not whole: %d\n%s", ic, status, out)
		}
	}
}

// traced runs keytrail, under a tracer with the arguments that are given, if any are.
func traced(t *testing.T, tracer, args []string) (out string, status int) {
	t.Helper()
	program, err := exec.LookPath("keytrail")
	if err != nil {
		t.Fatal(err)
	}
	line := append([]string{program}, args...)
	if len(tracer) > 0 {
		line = append(append([]string{"strace", "-f", "-qq"}, tracer...), line...)
	}
	var b bytes.Buffer
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			t.Fatal(err)
		}
	}
	if said := b.String(); strings.Contains(said, "panic:") || strings.Contains(said, "\ngoroutine ") {
		t.Errorf("keytrail %s panicked:\n%s", args[0], said)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}
