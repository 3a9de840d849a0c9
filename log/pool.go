package log

import (
	"context"
	"sync"
)

// Limits of one batch. A larger one would only make its first events wait for its last.
const (
	maxBatchEvents = 4096
	maxBatchBytes  = 4 << 20
)

// maxPendingBytes bounds the events that wait, encoded, whatever their number.
const maxPendingBytes = 64 << 20

// A Call is one group of events on its way into the log.
type Call struct {
	producer string
	items    []item
	results  []Result
	bytes    int
	done     chan struct{}
	err      error
}

// item is one event of a call that is not known to be a duplicate.
type item struct {
	event  *Event
	result int // index into Call.results
	// seen is how many records the index had taken when it was asked for the event.
	seen uint64
}

// Wait returns the results, one for each event in order, once all events of the call are
// durable or refused. When ctx ends first the events may be recorded all the same.
func (c *Call) Wait(ctx context.Context) ([]Result, error) {
	select {
	case <-c.done:
		return c.results, c.err
	default:
	}
	select {
	case <-c.done:
		return c.results, c.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pool holds the calls that wait for the next batch. Whoever comes while a batch is being
// synced is in the next one; there is no timer.
type pool struct {
	mu     sync.Mutex
	calls  []*Call
	events int
	bytes  int
	max    int // events
	closed bool
	wake   chan struct{} // holds one token when calls or closed changed
}

func newPool(max int) *pool { return &pool{max: max, wake: make(chan struct{}, 1)} }

// put adds a call, or refuses it with ErrOverloaded or ErrStopping.
func (p *pool) put(c *Call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrStopping
	}
	if p.events+len(c.items) > p.max || p.bytes+c.bytes > maxPendingBytes {
		return ErrOverloaded
	}
	p.calls = append(p.calls, c)
	p.events += len(c.items)
	p.bytes += c.bytes
	p.signal()
	return nil
}

// take waits for calls and moves the oldest of them, up to the limits of a batch, to the
// end of buf. It returns buf as it was when the pool is closed and empty.
func (p *pool) take(buf []*Call) []*Call {
	for {
		p.mu.Lock()
		if len(p.calls) > 0 {
			break
		}
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return buf
		}
		<-p.wake
	}
	defer p.mu.Unlock()
	n, events, bytes := 0, 0, 0
	for n < len(p.calls) {
		c := p.calls[n]
		if n > 0 && (events+len(c.items) > maxBatchEvents || bytes+c.bytes > maxBatchBytes) {
			break
		}
		events += len(c.items)
		bytes += c.bytes
		n++
	}
	buf = append(buf, p.calls[:n]...)
	rest := copy(p.calls, p.calls[n:])
	clear(p.calls[rest:])
	p.calls = p.calls[:rest]
	p.events -= events
	p.bytes -= bytes
	return buf
}

// depth returns how many events wait.
func (p *pool) depth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

// close refuses further calls; those inside can still be taken.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.signal()
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func (p *pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
