package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// benchConfig is what a run appends and how.
type benchConfig struct {
	Events  int    `json:"events"`
	Streams int    `json:"streams"`
	Batch   int    `json:"events_per_message"`
	Window  int    `json:"messages_in_flight_per_stream"`
	Size    int    `json:"event_bytes"`
	Keys    int    `json:"keys"`
	Wait    string `json:"wait"`
	// Rate is how many events a second are offered; 0 is as many as the log takes.
	Rate float64 `json:"offered_per_second,omitempty"`
	// Witnesses is how many the log has; a majority must cosign.
	Witnesses int `json:"witnesses"`
	server    string
}

// benchReport is what a run measured.
type benchReport struct {
	Config        benchConfig `json:"config"`
	Seconds       float64     `json:"seconds"`
	EventsPerSec  float64     `json:"events_per_second"`
	AckP50        float64     `json:"ack_p50_ms"`
	AckP99        float64     `json:"ack_p99_ms"`
	AckMax        float64     `json:"ack_max_ms"`
	BytesPerEvent float64     `json:"disk_bytes_per_event"`
	Files         int         `json:"files"`
	// MemoryMB is the server's resident memory when a tenth, two tenths … were appended.
	MemoryMB     []float64 `json:"resident_mb"`
	PeakMB       float64   `json:"peak_resident_mb"`
	ServerCPU    float64   `json:"server_cpu_seconds"`
	StopSeconds  float64   `json:"stop_seconds"`
	FsckSeconds  float64   `json:"fsck_seconds"`
	FsckPerSec   float64   `json:"fsck_entries_per_second"`
	FsckProblems int       `json:"fsck_problems"`
}

