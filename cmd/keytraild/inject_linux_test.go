package main_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The system calls that are made to fail, and the errors beside EIO that they can have.
var injected = map[string][]string{
	"openat": {"ENOSPC"}, "write": {"ENOSPC"}, "pwrite64": {"ENOSPC"}, "fallocate": {"ENOSPC"}, "mkdirat": {"ENOSPC"},
	"fsync": nil, "fdatasync": nil, "sync_file_range": nil, "ftruncate": nil, "renameat": nil, "renameat2": nil, "unlinkat": nil,
	"read": nil, "pread64": nil,
}

// firsts are the calls of each thread that are made to fail, as strace is told, with the first of them.
var firsts = map[string]int{"1": 1, "2": 2, "1+": 1, "3+2": 3}

// point is a system call on a kind of file: their names without the numbers.
type point struct{ call, kind string }

// needStrace skips a test that makes system calls fail.
func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.Command("strace", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v\n%s", err, out)
	}
}

// TestCrashInject lets every kind of system call on every kind of file of the log's
// directory fail in turn, in the real server under strace: the first of each thread, a
// later one, and all from the first on. The server ends and says why, or goes on; it never
// panics or hangs, and whatever it has acknowledged is there when it runs again. One log
// lives through all of it.
func TestCrashInject(t *testing.T) {
	needStrace(t)
	t.Parallel()
	c := newCluster(t, 0)
	in := &injection{cluster: c, victim: c.log, root: c.logDir(), enough: 150}
	in.run(t, 3*time.Minute)
}

// TestCrashInjectWitness does the same to a witness, without which nothing is published.
func TestCrashInjectWitness(t *testing.T) {
	needStrace(t)
	t.Parallel()
	c := newCluster(t, 1)
	in := &injection{cluster: c, victim: c.witnesses[0], root: filepath.Join(c.dir, "w0"), enough: 1000}
	in.run(t, time.Minute)
}

// run tries all faults, in any order, for so long in make crash.
func (in *injection) run(t *testing.T, crash time.Duration) {
	t.Helper()
	c := in.cluster
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, pause: 5 * time.Millisecond}
	in.load, in.chance, in.outcomes = l, rand.New(rand.NewPCG(rand.Uint64(), 0)), make(map[string]int)
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 200 })
	in.victim.stop()
	points := in.observe()
	cases := in.cases(points)
	end, done := time.Now().Add(lasting(t, crash)), 0
	for _, ic := range cases {
		if done >= 3 && time.Now().After(end) {
			break
		}
		if done++; !in.try(t, ic) {
			break
		}
	}
	in.audit(true)
	c.stop()
	t.Logf("%d of %d cases at %d points, %d system calls failed; outcomes %v; %v", done, len(cases), len(points), in.hits, in.outcomes, l.book)
}

// injection is one log through many faults.
type injection struct {
	*cluster
	// victim is the program that the faults are for, with its files below root.
	victim *server
	root   string
	load   *load
	chance *rand.Rand
	// enough acknowledgements while the victim runs are enough for a case.
	enough uint64
	// paths are all files that the server touches, and names that it may use next.
	paths    []string
	outcomes map[string]int
	hits     int // system calls that were made to fail
}

// injectCase is one fault.
type injectCase struct {
	point
	errno, when string
}

func (c injectCase) String() string {
	return fmt.Sprintf("%s(%s) %s when=%s", c.call, c.kind, c.errno, c.when)
}

