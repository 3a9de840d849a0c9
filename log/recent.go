package log

import "github.com/keytrail/keytrail/log/index"

// generation is how many events a generation of recent holds before the next begins.
const generation = 1 << 14

// recent remembers the events and keys of the last records, which the index may not have
// taken yet or had not when a caller asked it. It holds two generations; together they
// cover every record from floor on.
//
// So an item whose caller asked the index after it had taken floor records needs no other
// question than recent, and memory stays flat.
type recent struct {
	events, oldEvents map[[32]byte]uint64
	keys, oldKeys     map[[32]byte]index.KeyHead
	start, oldStart   uint64
}

func newRecent(size uint64) recent {
	return recent{
		events: make(map[[32]byte]uint64), oldEvents: make(map[[32]byte]uint64),
		keys: make(map[[32]byte]index.KeyHead), oldKeys: make(map[[32]byte]index.KeyHead),
		start: size, oldStart: size,
	}
}

// floor is the first record that recent knows of.
func (r *recent) floor() uint64 { return r.oldStart }

func (r *recent) event(id [32]byte) (uint64, bool) {
	at, ok := r.events[id]
	if !ok {
		at, ok = r.oldEvents[id]
	}
	return at, ok
}

func (r *recent) key(id [32]byte) (index.KeyHead, bool) {
	h, ok := r.keys[id]
	if !ok {
		h, ok = r.oldKeys[id]
	}
	return h, ok
}

func (r *recent) setEvent(id [32]byte, at uint64) { r.events[id] = at }

func (r *recent) setKey(id [32]byte, h index.KeyHead) { r.keys[id] = h }

// rotate forgets the older generation when the younger is full and the index has taken
// everything that would be forgotten.
func (r *recent) rotate(applied, size uint64) {
	if len(r.events) < generation || applied < r.start {
		return
	}
	clear(r.oldEvents)
	clear(r.oldKeys)
	r.events, r.oldEvents = r.oldEvents, r.events
	r.keys, r.oldKeys = r.oldKeys, r.keys
	r.oldStart, r.start = r.start, size
}
