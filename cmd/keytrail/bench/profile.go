package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/log/logdir"
)

// profileCommand leaves profiles of the server under a load.
func profileCommand(c *config) *cobra.Command {
	var shape string
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "leave CPU and allocation profiles of keytraild under a load",
		Example: `  bench profile --load batched --seconds 10
  go tool pprof -http : bin/keytraild .cache/bench/cpu-batched.pprof`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return profileServer(cmd.Context(), *c, shape, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&shape, "load", "batched", "calls (64 clients), stream (1 event a message) or batched (64)")
	return cmd
}

func profileServer(ctx context.Context, c config, name string, stdout, stderr io.Writer) (err error) {
	b, err := newBench(c, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	shape, ok := map[string]load.Shape{"calls": b.unary(64), "stream": b.streamed(16, 64, 1), "batched": b.streamed(4, 16, 64)}[name]
	if !ok {
		return cli.Usage("--load is calls, stream or batched, not %q", name)
	}
	dir, err := b.newDir("keytrail")
	if err != nil {
		return err
	}
	if _, err := logdir.Init(dir, "bench.invalid/log"); err != nil {
		return err
	}
	socket := filepath.Join(b.work, "p")
	p, err := b.keytraild(ctx, dir, "--profiles", socket)
	if err != nil {
		return err
	}
	defer p.kill()
	conns, err := load.Dial(p.words["grpc"], connections, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return fmt.Errorf("making a directory for the profiles: %w", err)
	}
	cpu, allocs := filepath.Join(b.Out, "cpu-"+name+".pprof"), filepath.Join(b.Out, "allocs-"+name+".pprof")
	profiled := make(chan error, 1)
	go func() {
		time.Sleep(shape.Warm)
		profiled <- fetchProfile(ctx, socket, fmt.Sprintf("profile?seconds=%d", max(1, int(b.Seconds))), cpu)
	}()
	r, err := load.Append(ctx, conns, b.random, shape)
	if err = errors.Join(err, <-profiled, fetchProfile(ctx, socket, "allocs", allocs), load.Close(conns)); err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s events/s, p50 %.2f ms, p99 %.2f ms, %d events\n\n", name, number(r.Rate()), r.P50, r.P99, r.All)
	for _, args := range [][]string{
		{"tool", "pprof", "-top", "-cum", "-nodecount", "40", b.program("keytraild"), cpu},
		{"tool", "pprof", "-top", "-sample_index", "alloc_space", "-nodecount", "25", b.program("keytraild"), allocs},
	} {
		out, err := output(ctx, "go", args...)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s\n", out.stdout)
	}
	fmt.Fprintf(stdout, "%s\n%s\n", cpu, allocs)
	return nil
}

// fetchProfile writes a profile of the server into a file.
func fetchProfile(ctx context.Context, socket, path, file string) error {
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://profiles/"+path, nil)
	if err != nil {
		return fmt.Errorf("asking for a profile: %w", err)
	}
	res, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("asking for a profile: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for a profile: %s: %s", res.Status, b)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	return nil
}
