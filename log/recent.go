package log

import "github.com/keytrail/keytrail/log/index"

// generation is how many events a generation of recent holds before the next begins.
const generation = 1 << 14

// recent remembers the event ids of the last records, which the index may not have taken
// yet or had not when a caller asked it. It holds two generations; together they cover
// every record from floor on.
//
// So an item whose caller asked the index after it had taken floor records needs no other
// question than recent, and memory stays flat.
type recent struct {
	ids, oldIDs     hashTable[uint64]
	start, oldStart uint64
}

func newRecent(size uint64) recent {
	return recent{
		ids: newHashTable[uint64](), oldIDs: newHashTable[uint64](),
		start: size, oldStart: size,
	}
}

// floor is the first record that recent knows of.
func (r *recent) floor() uint64 { return r.oldStart }

// find returns the index of the record with an event id.
func (r *recent) find(id *[32]byte) (uint64, bool) {
	at := r.ids.find(id)
	if at == nil {
		at = r.oldIDs.find(id)
	}
	if at == nil {
		return 0, false
	}
	return *at, true
}

func (r *recent) add(id *[32]byte, at uint64) { r.ids.add(id, at) }

// rotate forgets the older generation when the younger is full and the index has taken
// everything that would be forgotten.
func (r *recent) rotate(applied, size uint64) {
	if r.ids.len() < generation || applied < r.start {
		return
	}
	r.oldIDs.clear()
	r.ids, r.oldIDs = r.oldIDs, r.ids
	r.oldStart, r.start = r.start, size
}

// cachedKeys is how many keys a generation of keyHeads holds before the next begins. It is
// more than the events that the index can lag behind: applyQueue batches, the one that is
// being indexed, the one that is being committed, and the one that is being made.
const cachedKeys = 1 << 15

// keyHeads remembers the last record of each key that one of the last cachedKeys events
// used, and of some more. A key that it does not know is up to date in the index.
type keyHeads struct{ young, old hashTable[index.KeyHead] }

func newKeyHeads() keyHeads {
	return keyHeads{newHashTable[index.KeyHead](), newHashTable[index.KeyHead]()}
}

func (k *keyHeads) get(key *[32]byte) (h index.KeyHead, ok bool) {
	at := k.young.find(key)
	if at == nil {
		at = k.old.find(key)
	}
	if at == nil {
		return h, false
	}
	return *at, true
}

func (k *keyHeads) put(key *[32]byte, h index.KeyHead) {
	if at := k.young.find(key); at != nil {
		*at = h
		return
	}
	k.young.add(key, h)
	if k.young.len() >= cachedKeys {
		k.old.clear()
		k.young, k.old = k.old, k.young
	}
}
