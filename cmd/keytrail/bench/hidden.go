package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/cmd/internal/garbage"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/peer"
)

// hidden are the commands that this program runs of itself, each in its own process.
func hidden() []*cobra.Command {
	return append(readers(), serveCommand(), recordCommand())
}

// systemFlags adds what says which system is meant.
func systemFlags(cmd *cobra.Command, system, dir *string, o *peer.Options) {
	cmd.Hidden = true
	cmd.Args = cobra.NoArgs
	f := cmd.Flags()
	f.StringVar(system, "system", "", "tessera, echo, keytrail, jsonl or pebble")
	f.StringVar(dir, "dir", "", "a new directory")
	f.UintVar(&o.Batch, "batch", 256, "Tessera's batch size")
	f.DurationVar(&o.Age, "age", 250*time.Millisecond, "how old Tessera's batches become")
	f.BoolVar(&o.Published, "published", false, "wait for Tessera's checkpoint")
}

// serveCommand serves a peer until it is interrupted or its standard input ends, so that it
// does not outlive who started it.
func serveCommand() *cobra.Command {
	var system, dir string
	var o peer.Options
	cmd := &cobra.Command{Use: "serve", RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		go func() {
			_, _ = io.Copy(io.Discard, cmd.InOrStdin())
			cancel()
		}()
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		g, end, err := peer.NewServer(context.WithoutCancel(ctx), system, dir, o)
		if err != nil {
			return errors.Join(err, lis.Close())
		}
		fmt.Fprintf(cmd.OutOrStdout(), "ready grpc=%s\n", lis.Addr())
		go func() {
			<-ctx.Done()
			g.Stop()
		}()
		if err := g.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serving: %w", err)
		}
		return end()
	}}
	systemFlags(cmd, &system, &dir, &o)
	return cmd
}

// recordCommand records events in this process and prints a load.Result. Garbage is collected
// as keytraild collects it, for all systems.
func recordCommand() *cobra.Command {
	var system, dir string
	var o peer.Options
	var waiters, keys, events int
	var seconds float64
	cmd := &cobra.Command{Use: "record", RunE: func(cmd *cobra.Command, _ []string) error {
		garbage.Tune(os.Getenv)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		set, err := payload.Random(500)
		if err != nil {
			return err
		}
		s, err := peer.Open(cmd.Context(), system, dir, o)
		if err != nil {
			return err
		}
		d := time.Duration(seconds * float64(time.Second))
		r, err := load.Measure(cmd.Context(), load.Shape{Clients: waiters, Warm: d / 4, For: d, Events: events},
			func(n int) (func(context.Context) (int, error), error) {
				events := set.New(n, keys)
				var b []byte
				return func(ctx context.Context) (int, error) {
					b = events.Append(b[:0])
					return 1, s.Record(ctx, b)
				}, nil
			})
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}}
	systemFlags(cmd, &system, &dir, &o)
	f := cmd.Flags()
	f.IntVar(&waiters, "waiters", 1, "how many wait for an event of theirs at once")
	f.IntVar(&keys, "keys", 10_000, "how many keys")
	f.IntVar(&events, "events", 0, "how many events; 0: as many as the seconds allow")
	f.Float64Var(&seconds, "seconds", 2, "how long")
	return cmd
}
