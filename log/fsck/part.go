package fsck

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
)

// part is a run of entries that is checked by itself.
type part struct {
	start, end uint64
	leaves     [][]byte
	payloads   [][]byte
	items      []item
	problems   []Problem
	done       chan *part
}

// item is what is left of an entry when it has been checked.
type item struct {
	hash     prove.Hash // of the leaf
	key      [16]byte   // beginning of event.KeyID; a collision costs a false alarm
	sequence uint64
	previous uint64
	logged   time.Time
	hasLeaf  bool
	erased   bool
	readable bool
}

// read copies leaves and payloads. What cannot be read in one go is read entry by entry,
// so that the report names the entries.
func (p *part) read(ctx context.Context, s storage.Store) {
	n := int(p.end - p.start)
	p.leaves, p.payloads = make([][]byte, n), make([][]byte, n)
	p.readAll(ctx, "leaf", p.leaves, s.Leaves)
	p.readAll(ctx, "payload", p.payloads, s.Payloads)
}

type readFunc func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error

func (p *part) readAll(ctx context.Context, what string, into [][]byte, read readFunc) {
	var buf []byte
	keep := func(i uint64, b []byte) error {
		if b == nil {
			return nil
		}
		buf = append(buf, b...)
		// The slice stays good when buf moves: it keeps the old array.
		into[i-p.start] = buf[len(buf)-len(b) : len(buf) : len(buf)]
		return nil
	}
	if err := read(ctx, p.start, p.end, keep); err == nil || ctx.Err() != nil {
		return
	}
	for i := p.start; i < p.end && ctx.Err() == nil; i++ {
		if err := read(ctx, i, i+1, keep); err != nil {
			p.problem(i, "%s cannot be read: %s", what, reason(err))
			into[i-p.start] = []byte{}
		}
	}
}

func (p *part) problem(index uint64, format string, args ...any) {
	p.problems = append(p.problems, Problem{fmt.Sprintf("entry %d", index), fmt.Sprintf(format, args...)})
}

// check derives what can be derived of each entry alone.
func (p *part) check() {
	p.items = make([]item, len(p.leaves))
	for i := range p.items {
		p.checkEntry(p.start+uint64(i), &p.items[i], p.leaves[i], p.payloads[i])
	}
	p.leaves, p.payloads = nil, nil
}

func (p *part) checkEntry(index uint64, it *item, leaf, payload []byte) {
	if len(leaf) > 0 {
		it.hasLeaf = true
		it.hash = prove.HashLeaf(leaf)
	}
	if payload == nil {
		it.erased = true
		return
	}
	if len(payload) == 0 { // could not be read, and has been reported
		return
	}
	if want := record.Leaf(payload); it.hasLeaf && !bytes.Equal(want[:], leaf) {
		p.problem(index, "record does not open its leaf: leaf is %x, record gives %x", leaf, want)
	}
	_, b, err := record.Open(payload)
	if err != nil {
		p.problem(index, "%v", err)
		return
	}
	r, err := record.Parse(b)
	if err != nil {
		p.problem(index, "%v", err)
		return
	}
	if r.Index != index {
		p.problem(index, "record says that it is entry %d", r.Index)
	}
	ev, err := event.Parse(r.KeyEvent)
	if err != nil {
		p.problem(index, "%v", err)
		return
	}
	ref := ev.GetKey().GetRef()
	if (ref != "") != (r.KeySequence > 0) {
		p.problem(index, "record has key sequence %d for an event with key %q", r.KeySequence, ref)
	}
	it.readable = true
	it.sequence, it.previous = r.KeySequence, r.PreviousIndex
	it.logged = r.LoggedAt
	if ref != "" {
		id := event.KeyID(ev.GetTenant(), ref)
		copy(it.key[:], id[:])
	}
}

// chain is the last record of a key.
type chain struct{ sequence, index uint64 }

// chain checks what an entry says of those before it. Links over entries that were erased
// or cannot be read cannot be checked and are taken as they are.
func (c *checker) chain(index uint64, it *item) {
	if it.logged.Before(c.lastTime) {
		c.problem(fmt.Sprintf("entry %d", index), "was logged at %v, the entry before it at %v", it.logged, c.lastTime)
	}
	c.lastTime, c.lastIndex = it.logged, index
	if it.sequence == 0 {
		return
	}
	last, known := c.keys[it.key]
	unknowable := c.gaps && (!known || last.sequence+1 < it.sequence)
	if (last.sequence+1 != it.sequence || last.index != it.previous) && !unknowable {
		c.problem(fmt.Sprintf("entry %d", index),
			"is number %d of its key after entry %d; the entries before it make it number %d after entry %d",
			it.sequence, it.previous, last.sequence+1, last.index)
	}
	c.keys[it.key] = chain{it.sequence, index}
}
