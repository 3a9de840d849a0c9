package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/log/logdir"
)

// traced are the calls that make a file durable.
const traced = "fsync,fdatasync,msync"

// syncs are the rows about how often the server makes files durable.
func (b *bench) syncs() *group {
	g := &group{
		title: "Syncs",
		note: "The server under strace, which stops it at these calls alone, from its start to its stop; a commit is a batch that the sequencer wrote. " +
			"The other syncs are the signer's ledger and the published checkpoint, twice a round of publishing, and what Pebble syncs when it writes tables.",
	}
	for _, x := range []struct {
		name  string
		shape load.Shape
	}{
		{"one event a call, 64 clients", b.unary(64)},
		{"stream, 16 × 64 in flight, 1 event a message", b.streamed(16, 64, 1)},
		{"stream, 4 × 16 in flight, 64 events a message", b.streamed(4, 16, 64)},
	} {
		g.rows = append(g.rows, &row{name: x.name, unit: "syncs per 1,000 events", lowWins: true,
			cells: []*cell{{system: "keytrail", run: b.syncsOf(x.shape)}}})
	}
	return g
}

func (b *bench) syncsOf(shape load.Shape) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		strace, err := exec.LookPath("strace")
		if err != nil {
			return o, errNotInstalled
		}
		dir, err := b.newDir("keytrail")
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if _, err := logdir.Init(dir, "bench.invalid/log"); err != nil {
			return o, err
		}
		counts := filepath.Join(b.work, "strace")
		p, err := startProcess(ctx, strace, "-f", "--seccomp-bpf", "-c", "-e", "trace="+traced, "-o", counts,
			b.program("keytraild"), "--dir", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error")
		if err != nil {
			return o, err
		}
		defer p.kill()
		server, err := childOf(p.cmd.Process.Pid)
		if err != nil {
			return o, err
		}
		defer func() {
			if p.cmd.ProcessState == nil {
				_ = server.Kill() // strace would leave it behind
			}
		}()
		conns, err := load.Dial(p.words["grpc"], connections, nil)
		if err != nil {
			return o, err
		}
		r, err := load.Append(ctx, conns, b.random, shape)
		if err = errors.Join(err, load.Close(conns)); err != nil {
			return o, err
		}
		commits, err := metric(ctx, p.words["http"], "keytrail_log_batch_entries_count")
		if err != nil {
			return o, err
		}
		if err := server.Signal(syscall.SIGTERM); err != nil {
			return o, fmt.Errorf("stopping keytraild: %w", err)
		}
		if err := p.cmd.Wait(); err != nil {
			return o, fmt.Errorf("stopping strace: %w: %s", err, lastLine(p.stderr.String()))
		}
		n, each, err := countCalls(counts)
		if err != nil {
			return o, err
		}
		return outcome{Value: n * 1000 / float64(r.All), Note: fmt.Sprintf("%s events/s, %.0f events a commit, %.2f syncs a commit (%s)",
			number(r.Rate()), float64(r.All)/commits, n/commits, each)}, nil
	}
}

// childOf finds the process that another one has started.
func childOf(parent int) (*os.Process, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				return nil, fmt.Errorf("listing processes: %w", err)
			}
			return os.FindProcess(pid)
		}
	}
	return nil, fmt.Errorf("process %d has started none", parent)
}

// countCalls reads strace's summary: all calls, and how many of each.
func countCalls(file string) (n float64, each string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, "", fmt.Errorf("reading strace's summary: %w", err)
	}
	var parts []string
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if len(f) < 5 || !strings.Contains(","+traced+",", ","+f[len(f)-1]+",") {
			continue
		}
		calls, err := strconv.ParseFloat(f[3], 64)
		if err != nil {
			return 0, "", fmt.Errorf("reading strace's summary: %w", err)
		}
		n += calls
		parts = append(parts, fmt.Sprintf("%.0f %s", calls, f[len(f)-1]))
	}
	if n == 0 {
		return 0, "", errors.New("strace has counted nothing")
	}
	return n, strings.Join(parts, ", "), nil
}

// metric reads one of the server's figures.
func metric(ctx context.Context, addr, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("asking for metrics: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking for metrics: %w", err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(res.Body, 16<<20))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("the server has no metric %s", name), lines.Err())
}
