package fsck

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// chain is the last record of a key.
type chain struct{ sequence, index uint64 }

// keyPrefix is the beginning of an event.KeyID; a collision of two keys costs a false alarm.
type keyPrefix [16]byte

// chains holds the chain of each key: a table with one place a key, which is found at the
// place that its beginning says or right behind it. The table is at most three quarters
// full, 32 bytes a place. A key is a part of a SHA-256, and times a random number, so that
// nobody can choose keys that all want one place.
type chains struct {
	places []place // a power of two of them
	n      uint64
	times  uint64 // odd
}

// place is empty when its chain's sequence is 0.
type place struct {
	key keyPrefix
	chain
}

const firstPlaces = 1024

// of returns where the chain of a key stands, an empty place when it is not known. It is
// valid until the next call.
func (c *chains) of(key *keyPrefix) *place {
	if 4*(c.n+1) > 3*uint64(len(c.places)) {
		c.grow()
	}
	mask := uint64(len(c.places) - 1)
	for i := c.begin(key); ; i = (i + 1) & mask {
		if p := &c.places[i]; p.sequence == 0 || p.key == *key {
			return p
		}
	}
}

// begin is where the search for a key begins.
func (c *chains) begin(key *keyPrefix) uint64 {
	return binary.LittleEndian.Uint64(key[:]) * c.times >> (64 - bits.TrailingZeros(uint(len(c.places))))
}

// set fills a place that of returned.
func (c *chains) set(p *place, key *keyPrefix, last chain) {
	if p.sequence == 0 {
		c.n++
	}
	*p = place{*key, last}
}

func (c *chains) grow() {
	if c.times == 0 {
		c.times = rand.Uint64() | 1
	}
	old := c.places
	c.places = make([]place, max(firstPlaces, 2*len(old)))
	mask := uint64(len(c.places) - 1)
	for i := range old {
		if old[i].sequence == 0 {
			continue
		}
		at := c.begin(&old[i].key)
		for c.places[at].sequence != 0 {
			at = (at + 1) & mask
		}
		c.places[at] = old[i]
	}
}
