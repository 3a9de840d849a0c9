package log

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// hashTable is a map from SHA-256 hashes that is emptied as a whole. Most questions are for
// hashes that it does not have, and one word of memory answers them: a Go map looks into the
// keys' own memory, which no processor's cache holds then.
type hashTable[V any] struct {
	// slots hold 0, or a tag in the upper half and 1 + the number of a row in the lower; a
	// hash's slot is the first free one from its own on. Their number is a power of two, and
	// at most half of them are taken.
	slots []uint64
	rows  []hashRow[V]
	// shift leaves of a 64-bit number the bits that number a slot.
	shift uint
	// seed keeps those who choose what is hashed from choosing the slots.
	seed uint64
}

type hashRow[V any] struct {
	hash  [32]byte
	value V
}

func newHashTable[V any]() hashTable[V] {
	t := hashTable[V]{seed: rand.Uint64() | 1}
	t.resize(64)
	return t
}

// resize makes at least so many slots.
func (t *hashTable[V]) resize(slots int) {
	n := bits.Len(uint(slots - 1))
	t.slots, t.shift = make([]uint64, 1<<n), uint(64-n)
	for i := range t.rows {
		t.enter(&t.rows[i].hash, i)
	}
}

// key is the number whose upper bits are the number of a hash's slot and whose lower ones its tag.
func (t *hashTable[V]) key(hash *[32]byte) uint64 {
	return bits.RotateLeft64(binary.LittleEndian.Uint64(hash[:])*t.seed, 32) ^ binary.LittleEndian.Uint64(hash[8:])*t.seed
}

// find returns the value of a hash, nil if the table does not have it. It is there until the
// next add.
func (t *hashTable[V]) find(hash *[32]byte) *V {
	key := t.key(hash)
	for at := key >> t.shift; t.slots[at] != 0; at = (at + 1) & uint64(len(t.slots)-1) {
		if slot := t.slots[at]; uint32(slot>>32) == uint32(key) {
			if row := &t.rows[uint32(slot)-1]; row.hash == *hash {
				return &row.value
			}
		}
	}
	return nil
}

// add adds a hash that the table does not have.
func (t *hashTable[V]) add(hash *[32]byte, value V) {
	t.rows = append(t.rows, hashRow[V]{*hash, value})
	if 2*len(t.rows) > len(t.slots) {
		t.resize(2 * len(t.slots))
		return
	}
	t.enter(hash, len(t.rows)-1)
}

// enter makes a slot say where a hash is.
func (t *hashTable[V]) enter(hash *[32]byte, row int) {
	key := t.key(hash)
	at := key >> t.shift
	for t.slots[at] != 0 {
		at = (at + 1) & uint64(len(t.slots)-1)
	}
	t.slots[at] = key<<32 | uint64(row+1)
}

func (t *hashTable[V]) len() int { return len(t.rows) }

// clear empties the table; its memory stays.
func (t *hashTable[V]) clear() {
	clear(t.slots)
	t.rows = t.rows[:0]
}
