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

// part is a run of entries that is checked by itself. It is used again and again.
type part struct {
	start    uint64
	n        int // entries
	treeOnly bool
	items    [chunk]item
	hashes   [chunk]prove.Hash // of the leaves
	hasLeaf  [chunk]bool
	tiles    [chunk / tileWidth]wholeTile
	// unread are the problems of reading, problems those of what was read.
	unread, problems []Problem
	// leaves holds the leaves one behind the other, ends where each ends.
	leaves []byte
	ends   [chunk]int
	record record.Record
	fields event.Fields
	done   chan struct{}
}

// item is what is left of an entry when it has been checked.
type item struct {
	key      keyPrefix
	sequence uint64
	previous uint64
	logged   time.Time
	erased   bool
	readable bool
}

// wholeTile is a full tile of level 0 whose leaves are all there.
type wholeTile struct {
	whole bool
	root  prove.Hash
	// wrong says how the stored tile differs; nil when it does not.
	wrong *Problem
}

func newPart(treeOnly bool) *part {
	return &part{treeOnly: treeOnly, done: make(chan struct{}, 1)}
}

func (p *part) reset(start, end uint64) {
	p.start, p.n = start, int(end-start)
	p.unread, p.problems = nil, nil
}

func (p *part) problem(into *[]Problem, index uint64, format string, args ...any) {
	*into = append(*into, Problem{fmt.Sprintf("entry %d", index), fmt.Sprintf(format, args...)})
}

// check reads the part and derives what can be derived of each entry and tile alone.
func (p *part) check(ctx context.Context, s storage.Store) {
	p.read(ctx, "leaf", s.Leaves, p.clearLeaves, p.takeLeaf)
	if !p.treeOnly {
		p.read(ctx, "payload", s.Payloads, p.clearItems, p.takePayload)
	}
	for i := range p.tiles {
		p.checkTile(ctx, s, i)
	}
}

type readFunc func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error

// read gives take what is stored. What cannot be read in one go is read entry by entry,
// from the beginning, so that the report names the entries.
func (p *part) read(ctx context.Context, what string, read readFunc, clear func(), take func(uint64, []byte) error) {
	clear()
	if err := read(ctx, p.start, p.start+uint64(p.n), take); err == nil || ctx.Err() != nil {
		return
	}
	clear()
	for i := p.start; i < p.start+uint64(p.n) && ctx.Err() == nil; i++ {
		if err := read(ctx, i, i+1, take); err != nil {
			p.problem(&p.unread, i, "%s cannot be read: %s", what, reason(err))
			p.items[i-p.start].erased = false
		}
	}
}

func (p *part) clearLeaves() {
	p.leaves = p.leaves[:0]
	for i := range p.n {
		p.hasLeaf[i], p.ends[i] = false, 0
	}
}

func (p *part) takeLeaf(index uint64, leaf []byte) error {
	i := index - p.start
	p.hasLeaf[i] = len(leaf) > 0
	p.hashes[i] = prove.HashLeaf(leaf)
	p.leaves = append(p.leaves, leaf...)
	p.ends[i] = len(p.leaves)
	return nil
}

// leaf returns a leaf that was taken.
func (p *part) leaf(i uint64) []byte {
	start := 0
	for at := i; at > 0 && start == 0; at-- { // those that could not be read have no end
		start = p.ends[at-1]
	}
	return p.leaves[start:p.ends[i]]
}

func (p *part) clearItems() {
	p.problems = nil
	for i := range p.n {
		p.items[i] = item{erased: true}
	}
}

func (p *part) takePayload(index uint64, payload []byte) error {
	if payload == nil {
		return nil
	}
	it := &p.items[index-p.start]
	it.erased = false
	if i := index - p.start; p.hasLeaf[i] {
		if want := record.Leaf(payload); !bytes.Equal(want[:], p.leaf(i)) {
			p.problem(&p.problems, index, "record does not open its leaf: leaf is %x, record gives %x", p.leaf(i), want)
		}
	}
	_, b, err := record.Open(payload)
	if err != nil {
		p.problem(&p.problems, index, "%v", err)
		return nil
	}
	r := &p.record
	if err := r.Parse(b); err != nil {
		p.problem(&p.problems, index, "%v", err)
		return nil
	}
	if r.Index != index {
		p.problem(&p.problems, index, "record says that it is entry %d", r.Index)
	}
	p.takeRecord(index, it, r)
	return nil
}

// takeRecord reads the event of a record.
func (p *part) takeRecord(index uint64, it *item, r *record.Record) {
	if !event.Scan(r.KeyEvent, &p.fields) {
		ev, err := event.Parse(r.KeyEvent)
		if err != nil {
			p.problem(&p.problems, index, "%v", err)
			return
		}
		p.fields = event.Fields{Tenant: []byte(ev.GetTenant()), KeyRef: []byte(ev.GetKey().GetRef())}
	}
	id, hasKey := p.fields.KeyID()
	if hasKey != (r.KeySequence > 0) {
		p.problem(&p.problems, index, "record has key sequence %d for an event with key %q", r.KeySequence, p.fields.KeyRef)
	}
	it.readable = true
	it.sequence, it.previous = r.KeySequence, r.PreviousIndex
	it.logged = r.LoggedAt
	copy(it.key[:], id[:])
}

// checkTile derives a full tile of level 0 from its leaves and compares it with the stored
// one, if there is one.
func (p *part) checkTile(ctx context.Context, s storage.Store, n int) {
	t, first := &p.tiles[n], n*tileWidth
	*t = wholeTile{whole: first+tileWidth <= p.n}
	for i := 0; t.whole && i < tileWidth; i++ {
		t.whole = p.hasLeaf[first+i]
	}
	if !t.whole {
		return
	}
	leaves := p.hashes[first : first+tileWidth]
	t.root = rootOf(leaves)
	if _, made := s.(storage.LeafTiler); made {
		return // the leaves that were read are all that stands there
	}
	t.wrong = compareTile(ctx, s, 0, (p.start+uint64(first))/tileWidth, leaves)
}

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
	p := c.keys.of(&it.key)
	last, known := p.chain, p.sequence > 0
	unknowable := c.gaps && (!known || last.sequence+1 < it.sequence)
	if (last.sequence+1 != it.sequence || last.index != it.previous) && !unknowable {
		c.problem(fmt.Sprintf("entry %d", index),
			"is number %d of its key after entry %d; the entries before it make it number %d after entry %d",
			it.sequence, it.previous, last.sequence+1, last.index)
	}
	c.keys.set(p, &it.key, chain{it.sequence, index})
}
