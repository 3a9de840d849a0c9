package peer_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/peer"
)

func random(t *testing.T) *payload.Set {
	t.Helper()
	s, err := payload.Random(500)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRecorders holds that every system records what it is given, from several callers.
func TestRecorders(t *testing.T) {
	const events = 40
	for _, system := range []string{"keytrail", "tessera", "jsonl", "pebble"} {
		t.Run(system, func(t *testing.T) {
			s, err := peer.Open(t.Context(), system, filepath.Join(t.TempDir()), peer.Options{Batch: 8, Age: 5 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			set := random(t)
			r, err := load.Measure(t.Context(), load.Shape{Clients: 4, Events: events}, func(n int) (func(context.Context) (int, error), error) {
				m := set.New(n, 10)
				return func(ctx context.Context) (int, error) { return 1, s.Record(ctx, m.Append(nil)) }, nil
			})
			if err := errors.Join(err, s.Close()); err != nil {
				t.Fatal(err)
			}
			if r.All != events {
				t.Errorf("%d events recorded, want %d", r.All, events)
			}
		})
	}
}

// TestLines holds that a line is in the file for each event that was acknowledged.
func TestLines(t *testing.T) {
	dir := t.TempDir()
	s, err := peer.Open(t.Context(), "jsonl", dir, peer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := random(t).New(1, 10)
	for range 10 {
		if err := s.Record(t.Context(), m.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "log.jsonl"))
	if n := bytes.Count(b, []byte("\n")); err != nil || n != 10 {
		t.Errorf("%d lines, %v, want 10", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), []byte("late")); err == nil {
		t.Error("a closed file takes events")
	}
}

// TestServers holds that the load and the peers' servers speak keytrail's service.
func TestServers(t *testing.T) {
	for _, system := range []string{"echo", "tessera"} {
		t.Run(system, func(t *testing.T) {
			g, end, err := peer.NewServer(t.Context(), system, t.TempDir(), peer.Options{Batch: 64, Age: 5 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- g.Serve(lis) }()
			conns, err := load.Dial(lis.Addr().String(), 2, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, shape := range []load.Shape{
				{Clients: 2, Keys: 3, For: 200 * time.Millisecond},
				{Clients: 2, Keys: 3, Window: 4, Batch: 1, Events: 50},
				{Clients: 2, Keys: 3, Window: 4, Batch: 16, Events: 500},
			} {
				r, err := load.Append(t.Context(), conns, random(t), shape)
				if err != nil {
					t.Fatal(err)
				}
				if shape.Events > 0 && r.All != shape.Events || r.Rate() <= 0 || r.P50 > r.P99 || r.P99 > r.Max {
					t.Errorf("%+v: %+v", shape, r)
				}
			}
			g.Stop()
			if err := errors.Join(load.Close(conns), end()); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				t.Error(err)
			}
		})
	}
}
