package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// curve is how figures change with one number, as rows of which each is one value of it.
type curve struct {
	group
	file   string // of its picture, without extension
	axis   string // what the number is
	linear bool   // on the axis: equal steps, not equal factors
	values []float64
}

// add adds the systems measured at one value.
func (c *curve) add(value int, cells ...*cell) {
	c.values = append(c.values, float64(value))
	c.rows = append(c.rows, &row{name: fmt.Sprintf("%d %s", value, c.axis), unit: "events/s", cells: cells})
}

// curves are those that make bench-plot draws.
func (b *bench) curves() []*curve {
	return []*curve{b.byClients(), b.byBatch(), b.byKeys()}
}

func (b *bench) byClients() *curve {
	c := &curve{file: "clients", axis: "clients", group: group{title: "One event a call, by clients"}}
	for _, n := range []int{1, 4, 16, 64, 256, 1024} {
		cells := []*cell{
			{system: "keytrail", run: b.served("keytrail", b.random, b.unary(n))},
			{system: "Tessera behind gRPC", run: b.served("tessera", b.random, b.unary(n), "--batch", strconv.Itoa(min(n, 512)), "--age", "20ms")},
			{system: "gRPC alone", run: b.served("echo", b.random, b.unary(n))},
		}
		if n <= 256 {
			cells = append(cells, &cell{system: "PostgreSQL", run: b.postgresCell(n, 1)})
		}
		c.add(n, cells...)
	}
	return c
}

// inFlight is how many events are under way on each stream of the curve by batch size.
const inFlight = 1024

func (b *bench) byBatch() *curve {
	c := &curve{file: "batch", axis: "events a message", group: group{title: "Four streams, by events a message",
		note: "At most 64 messages and, beyond two messages, 1,024 events under way on each stream; PostgreSQL has so many rows an INSERT, one under way on each of four connections."}}
	for _, n := range []int{1, 4, 16, 64, 256, 1000} {
		window := max(2, min(64, inFlight/n))
		shape := b.streamed(4, window, n)
		c.add(n,
			&cell{system: "keytrail", run: b.served("keytrail", b.random, shape)},
			&cell{system: "Tessera behind gRPC", run: b.served("tessera", b.random, shape, "--batch", strconv.Itoa(max(256, 2*window*n)), "--age", "250ms")},
			&cell{system: "gRPC alone", run: b.served("echo", b.random, shape)},
			&cell{system: "PostgreSQL", run: b.postgresCell(4, n)})
	}
	return c
}

func (b *bench) byKeys() *curve {
	c := &curve{file: "keys", axis: "keys", group: group{title: "64 events a message, by keys that they are about"}}
	for _, n := range []int{1, 100, 10_000, 1_000_000} {
		shape := b.streamed(4, 16, 64)
		shape.Keys = n
		c.add(n, &cell{system: "keytrail", run: b.served("keytrail", b.random, shape)})
	}
	return c
}

// byEntries makes a curve of the samples that a growing log left.
func byEntries(l *built) *curve {
	c := &curve{file: "entries", axis: "entries", linear: true, group: group{title: "64 events a message, while the log grows"}}
	for _, s := range l.samples {
		c.add(s.Entries, once("keytrail", ask{}, outcome{Value: s.Rate, PeakMB: s.MemoryMB}, nil))
	}
	return c
}

// plots measures the curves, prints them as tables and draws them.
func plots(ctx context.Context, c config, stdout, stderr io.Writer) (err error) {
	b, err := newBench(c, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var text strings.Builder
	b.head(ctx, &text, "bench plot")
	all := b.curves()
	groups := make([]*group, len(all))
	for i, c := range all {
		groups[i] = &c.group
	}
	if err := b.measure(ctx, groups); err != nil {
		return err
	}
	b.say("filling a log of %d entries", b.Entries)
	l, err := b.fill(ctx, b.random, b.Entries)
	if err != nil {
		return err
	}
	all = append(all, byEntries(l))
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return fmt.Errorf("making a directory for the pictures: %w", err)
	}
	for _, c := range all {
		c.write(&text, 0)
		if err := c.draw(b.Out); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(stdout, text.String()); err != nil {
		return err
	}
	return b.save("curves.md", text.String())
}
