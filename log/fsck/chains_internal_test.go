package fsck

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestChains holds the table against a map, with keys that want the same place and others, while
// it grows.
func TestChains(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []uint64{1, 7, 1000, 1 << 62} {
		var c chains
		want := map[keyPrefix]chain{}
		for i := range uint64(20_000) {
			var key keyPrefix
			binary.LittleEndian.PutUint64(key[:], rnd.Uint64N(spread))
			binary.LittleEndian.PutUint64(key[8:], rnd.Uint64N(min(3000, 30*spread)))
			p := c.of(&key)
			last, known := want[key]
			if p.chain != last || known != (p.sequence > 0) {
				t.Fatalf("the chain of %x is %v, want %v", key, p.chain, last)
			}
			next := chain{last.sequence + 1, i}
			c.set(p, &key, next)
			want[key] = next
		}
		if c.n != uint64(len(want)) {
			t.Errorf("%d keys, want %d", c.n, len(want))
		}
	}
}