func (a *app) benchCommand() *cobra.Command {
	c := benchConfig{}
	var dir string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure a log of its own on this machine",
		Long: `bench makes a log in a temporary directory, starts keytraild on it, appends made-up events
over append streams, stops the server, and checks the whole store. It prints events per
second, the time to acknowledgement, memory, disk space and the speed of the check. Server
and load share the machine: compare runs with each other, not with other machines.`,
		Example: `  keytrail bench --events 1000000
  keytrail bench --events 200000 --streams 16 --batch 64 --json
  keytrail bench --events 3000 --rate 100 --streams 1 --witnesses 3 --wait witnessed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Events < 1 || c.Streams < 1 || c.Batch < 1 || c.Batch > log.MaxEvents || c.Window < 1 || c.Keys < 1 || c.Size < 300 || c.Size > 30000 || c.Rate < 0 || c.Witnesses < 0 || c.Witnesses > 32 {
				return cli.Usage("bench needs at least 1 event, stream, key and message in flight, 1 to %d events a message, and events of 300 to 30000 bytes; no negative rate, at most 32 witnesses", log.MaxEvents)
			}
			if _, err := parseWait(c.Wait); err != nil {
				return err
			}
			r, err := bench(cmd.Context(), c, dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return r.print(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.Events, "events", 100_000, "how many events")
	f.IntVar(&c.Streams, "streams", 16, "how many append streams at once")
	f.IntVar(&c.Batch, "batch", 1, "events a message")
	f.IntVar(&c.Window, "window", 64, "messages under way on each stream")
	f.IntVar(&c.Size, "size", 500, "bytes of an event, encoded")
	f.IntVar(&c.Keys, "keys", 10_000, "how many keys the events are about")
	f.StringVar(&c.Wait, "wait", "durable", "what to wait for: durable, published or witnessed")
	f.Float64Var(&c.Rate, "rate", 0, "offer so many events a second, and time each from when it was due; 0: as fast as the log takes them")
	f.IntVar(&c.Witnesses, "witnesses", 0, "start so many witnesses; a majority of them must cosign")
	f.StringVar(&c.server, "keytraild", "", "the server's program; default: beside this one, or in PATH")
	f.StringVar(&dir, "dir", "", "where to make the log, kept afterwards; default: a temporary directory")
	return cmd
}

// bench is one run.
func bench(ctx context.Context, c benchConfig, dir string, stderr io.Writer) (r *benchReport, err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "keytrail-bench-"); err != nil {
			return nil, fmt.Errorf("making a directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	d, err := logdir.Init(dir, "bench.invalid/log")
	if err != nil {
		return nil, err
	}
	ws, err := startWitnesses(ctx, c.Witnesses, d, stderr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ws.end()) }()
	s, err := startServer(ctx, c.server, dir, stderr)
	if err != nil {
		return nil, err
	}
	defer s.kill()
	cl, err := client.Dial(s.addr, client.TLS{})
	if err != nil {
		return nil, err
	}
	load := newLoad(c)
	r = &benchReport{Config: c}
	begin := time.Now()
	err = load.run(ctx, cl, func() { r.MemoryMB = append(r.MemoryMB, s.memory("VmRSS")) })
	r.Seconds = time.Since(begin).Seconds()
	if err := errors.Join(err, cl.Close()); err != nil {
		return nil, err
	}
	r.EventsPerSec = float64(c.Events) / r.Seconds
	r.AckP50, r.AckP99, r.AckMax = load.quantiles()
	r.PeakMB = s.memory("VmHWM")
	begin = time.Now()
	if r.ServerCPU, err = s.stop(); err != nil {
		return nil, err
	}
	r.StopSeconds = time.Since(begin).Seconds()
	if err := r.disk(dir); err != nil {
		return nil, err
	}
	return r, r.check(ctx, d)
}

// check runs fsck.
func (r *benchReport) check(ctx context.Context, d *logdir.Dir) error {
	begin := time.Now()
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	rep, err := fsck.Check(ctx, s, fsck.Options{Origin: d.Config.Origin, Keys: d.Keys(), CheckpointCell: log.CheckpointCell})
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	r.FsckSeconds = time.Since(begin).Seconds()
	r.FsckPerSec = float64(rep.Entries) / r.FsckSeconds
	r.FsckProblems = len(rep.Problems)
	if rep.Size != uint64(r.Config.Events) || rep.Published != rep.Size {
		return fmt.Errorf("appended %d events, the store has %d and published %d", r.Config.Events, rep.Size, rep.Published)
	}
	if len(rep.Problems) > 0 {
		return fmt.Errorf("fsck: %v", rep.Problems[0])
	}
	return nil
}

// disk adds up what the log's files take on the disk.
func (r *benchReport) disk(dir string) error {
	var blocks int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !e.IsDir() {
			blocks += st.Blocks
			r.Files++
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("measuring the log's files: %w", err)
	}
	r.BytesPerEvent = float64(blocks*512) / float64(r.Config.Events)
	return nil
}

func (r *benchReport) print(w io.Writer) error {
	c := r.Config
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "load\t%d events of %d bytes about %d keys, %d streams, %d a message, %d messages in flight each, wait %s\n",
		c.Events, c.Size, c.Keys, c.Streams, c.Batch, c.Window, c.Wait)
	if c.Rate > 0 || c.Witnesses > 0 {
		fmt.Fprintf(t, "offered\t%g events/s (0: no limit), %d witnesses\n", c.Rate, c.Witnesses)
	}
	fmt.Fprintf(t, "appended\t%.0f events/s\t(%.2f s)\n", r.EventsPerSec, r.Seconds)
	fmt.Fprintf(t, "acknowledged\tp50 %.2f ms, p99 %.2f ms, max %.2f ms\n", r.AckP50, r.AckP99, r.AckMax)
	fmt.Fprintf(t, "server memory\tpeak %.0f MB; after each tenth: %s MB\n", r.PeakMB, strings.Trim(fmt.Sprintf("%.0f", r.MemoryMB), "[]"))
	fmt.Fprintf(t, "server CPU\t%.2f s, %.2f s per million events\n", r.ServerCPU, r.ServerCPU*1e6/float64(c.Events))
	fmt.Fprintf(t, "clean stop\t%.2f s\n", r.StopSeconds)
	fmt.Fprintf(t, "disk\t%.0f bytes an event, all of the log's directory, %d files\n", r.BytesPerEvent, r.Files)
	fmt.Fprintf(t, "fsck\t%.0f entries/s, %d problems\t(%.2f s)\n", r.FsckPerSec, r.FsckProblems, r.FsckSeconds)
	return t.Flush()
}

// benchServer is a keytraild that bench has started.
type benchServer struct {
	cmd  *exec.Cmd
	addr string
}

func startServer(ctx context.Context, named, dir string, stderr io.Writer) (*benchServer, error) {
	cmd := exec.CommandContext(ctx, program(named, "keytraild"), "--dir", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error")
	addr, err := startReady(cmd, "grpc=", stderr)
	if err != nil {
		return nil, cli.Hint(err, "name the server's program with --keytraild")
	}
	return &benchServer{cmd: cmd, addr: addr}, nil
}

// stop stops the server cleanly and returns the processor time it took.
func (s *benchServer) stop() (cpu float64, err error) {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, fmt.Errorf("stopping the server: %w", err)
	}
	if err := s.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("stopping the server: %w", err)
	}
	st := s.cmd.ProcessState
	return (st.UserTime() + st.SystemTime()).Seconds(), nil
}

// kill ends a server that is still there.
func (s *benchServer) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// memory reads a field of the server's /proc status, in MB (10^6 bytes); 0 where there is
// no such thing.
func (s *benchServer) memory(field string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0
			}
			return kb * 1024 / 1e6
		}
	}
	return 0
}
