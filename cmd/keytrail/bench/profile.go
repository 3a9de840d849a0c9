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
	"slices"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
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
	shapes := b.profiledShapes()
	at := slices.IndexFunc(shapes, func(s namedShape) bool { return s.short == name })
	if at < 0 {
		return cli.Usage("--load is calls, stream or batched, not %q", name)
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return fmt.Errorf("making a directory for the profiles: %w", err)
	}
	file := func(kind string) string { return filepath.Join(b.Out, kind+"-"+name+".pprof") }
	profiled, err := b.profileLoad(ctx, shapes[at].shape, func(kind string, data []byte) error {
		return os.WriteFile(file(kind), data, 0o600)
	})
	if err != nil {
		return err
	}
	r, cpu, allocs := profiled.load, file("cpu"), file("allocs")
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

// fetchProfile returns a profile of the server.
func fetchProfile(ctx context.Context, socket, path string) ([]byte, error) {
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://profiles/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for a profile: %w", err)
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking for a profile: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading a profile: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for a profile: %s: %s", res.Status, b)
	}
	return b, nil
}
