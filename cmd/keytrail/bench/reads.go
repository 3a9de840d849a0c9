package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// reads are the rows about filled logs: opening, proofs, queries and checks.
func (b *bench) reads(l, t *built) *group {
	g := &group{title: fmt.Sprintf("Reading, opening and checking a log of %s entries", number(float64(b.Entries))),
		note: "Random events and, where a key's history is read, a key with many of them. Indexes of proofs are random over the whole log; receipts are verified " +
			"by one goroutine; checks are whole programs, with their start."}
	add := func(name, unit string, low bool, cells ...*cell) {
		g.rows = append(g.rows, &row{name: name, unit: unit, lowWins: low, cells: cells})
	}
	add("open after a clean stop", "s", true, &cell{system: "keytrail", ask: ask{most: 1, scales: true}, run: b.opened(l)})
	add("open after kill -9 under load", "s", true, &cell{system: "keytrail", ask: ask{most: 5, scales: true}, run: b.killed(l)})
	tesseraProofs := func(kind string) func(context.Context) (outcome, error) {
		return b.reading("tessera-proofs", t, "--kind", kind)
	}
	for _, kind := range []string{"inclusion", "consistency"} {
		add(kind+" proofs over gRPC, 64 clients", "proofs/s", false, &cell{system: "keytrail", ask: ask{least: 20_000, scales: true}, run: b.servedProofs(l, kind)})
		add(kind+" proofs in process", "proofs/s", false,
			&cell{system: "keytrail", ask: ask{least: 70_000, scales: true}, run: b.reading("proofs", l, "--kind", kind)},
			&cell{system: "Tessera's ProofBuilder, one a core", run: tesseraProofs(kind)})
	}
	add("receipts verified one by one", "receipts/s", false, &cell{system: "keytrail", run: b.reading("receipts", l)})
	add("receipts of one checkpoint verified together", "receipts/s", false,
		&cell{system: "keytrail", ask: ask{least: 150_000, scales: true}, run: b.reading("receipts", l, "--together")})
	add("fsck, tree alone", "entries/s", false,
		&cell{system: "keytrail", ask: ask{least: 2_000_000, scales: true}, run: b.fsck(l, "--tree")},
		&cell{system: "Tessera", run: b.reading("tessera-fsck", t)})
	add("fsck with payloads and chains", "entries/s", false, &cell{system: "keytrail", ask: ask{least: 800_000, scales: true}, run: b.fsck(l)})
	history := "first page of a key's history"
	if l != nil {
		history = fmt.Sprintf("first page of a key's history of %s events", number(float64(l.hot)))
	}
	for _, q := range queries(history) {
		add(q.name, "ms", true, &cell{system: "keytrail", ask: ask{most: 10, scales: true}, run: b.query(l, q.ask)})
	}
	return g
}

var errNotFilled = errors.New("the log could not be filled")

// serving starts the server on a filled log and calls fn.
func (b *bench) serving(ctx context.Context, l *built, fn func(p *process) (outcome, error)) (o outcome, err error) {
	if l == nil {
		return o, errNotFilled
	}
	p, err := b.keytraild(ctx, l.dir)
	if err != nil {
		return o, err
	}
	defer p.kill()
	if o, err = fn(p); err != nil {
		return o, err
	}
	o.PeakMB = p.peak()
	_, err = p.stop()
	return o, err
}

func (b *bench) opened(l *built) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (outcome, error) {
		return b.serving(ctx, l, func(p *process) (outcome, error) { return outcome{Value: p.ready.Seconds()}, nil })
	}
}

// killed ends a server in the middle of a load and times the next start.
func (b *bench) killed(l *built) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		if l == nil {
			return o, errNotFilled
		}
		p, err := b.keytraild(ctx, l.dir)
		if err != nil {
			return o, err
		}
		defer p.kill()
		conns, err := load.Dial(p.words["grpc"], connections, nil)
		if err != nil {
			return o, err
		}
		shape := b.streamed(4, 16, 64)
		shape.For, shape.Warm = time.Minute, 0
		ended := make(chan error, 1)
		go func() {
			// A set of its own: these events are not in the log yet.
			_, err := load.Append(ctx, conns, b.random, b.later(shape))
			ended <- err
		}()
		time.Sleep(time.Second)
		p.kill()
		// The load ends because its server does.
		if err := <-ended; err == nil {
			return o, errors.New("the load did not notice that the server was killed")
		}
		if err := load.Close(conns); err != nil {
			return o, err
		}
		return b.serving(ctx, l, func(p *process) (o outcome, err error) {
			// The log has grown by what was recorded before the kill.
			if l.entries, err = durable(ctx, p); err != nil {
				return o, err
			}
			return outcome{Value: p.ready.Seconds()}, nil
		})
	}
}

// durable asks a server how many entries its log has.
func durable(ctx context.Context, p *process) (int, error) {
	c, err := client.Dial(p.words["grpc"], client.TLS{})
	if err != nil {
		return 0, err
	}
	info, err := c.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
	if err := errors.Join(err, c.Close()); err != nil {
		return 0, err
	}
	return int(info.GetDurableSize()), nil
}

// later gives a load numbers that none before it had, so that its events are new.
func (b *bench) later(s load.Shape) load.Shape {
	b.loads++
	s.First = b.loads * 1000
	return s
}

