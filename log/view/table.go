package view

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// table finds lists by their terms, and numbers them as they come. It does what a map does in
// half the time and room, and keeps its room when it is cleared. The zero value is empty.
type table struct {
	lists []list
	// slots have the number of a list and one more, 0 where there is none: at the hash of its
	// term, or in the first slot after it that was free. A quarter of them are, or more.
	slots []uint32
	// seeds keep whoever chooses keys from choosing slots, so that many lists share one.
	seeds [2]uint64
}

// list is a posting.
type list struct {
	term term
	// last is the number of its last node.
	last uint32
}

const minSlots = 1 << 10

func (t *table) clear() {
	t.lists = t.lists[:0]
	clear(t.slots)
}

// find returns the number of a term's list.
func (t *table) find(key *term) (number uint32, ok bool) {
	if len(t.lists) == 0 {
		return 0, false
	}
	n := t.slots[t.slot(key)]
	return n - 1, n != 0
}

// add returns the number of a term's list, which is a new one if it had none.
func (t *table) add(key *term) (number uint32, added bool) {
	if 4*len(t.lists) >= 3*len(t.slots) {
		t.grow()
	}
	slot := t.slot(key)
	if n := t.slots[slot]; n != 0 {
		return n - 1, false
	}
	t.lists = append(t.lists, list{term: *key})
	t.slots[slot] = uint32(len(t.lists))
	return uint32(len(t.lists) - 1), true
}

// slot is where the number of a term's list is, or belongs.
func (t *table) slot(key *term) uint64 {
	mask := uint64(len(t.slots) - 1)
	at := t.hash(key) & mask
	for t.slots[at] != 0 && t.lists[t.slots[at]-1].term != *key {
		at = (at + 1) & mask
	}
	return at
}

// hash multiplies the two ends of a term, which overlap, and folds the product.
func (t *table) hash(key *term) uint64 {
	a, b := binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[termSize-8:])
	hi, lo := bits.Mul64(a^t.seeds[0], b^t.seeds[1])
	return hi ^ lo
}

// grow doubles the slots.
func (t *table) grow() {
	if t.slots == nil {
		t.seeds = [2]uint64{rand.Uint64(), rand.Uint64()}
	}
	t.slots = make([]uint32, max(minSlots, 2*len(t.slots)))
	for i := range t.lists {
		t.slots[t.slot(&t.lists[i].term)] = uint32(i + 1)
	}
}
