package log

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Limits of one batch. A larger one would only make its first events wait for its last.
const (
	maxBatchEvents = 4096
	maxBatchBytes  = 4 << 20
)

// maxPendingBytes bounds the events that wait, encoded, whatever their number.
const maxPendingBytes = 64 << 20

const (
	// turnCost is what a tenant may put into a batch before it is another tenant's turn, in
	// bytes of events; each event costs eventCost more.
	turnCost  = 32 << 10
	eventCost = 256
	// shareOfFree bounds what a tenant may have waiting: as many times the room that is
	// left. So one tenant alone gets three quarters of the pool, two get three sevenths
	// each, and whoever comes next finds room.
	shareOfFree = 3
)

// A Call is one group of events on its way into the log.
type Call struct {
	producer string
	items    []item
	results  []Result
	bytes    int
	// parts is how many of its parts are not answered. It is the sequencer's once the call
	// is in the pool.
	parts int
	done  chan struct{}
	err   error
	// room is what items and results lie in. Most calls bring one event.
	room struct {
		item    [1]item
		result  [1]Result
		items   []item
		results []Result
	}
}

// calls are those that were released, for their memory.
var calls = sync.Pool{New: func() any { return new(Call) }}

// newCall returns a call of n events.
func newCall(producer string, n int) *Call {
	c := calls.Get().(*Call)
	c.producer, c.done = producer, make(chan struct{})
	if n == 1 {
		c.items, c.results = c.room.item[:0], c.room.result[:]
		return c
	}
	c.room.items, c.room.results = slices.Grow(c.room.items[:0], n), slices.Grow(c.room.results[:0], n)[:n]
	c.items, c.results = c.room.items, c.room.results
	return c
}

// forget lets go of the events: whoever is slow to take the results holds none.
func (c *Call) forget() {
	clear(c.items)
	c.items = nil
}

// Release says that nobody looks at the call or its results again, so that another one can have
// their memory. It may be called once, after Wait has returned results; a call that is not
// released is garbage like any other.
func (c *Call) Release() {
	clear(c.results)
	room := c.room
	*c = Call{room: room}
	calls.Put(c)
}

// item is one event of a call that is not known to be a duplicate.
type item struct {
	event  *Event
	result int // index into Call.results
	// seen is how many records the index had taken when it was asked for the event.
	seen uint64
}

// part is the events of one tenant in a call.
type part struct {
	call  *Call
	items []item
	bytes int
}

func (p *part) cost() int { return p.bytes + len(p.items)*eventCost }

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

// pool holds what waits for the next batch. Whoever comes while a batch is being synced is
// in the next one; there is no timer.
//
// Each tenant has a lane, and lanes take turns, so that a flood of one tenant makes only
// that tenant wait. What one goroutine submits for one tenant stays in its order.
type pool struct {
	mu     sync.Mutex
	lanes  map[string]*lane // those with something in them
	turns  queue[*lane]     // the same, whose turn is next first
	spares []*lane          // empty ones, for their memory
	events int
	bytes  int
	max    int // events
	quotas quotas
	closed bool
	wake   chan struct{} // holds one token when lanes or closed changed
	// plenty holds a token when it is time to begin with the batch after the one that is being
	// written, which ahead says.
	plenty chan struct{}
	ahead  bool
}

// plentyEvents take longer to be made a batch of than another goroutine takes to wake up.
const plentyEvents = 64

// lane is what waits of one tenant.
type lane struct {
	tenant string
	parts  queue[part]
	events int
	bytes  int
	credit int // cost that is left of its turns
}

func newPool(max int, quota func(tenant string) Rate) *pool {
	return &pool{
		lanes: make(map[string]*lane), max: max, quotas: newQuotas(quota),
		wake: make(chan struct{}, 1), plenty: make(chan struct{}, 1),
	}
}

// put adds a call, or refuses it with ErrStopping or an error that is ErrOverloaded.
func (p *pool) put(c *Call) error {
	// Nearly every call is of one tenant.
	one := part{call: c, items: c.items, bytes: c.bytes}
	parts := split(one)
	if parts == nil {
		c.parts = 1
	} else {
		c.parts = len(parts)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrStopping
	}
	if p.events+len(c.items) > p.max || p.bytes+c.bytes > maxPendingBytes {
		return ErrOverloaded
	}
	if parts == nil {
		if err := p.admit(&one); err != nil {
			return err
		}
		p.enter(one)
		p.signal()
		return nil
	}
	for i := range parts {
		if err := p.admit(&parts[i]); err != nil {
			return err
		}
	}
	for i := range parts {
		p.enter(parts[i])
	}
	p.signal()
	return nil
}

// split returns the parts of a call by tenant, nil when it has one tenant only. The parts share
// one piece of memory.
func split(all part) []part {
	tenant := func(i int) []byte { return all.items[i].event.tenant }
	mixed := false
	for i := 1; i < len(all.items) && !mixed; i++ {
		mixed = !bytes.Equal(tenant(i), tenant(0))
	}
	if !mixed {
		return nil
	}
	var counts []int
	places := make(map[string]int)
	of := make([]int, len(all.items)) // the part of each event
	for i := range of {
		at, ok := places[string(tenant(i))]
		if !ok {
			at = len(counts)
			places[string(tenant(i))] = at
			counts = append(counts, 0)
		}
		of[i] = at
		counts[at]++
	}
	items := make([]item, len(of))
	parts := make([]part, len(counts))
	for i, n := range counts {
		parts[i] = part{call: all.call, items: items[:0:n]}
		items = items[n:]
	}
	for i, at := range of {
		parts[at].items = append(parts[at].items, all.items[i])
		parts[at].bytes += len(all.items[i].event.bytes)
	}
	return parts
}