var (
	quoted  = regexp.MustCompile(`[<"](/[^">]+)[>"]`)
	called  = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?(\w+)[( ]`)
	numbers = regexp.MustCompile(`[0-9]+`)
)

// kind is a file's path below root without numbers.
func (in *injection) kind(path string) string {
	rel, err := filepath.Rel(in.root, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return ""
	}
	return numbers.ReplaceAllString(rel, "#")
}

// trace puts a tracer before the next run.
func (in *injection) trace(args ...string) {
	in.victim.before = append([]string{"strace", "-f", "-qq"}, args...)
}

// observe runs the server once, without a fault, and returns which system calls it makes on
// which files.
func (in *injection) observe() map[point]int {
	in.tb.Helper()
	file := filepath.Join(in.dir, "trace")
	in.trace(watching(file)...)
	in.victim.mustStart()
	before := in.load.acks.Load()
	whileFaulty(in.load, 20*time.Second, func() bool { return in.load.acks.Load() > before+100 })
	in.victim.stop()
	in.victim.before = nil
	return in.points(file)
}

// watching are a tracer's arguments for writing all calls that can be made to fail to a file.
func watching(file string) []string {
	calls := slices.Sorted(maps.Keys(injected))
	return []string{"-y", "-s", "1", "-o", file, "-e", "trace=" + strings.Join(calls, ",")}
}

// failing are those for letting one case fail.
func (in *injection) failing(file string, ic injectCase) []string {
	args := []string{"-o", file, "-e", "trace=" + ic.call, "-e", "inject=" + ic.call + ":error=" + ic.errno + ":when=" + ic.when}
	for _, p := range in.files(ic.kind) {
		args = append(args, "-P", p)
	}
	return args
}

// points are the calls on files below root in what a tracer has written, and how often the
// thread that made most of them did.
func (in *injection) points(file string) map[point]int {
	in.tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		in.tb.Fatal(err)
	}
	type threadPoint struct {
		thread string
		point
	}
	calls, points, paths := make(map[threadPoint]int), make(map[point]int), make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		call := called.FindStringSubmatch(line)
		if call == nil {
			continue
		}
		kinds := make(map[string]bool) // openat names its file twice
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			path := strings.TrimSuffix(m[1], " (deleted)")
			if kind := in.kind(path); kind != "" {
				kinds[kind], paths[path] = true, true
			}
		}
		for kind := range kinds {
			p := threadPoint{call[1], point{call[2], kind}}
			calls[p]++
			points[p.point] = max(points[p.point], calls[p])
		}
	}
	for path := range paths {
		in.paths = append(in.paths, path)
	}
	return points
}

// cases are all faults that can be met, in any order.
func (in *injection) cases(points map[point]int) []injectCase {
	var cases []injectCase
	for p, calls := range points {
		for _, errno := range append([]string{"EIO"}, injected[p.call]...) {
			for when, first := range firsts {
				if first <= calls {
					cases = append(cases, injectCase{p, errno, when})
				}
			}
		}
	}
	in.chance.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	return cases
}

// files are the paths of a kind, those that are there and those that may come: Pebble
// numbers its files, and the numbers grow.
func (in *injection) files(kind string) []string {
	var out []string
	prefix, _, numbered := strings.Cut(kind, "#")
	_, suffix, _ := strings.Cut(kind, "#")
	if numbered && !strings.Contains(suffix, "#") {
		newest, width := 0, 6
		entries, _ := os.ReadDir(filepath.Join(in.root, filepath.Dir(prefix)))
		for _, e := range entries {
			if digits := numbers.FindString(e.Name()); digits != "" {
				if n, err := strconv.Atoi(digits); err == nil {
					newest, width = max(newest, n), max(width, len(digits))
				}
			}
		}
		for n := max(0, newest-20); n < newest+40; n++ {
			out = append(out, filepath.Join(in.root, fmt.Sprintf("%s%0*d%s", prefix, width, n, suffix)))
		}
	}
	for _, p := range in.paths {
		if in.kind(p) == kind && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// try runs the server with one fault, and then without. It says whether to go on.
func (in *injection) try(t *testing.T, ic injectCase) bool {
	t.Helper()
	file := filepath.Join(in.dir, "trace")
	in.trace(in.failing(file, ic)...)
	outcome := "goes on"
	if err := in.victim.start(); err != nil {
		outcome = "does not start"
	} else {
		before := in.load.acks.Load()
		whileFaulty(in.load, 4*time.Second, func() bool { return !in.victim.running() || in.load.acks.Load() > before+in.enough })
		if !in.victim.running() {
			outcome = "ends"
		}
		in.victim.signal(syscall.SIGTERM)
		if !in.victim.wait(time.Minute) {
			t.Errorf("%v: it does not end:\n%s", ic, tail(in.victim.lastSaid(), 2000))
			in.victim.kill()
		}
	}
	if said := in.victim.lastSaid(); !in.victim.cmd.ProcessState.Success() && !strings.Contains(said, "input/output error") && !strings.Contains(said, "no space left") {
		t.Errorf("%v: it ended with %v without saying why:\n%s", ic, in.victim.cmd.ProcessState, tail(said, 2000))
	}
	trace, _ := os.ReadFile(file)
	hits := strings.Count(string(trace), "(INJECTED)")
	if in.hits += hits; hits == 0 {
		outcome = "not met"
	}
	in.outcomes[outcome]++
	in.victim.before = nil
	if err := in.victim.start(); err != nil {
		t.Errorf("%v: it does not start again: %v\n%s", ic, err, tail(in.victim.lastSaid(), 2000))
		return false
	}
	in.audit(false)
	in.victim.kill()
	if t.Failed() {
		t.Logf("the case was %v (%s)", ic, outcome)
	}
	return !t.Failed()
}

// audit audits the log; it starts the victim if it is not running.
func (in *injection) audit(whole bool) {
	in.tb.Helper()
	if !in.victim.running() {
		in.victim.mustStart()
	}
	auditCluster(in.cluster, in.load.book, whole)
}
