package main

import (
	"context"
	"fmt"
	"io"
)

// referenceCalls is how many calls a second gRPC alone answered 64 clients on the machine for
// which the project's asks in figures were made.
const referenceCalls = 46_000

// machine says how fast the machine is, from how many calls a second gRPC alone answers 64
// clients: asked before and after what is judged by it, since virtual machines have fast and slow
// phases that last for minutes.
type machine struct{ calls []float64 }

func (m *machine) measure(ctx context.Context, b *bench) {
	b.say("speed of the machine: gRPC alone, one event a call, 64 clients")
	c := cell{run: b.served("echo", b.random, b.unary(64))}
	c.measure(ctx, 0)
	if c.err != nil {
		b.say("speed of the machine: %v", c.err)
	}
	for _, o := range c.outcomes {
		m.calls = append(m.calls, o.Value)
	}
}

// speed is 1 for the machine of the asks, 0 when it is not known.
func (m *machine) speed() float64 {
	if len(m.calls) == 0 {
		return 0
	}
	return spreadOf(m.calls).median / referenceCalls
}

func (m *machine) write(w io.Writer) {
	if len(m.calls) == 0 {
		return
	}
	fmt.Fprintf(w, "Speed of the machine: gRPC alone answers 64 clients with %s calls/s, before and after. That is %.2f of the %s of the machine for "+
		"which the asks in figures were made; \"here\" is an ask at that speed.\n\n", spreadOf(m.calls), m.speed(), number(referenceCalls))
}
