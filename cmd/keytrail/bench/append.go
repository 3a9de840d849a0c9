package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	"github.com/keytrail/keytrail/log/logdir"
)

// Connections of single calls; a stream each has one of its own up to as many.
const connections = 4

// unary, streamed and batched are the shapes of the table.
func (b *bench) unary(clients int) load.Shape {
	return b.timed(load.Shape{Clients: clients, Keys: b.Keys})
}

func (b *bench) streamed(streams, window, batch int) load.Shape {
	return b.timed(load.Shape{Clients: streams, Window: window, Batch: batch, Keys: b.Keys})
}

func (b *bench) timed(s load.Shape) load.Shape {
	s.For = time.Duration(b.Seconds * float64(time.Second))
	s.Warm = s.For / 4
	return s
}

// shortBatches is Tessera with batches that wait for 5 ms at most: its figures agree with those that the
// asks were made from. Longer ones make more where more than a batch is under way.
const shortBatches = "the same, batches of 5 ms at most"

// appends are the rows about how fast events are recorded.
func (b *bench) appends() *group {
	g := &group{
		title: "Appends, durable",
		note: "Each system in a process of its own, on a new directory, with the clients on the same cores. Latency is from sending to " +
			"the answer, of a message. CPU is the server's until it has stopped; in process it is everything's.",
	}
	twice := func(least float64) ask { return ask{ratio: true, least: least} }
	add := func(name string, cells ...*cell) {
		g.rows = append(g.rows, &row{name: name, unit: "events/s", cells: cells})
	}
	for _, clients := range []int{64, 256} {
		shape, tess := b.unary(clients), twice(2)
		pg := &cell{system: "PostgreSQL, INSERT and COMMIT", run: b.postgresCell(clients, 1), ask: twice(1.2)}
		echo := twice(0.5)
		if clients == 256 {
			tess, pg.ask, echo = twice(2.3), ask{}, ask{}
		}
		add(fmt.Sprintf("one event a call, %d clients", clients),
			&cell{system: "keytrail", run: b.served("keytrail", b.random, shape)},
			&cell{system: "Tessera behind gRPC", run: b.served("tessera", b.random, shape, "--batch", strconv.Itoa(clients), "--age", "20ms"), ask: tess},
			&cell{system: shortBatches, run: b.served("tessera", b.random, shape, "--batch", strconv.Itoa(clients), "--age", "5ms"), ask: tess},
			pg,
			&cell{system: "gRPC alone", run: b.served("echo", b.random, shape), ask: echo})
	}
	add("stream, 16 × 64 in flight, 1 event a message",
		&cell{system: "keytrail", run: b.served("keytrail", b.random, b.streamed(16, 64, 1))},
		&cell{system: "keytrail, TLS", run: b.served("keytrail-tls", b.random, b.streamed(16, 64, 1))},
		&cell{system: "Tessera behind gRPC", run: b.served("tessera", b.random, b.streamed(16, 64, 1), "--batch", "512", "--age", "20ms"), ask: twice(6)},
		&cell{system: shortBatches, run: b.served("tessera", b.random, b.streamed(16, 64, 1), "--batch", "256", "--age", "5ms"), ask: twice(6)},
		&cell{system: "gRPC alone", run: b.served("echo", b.random, b.streamed(16, 64, 1))})
	add("stream, 4 × 16 in flight, 64 events a message",
		&cell{system: "keytrail", run: b.served("keytrail", b.random, b.streamed(4, 16, 64)), ask: ask{least: 250_000, scales: true}},
		&cell{system: "keytrail, TLS", run: b.served("keytrail-tls", b.random, b.streamed(4, 16, 64))},
		&cell{system: "Tessera behind gRPC", run: b.served("tessera", b.random, b.streamed(4, 16, 64), "--batch", "2048", "--age", "250ms")},
		&cell{system: "PostgreSQL, 64 rows an INSERT, 4 clients", run: b.postgresCell(4, 64), ask: twice(1.8)},
		&cell{system: "PostgreSQL, 256 rows an INSERT, 4 clients", run: b.postgresCell(4, 256), ask: twice(1.8)},
		&cell{system: "gRPC alone", run: b.served("echo", b.random, b.streamed(4, 16, 64))})
	for _, set := range []*payload.Set{b.trail, b.bao} {
		add("the same, "+set.Name,
			&cell{system: "keytrail", run: b.served("keytrail", set, b.streamed(4, 16, 64))},
			&cell{system: "Tessera behind gRPC", run: b.served("tessera", set, b.streamed(4, 16, 64), "--batch", "2048", "--age", "250ms")})
	}
	add("in process, 256 waiters",
		&cell{system: "keytrail", run: b.inProcess("keytrail", 256)},
		&cell{system: "Tessera", run: b.inProcess("tessera", 256, "--batch", "256", "--age", "250ms"), ask: twice(3)},
		&cell{system: "JSONL file, group commit", run: b.inProcess("jsonl", 256)},
		&cell{system: "Pebble alone, synced", run: b.inProcess("pebble", 256)})
	return g
}

