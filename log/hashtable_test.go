package log

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// number is a hash; those of near numbers have their first bytes in common.
func numberHash(n uint64) (h [32]byte) {
	binary.BigEndian.PutUint64(h[24:], n)
	return h
}

func TestHashTable(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(n uint64) [32]byte{
		"SHA-256": func(n uint64) [32]byte { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)) },
		// The same slot and the same tag for all of them.
		"same beginning": numberHash,
	}
	for name, hash := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, want := newHashTable[uint64](), make(map[[32]byte]uint64)
			r := rand.New(rand.NewPCG(1, 2))
			for step := range uint64(20_000) {
				h := hash(r.Uint64N(500))
				got := table.find(&h)
				value, ok := want[h]
				switch {
				case (got != nil) != ok || ok && *got != value:
					t.Fatalf("step %d: the table has %v, want %d, %v", step, got, value, ok)
				case !ok:
					table.add(&h, step)
					want[h] = step
				case step%3 == 0:
					*got = step
					want[h] = step
				}
				if table.len() != len(want) {
					t.Fatalf("step %d: %d rows, want %d", step, table.len(), len(want))
				}
				if step%4099 == 0 {
					table.clear()
					clear(want)
				}
			}
		})
	}
}

// TestHashTableSeeds: who knows the program cannot choose hashes that all want one slot.
func TestHashTableSeeds(t *testing.T) {
	t.Parallel()
	a, b := newHashTable[int](), newHashTable[int]()
	h := sha256.Sum256(nil)
	if a.key(&h) == b.key(&h) {
		t.Error("two tables put a hash at the same place")
	}
}

// BenchmarkRecent measures what the sequencer asks for a new event: it is not there.
func BenchmarkRecent(b *testing.B) {
	ids := make([][32]byte, 1<<20)
	for i := range ids {
		ids[i] = sha256.Sum256(fmt.Append(nil, i))
	}
	r := newRecent(0)
	b.ResetTimer()
	for i := range b.N {
		id := &ids[i%len(ids)]
		if _, ok := r.find(id); !ok {
			r.add(id, uint64(i))
		}
		if i%1024 == 0 {
			r.rotate(uint64(i), uint64(i))
		}
	}
}
