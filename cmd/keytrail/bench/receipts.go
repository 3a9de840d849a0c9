package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
)

// receipts are the rows about how long it takes until an event is proven to be in the log.
func (b *bench) receipts() *group {
	g := &group{
		title: "Append to published receipt",
		note: "From when an event was due to its receipt in the client's hands, p50. Witnesses are processes on the same machine, each signing " +
			"with Ed25519 and ML-DSA-44; a majority is the quorum. Tessera has no witnesses here, its shortest interval (100 ms), and as many callers as " +
			"that gives the rate; its caller holds a checkpoint and no proof.",
	}
	for _, rate := range []int{1, 100, 1000} {
		r := &row{name: fmt.Sprintf("%d events/s offered", rate), unit: "ms", lowWins: true}
		for _, witnesses := range []int{0, 3} {
			c := &cell{system: "keytrail, no witness", run: b.receiptCell(rate, witnesses)}
			if witnesses > 0 {
				c.system = fmt.Sprintf("keytrail, %d of %d witnesses", witnesses/2+1, witnesses)
			}
			if rate == 1000 {
				c.ask, c.onP99 = ask{most: 5, scales: true}, 20
			}
			r.cells = append(r.cells, c)
		}
		waiters := max(1, rate/8)
		r.cells = append(r.cells, &cell{
			system: fmt.Sprintf("Tessera in process, %d waiters", waiters),
			run:    b.inProcess("tessera", waiters, "--batch", "256", "--age", "5ms", "--published"),
		})
		g.rows = append(g.rows, r)
	}
	for _, r := range g.rows { // what is compared is the latency
		c := r.cells[len(r.cells)-1]
		run := c.run
		c.run = func(ctx context.Context) (outcome, error) {
			o, err := run(ctx)
			o.Note = number(o.Value) + " events/s"
			o.Value, o.P50, o.ServerCPU = o.P50, 0, 0
			return o, err
		}
	}
	return g
}

// receiptCell offers events at a rate with keytrail bench, which times each from when it was due.
func (b *bench) receiptCell(rate, witnesses int) func(context.Context) (outcome, error) {
	return func(ctx context.Context) (o outcome, err error) {
		wait := "published"
		if witnesses > 0 {
			wait = "witnessed"
		}
		events := max(8, int(float64(rate)*b.Seconds*2))
		out, err := output(ctx, b.program("keytrail"), "bench", "--json", "--events", strconv.Itoa(events), "--streams", "1",
			"--rate", strconv.Itoa(rate), "--wait", wait, "--witnesses", strconv.Itoa(witnesses))
		if err != nil {
			return o, err
		}
		var r struct {
			P50 float64 `json:"ack_p50_ms"`
			P99 float64 `json:"ack_p99_ms"`
			CPU float64 `json:"server_cpu_seconds"`
		}
		if err := json.Unmarshal(out.stdout, &r); err != nil {
			return o, fmt.Errorf("reading what keytrail bench printed: %w", err)
		}
		return outcome{Value: r.P50, P99: r.P99, Note: fmt.Sprintf("server %.2f ms CPU an event", r.CPU*1000/float64(events))}, nil
	}
}