// server starts a system that is served over gRPC on a new directory.
func (b *bench) server(ctx context.Context, system, dir string, args ...string) (*process, credentials.TransportCredentials, error) {
	switch system {
	case "keytrail", "keytrail-tls":
		if _, err := logdir.Init(dir, "bench.invalid/log"); err != nil {
			return nil, nil, err
		}
		var creds credentials.TransportCredentials
		if system == "keytrail-tls" {
			var err error
			if creds, err = useTLS(dir); err != nil {
				return nil, nil, err
			}
		}
		p, err := b.keytraild(ctx, dir)
		return p, creds, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("finding this program: %w", err)
	}
	p, err := startProcess(ctx, exe, append([]string{"serve", "--system", system, "--dir", dir}, args...)...)
	return p, nil, err
}

// keytraild starts the log's server on a directory.
func (b *bench) keytraild(ctx context.Context, dir string, args ...string) (*process, error) {
	return startProcess(ctx, b.program("keytraild"),
		append([]string{"--dir", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error"}, args...)...)
}

// served measures a system over gRPC.
func (b *bench) served(system string, set *payload.Set, shape load.Shape, args ...string) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		dir, err := b.newDir(system)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		p, creds, err := b.server(ctx, system, dir, args...)
		if err != nil {
			return o, err
		}
		defer p.kill()
		conns, err := load.Dial(p.words["grpc"], min(connections, shape.Clients), creds)
		if err != nil {
			return o, err
		}
		before := p.cpu()
		r, err := load.Append(ctx, conns, set, shape)
		if err = errors.Join(err, load.Close(conns)); err != nil {
			return o, err
		}
		peak := p.peak()
		cpu, err := p.stop()
		if err != nil {
			return o, err
		}
		return outcome{
			Value: r.Rate(), P50: r.P50, P99: r.P99, PeakMB: peak,
			ServerCPU: (cpu - before) * 1e6 / float64(r.All), ClientCPU: r.CPU * 1e6 / float64(r.Events),
		}, nil
	}
}

// inProcess measures a system without a network.
func (b *bench) inProcess(system string, waiters int, args ...string) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		dir, err := b.newDir(system)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		var r load.Result
		u, err := self(ctx, &r, append([]string{
			"record", "--system", system, "--dir", filepath.Join(dir, "d"),
			"--waiters", strconv.Itoa(waiters), "--seconds", fmt.Sprint(b.Seconds), "--keys", strconv.Itoa(b.Keys),
		}, args...)...)
		if err != nil {
			return o, err
		}
		return outcome{Value: r.Rate(), P50: r.P50, P99: r.P99, ServerCPU: r.CPU * 1e6 / float64(r.Events), PeakMB: u.peakMB}, nil
	}
}
