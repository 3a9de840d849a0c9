package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
)

// cellWait bounds one cell.
const cellWait = 3 * time.Minute

// config is what a run measures, from the command line.
type config struct {
	Bin     string
	Samples string
	Audit   string
	Rounds  int
	Seconds float64
	Entries int
	Keys    int
	Only    string
	Out     string
	TempDir string
	Into    string
	Mark    string
}

// bench is a run.
type bench struct {
	config
	work   string // temporary, removed at the end
	stderr io.Writer
	random *payload.Set
	trail  *payload.Set // CloudTrail
	kept   *payload.Set // CloudTrail with the records
	bao    *payload.Set // OpenBao
	dirs   int
	loads  int // see later
	pg     *postgres
}

func newBench(c config, stderr io.Writer) (b *bench, err error) {
	b = &bench{config: c, stderr: stderr}
	if c.Into != "" { // not after the minutes that measuring takes
		if _, err := b.place(""); err != nil {
			return nil, err
		}
	}
	if b.Bin, err = filepath.Abs(c.Bin); err != nil {
		return nil, fmt.Errorf("finding the programs: %w", err)
	}
	if b.random, err = payload.Random(500); err != nil {
		return nil, err
	}
	if b.trail, err = payload.CloudTrail(c.Samples, c.Audit, false); err != nil {
		return nil, err
	}
	if b.kept, err = payload.CloudTrail(c.Samples, c.Audit, true); err != nil {
		return nil, err
	}
	if b.bao, err = payload.OpenBao(c.Samples, c.Audit); err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(c.TempDir, "keytrail-bench-"); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	// A database that root may not run is run by another user below it.
	if err := os.Chmod(b.work, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("making a directory: %w", err), b.close())
	}
	return b, nil
}

func (b *bench) close() error { return os.RemoveAll(b.work) }

// program is the path of one of keytrail's.
func (b *bench) program(name string) string { return filepath.Join(b.Bin, name) }

// newDir makes a directory for one cell.
func (b *bench) newDir(what string) (string, error) {
	b.dirs++
	dir := filepath.Join(b.work, fmt.Sprintf("%s-%d", what, b.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	return dir, nil
}

// measure runs the cells of groups, round after round, each row's systems in turn, so that a
// slow phase of the machine meets all of them. A cell that fails says so in the table.
func (b *bench) measure(ctx context.Context, groups []*group) error {
	for round := range b.Rounds {
		for _, g := range groups {
			for _, r := range g.rows {
				for i := range r.cells {
					c := r.cells[(i+round)%len(r.cells)]
					b.say("round %d of %d: %s, %s", round+1, b.Rounds, r.name, c.system)
					c.measure(ctx, round)
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
				}
			}
		}
	}
	return nil
}

func (c *cell) measure(ctx context.Context, round int) {
	ctx, cancel := context.WithTimeout(ctx, cellWait)
	defer cancel()
	o, err := c.run(ctx)
	if err != nil {
		c.err = err
		return
	}
	c.outcomes, c.rounds = append(c.outcomes, o), append(c.rounds, round)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.stderr, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// wants says whether a part of the run was asked for.
func (b *bench) wants(part string) bool {
	if b.Only == "" {
		return true
	}
	for p := range strings.SplitSeq(b.Only, ",") {
		if p == part {
			return true
		}
	}
	return false
}

// head says where and how the figures were measured.
func (b *bench) head(ctx context.Context, w io.Writer, command string) {
	fmt.Fprintf(w, "%s, %d cores, %s, Go %s; %s; load average before %s.\n", cpuModel(), runtime.NumCPU(),
		line(ctx, "uname", "-sr"), strings.TrimPrefix(runtime.Version(), "go"), time.Now().UTC().Format(time.DateOnly), loadAverage())
	fmt.Fprintf(w, "Commit %s, `%s`: %d rounds of %g s a cell, all systems of a row in turn; median [least–most].\n"+
		"\"keytrail is\" says how many times better keytrail's figure is than the peer's, round by round.\n",
		line(ctx, "git", "describe", "--always", "--dirty"), command, b.Rounds, b.Seconds)
	fmt.Fprintf(w, "Events: random %.0f B; CloudTrail %d records of %.0f B, %.0f B as events; OpenBao %d of %.0f B, %.0f B.\n\n",
		b.random.EventBytes(), b.trail.Len(), b.trail.SourceBytes, b.trail.EventBytes(), b.bao.Len(), b.bao.SourceBytes, b.bao.EventBytes())
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for l := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(l, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown processor"
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}

// line is what a command prints; "unknown" when it cannot be run.
func line(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