// admit says whether there is room for a part beside what waits of its tenant, and whether
// the tenant's quota has room for it.
func (p *pool) admit(n *part) error {
	tenant := n.items[0].event.tenant
	events, size := len(n.items), n.bytes
	if l := p.lanes[string(tenant)]; l != nil {
		events, size = events+l.events, size+l.bytes
	}
	if events > shareOfFree*(p.max-p.events) || size > shareOfFree*(maxPendingBytes-p.bytes) {
		return &OverloadError{Tenant: string(tenant), Waiting: events - len(n.items)}
	}
	return p.quotas.check(tenant)
}

// enter adds a part to its tenant's lane.
func (p *pool) enter(n part) {
	tenant := n.items[0].event.tenant
	l := p.lanes[string(tenant)]
	if l == nil {
		l = p.newLane(tenant)
		p.lanes[l.tenant] = l
		p.turns.push(l)
	}
	l.parts.push(n)
	p.quotas.charge(l.tenant, len(n.items))
	l.events += len(n.items)
	l.bytes += n.bytes
	p.events += len(n.items)
	p.bytes += n.bytes
}

// Lanes come and go with each batch; as many are kept for their memory, and each with room for
// so many parts at most.
const (
	spareLanes     = 64
	spareLaneParts = 256
)

// newLane returns an empty lane for a tenant.
func (p *pool) newLane(tenant []byte) *lane {
	n := len(p.spares)
	if n == 0 {
		return &lane{tenant: string(tenant)}
	}
	l := p.spares[n-1]
	p.spares = p.spares[:n-1]
	if l.tenant != string(tenant) {
		l.tenant = string(tenant)
	}
	return l
}

// spareLane takes an empty lane back.
func (p *pool) spareLane(l *lane) {
	l.credit = 0
	if len(p.spares) < spareLanes && cap(l.parts.all) <= spareLaneParts {
		p.spares = append(p.spares, l)
	}
}

// wait waits for calls. It returns false when the pool is closed and empty.
func (p *pool) wait() bool {
	for {
		p.mu.Lock()
		some, closed := p.turns.len() > 0, p.closed
		p.mu.Unlock()
		if some || closed {
			return some
		}
		<-p.wake
	}
}

// take moves parts of what waits into a batch, up to its limits: the tenants take turns, and of
// each the oldest parts come first.
func (p *pool) take(b *filling) {
	p.mu.Lock()
	defer p.mu.Unlock()
	events, bytes := b.events, b.bytes
	for p.turns.len() > 0 && !b.full {
		l := *p.turns.first()
		for l.parts.len() > 0 {
			n := l.parts.first()
			if p.turns.len() > 1 && n.cost() > l.credit {
				break
			}
			if !b.add(n) {
				break
			}
			l.credit = max(0, l.credit-n.cost())
			l.events -= len(n.items)
			l.bytes -= n.bytes
			l.parts.pop()
		}
		switch {
		case l.parts.len() == 0:
			p.turns.pop()
			delete(p.lanes, l.tenant)
			p.spareLane(l)
		case !b.full:
			l.credit += turnCost
			p.turns.pop()
			p.turns.push(l)
		}
	}
	p.events -= b.events - events
	p.bytes -= b.bytes - bytes
}

// allowAhead says whether plenty is to be told of what waits.
func (p *pool) allowAhead(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead = yes
	p.tellPlenty()
}

// tellPlenty tells that enough waits to begin with another batch.
func (p *pool) tellPlenty() {
	if p.ahead && p.events >= plentyEvents {
		select {
		case p.plenty <- struct{}{}:
		default:
		}
	}
}

// aheadWanted says whether it is still time to begin with another batch, and worth it.
func (p *pool) aheadWanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ahead && p.events >= plentyEvents
}

// queue is a first-in first-out queue in one slice.
type queue[T any] struct {
	all  []T
	gone int // of all
}

func (q *queue[T]) len() int { return len(q.all) - q.gone }

func (q *queue[T]) push(v T) {
	if q.gone > len(q.all)/2 {
		n := copy(q.all, q.all[q.gone:])
		clear(q.all[n:])
		q.all, q.gone = q.all[:n], 0
	}
	q.all = append(q.all, v)
}

func (q *queue[T]) first() *T { return &q.all[q.gone] }

func (q *queue[T]) pop() {
	var none T
	q.all[q.gone] = none
	if q.gone++; q.gone == len(q.all) {
		q.all, q.gone = q.all[:0], 0
	}
}

// filling is a batch that is being taken from the pool, up to so many events and bytes: more
// only when its first part has more.
type filling struct {
	parts               []part
	events, bytes       int
	maxEvents, maxBytes int
	full                bool
}

// add takes a part, or says that there is no room for it.
func (b *filling) add(n *part) bool {
	if b.events > 0 && (b.events+len(n.items) > b.maxEvents || b.bytes+n.bytes > b.maxBytes) {
		b.full = true
		return false
	}
	b.parts = append(b.parts, *n)
	b.events += len(n.items)
	b.bytes += n.bytes
	return true
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
	p.tellPlenty()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