// servedProofs asks the server for proofs.
func (b *bench) servedProofs(l *built, kind string) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (outcome, error) {
		return b.serving(ctx, l, func(p *process) (o outcome, err error) {
			conns, err := load.Dial(p.words["grpc"], connections, nil)
			if err != nil {
				return o, err
			}
			before := p.cpu()
			r, err := load.Measure(ctx, b.unary(64), func(n int) (func(context.Context) (int, error), error) {
				return proofCall(conns[n%len(conns)], kind, uint64(l.entries), uint64(n)), nil
			})
			if err = errors.Join(err, load.Close(conns)); err != nil {
				return o, err
			}
			return outcome{
				Value: r.Rate(), P50: r.P50, P99: r.P99,
				ServerCPU: (p.cpu() - before) * 1e6 / float64(r.All), ClientCPU: r.CPU * 1e6 / float64(r.Events),
			}, nil
		})
	}
}

// proofCall asks for the proof of a random entry, or from a random size.
func proofCall(conn *grpc.ClientConn, kind string, entries, seed uint64) func(context.Context) (int, error) {
	method := rpc.LogService_GetInclusionProof_FullMethodName
	if kind == "consistency" {
		method = rpc.LogService_GetConsistencyProof_FullMethodName
	}
	rnd := rand.New(rand.NewPCG(seed, 3))
	var req, res load.Frame
	return func(ctx context.Context) (int, error) {
		// Both requests begin with the number that is random; a size is not 0.
		req.Bytes = protowire.AppendVarint(protowire.AppendTag(req.Bytes[:0], 1, protowire.VarintType), 1+rnd.Uint64N(entries-1))
		return 1, conn.Invoke(ctx, method, &req, &res)
	}
}

// reading runs a command of this program on a filled log; it prints a load.Result.
func (b *bench) reading(command string, l *built, args ...string) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		if l == nil {
			return o, errNotFilled
		}
		var r load.Result
		u, err := self(ctx, &r, append([]string{
			command, "--dir", l.dir, "--entries", strconv.Itoa(l.entries), "--seconds", fmt.Sprint(b.Seconds),
		}, args...)...)
		if err != nil {
			return o, err
		}
		return outcome{Value: r.Rate(), ServerCPU: r.CPU * 1e6 / float64(r.Events), PeakMB: u.peakMB}, nil
	}
}

// fsck checks the log with the program that users have.
func (b *bench) fsck(l *built, args ...string) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		if l == nil {
			return o, errNotFilled
		}
		r, err := output(ctx, b.program("keytrail"), append([]string{"fsck", "--dir", l.dir}, args...)...)
		if err != nil {
			return o, err
		}
		n := float64(l.entries)
		return outcome{Value: n / r.seconds, ServerCPU: r.cpu * 1e6 / n, PeakMB: r.peakMB}, nil
	}
}

// query is a question to the views, asked again and again by one client.
type query struct {
	name string
	ask  func(ctx context.Context, c *client.Client, rnd *rand.Rand, keys int) (entries int, err error)
}

func queries(history string) []query {
	list := func(ctx context.Context, c *client.Client, req *rpc.ListEntriesRequest) (int, error) {
		res, err := c.ListEntries(ctx, req)
		return len(res.GetEntries()), err
	}
	return []query{
		{history, func(ctx context.Context, c *client.Client, _ *rand.Rand, _ int) (int, error) {
			res, err := c.GetKeyHistory(ctx, &rpc.GetKeyHistoryRequest{Tenant: payload.TenantOf(0), KeyRef: payload.KeyRef(0)})
			return len(res.GetEvents()), err
		}},
		{"list a random key's entries, newest first", func(ctx context.Context, c *client.Client, rnd *rand.Rand, keys int) (int, error) {
			return list(ctx, c, &rpc.ListEntriesRequest{KeyRef: payload.KeyRef(rnd.Uint64N(uint64(keys))), Descending: true})
		}},
		{"list by tenant, operation and outcome", func(ctx context.Context, c *client.Client, rnd *rand.Rand, _ int) (int, error) {
			return list(ctx, c, &rpc.ListEntriesRequest{
				Tenant:     payload.TenantOf(rnd.Uint64N(16)),
				Operations: []keytrailv1.Operation{keytrailv1.Operation_OPERATION_USE_DECRYPT},
				Outcomes:   []keytrailv1.Outcome{keytrailv1.Outcome_OUTCOME_SUCCESS},
			})
		}},
	}
}

// queryTimes is how often a question is asked, after once that does not count.
const queryTimes = 100

func (b *bench) query(l *built, do func(context.Context, *client.Client, *rand.Rand, int) (int, error)) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (outcome, error) {
		return b.serving(ctx, l, func(p *process) (o outcome, err error) {
			c, err := client.Dial(p.words["grpc"], client.TLS{})
			if err != nil {
				return o, err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			if err := viewed(ctx, c); err != nil {
				return o, err
			}
			rnd := rand.New(rand.NewPCG(5, 6))
			var times []float64
			entries := 0
			for i := range queryTimes + 1 {
				begin := time.Now()
				n, err := do(ctx, c, rnd, b.Keys)
				if err != nil {
					return o, err
				}
				if i > 0 {
					times = append(times, float64(time.Since(begin).Microseconds())/1000)
					entries += n
				}
			}
			slices.Sort(times)
			return outcome{Value: times[len(times)/2], P99: times[len(times)-2], Note: fmt.Sprintf("%.0f entries a page", float64(entries)/queryTimes)}, nil
		})
	}
}

// viewed waits until the views have read all that is published.
func viewed(ctx context.Context, c *client.Client) error {
	for {
		info, err := c.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
		if err != nil {
			return err
		}
		if info.GetViewedSize() >= info.GetPublishedSize() {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
