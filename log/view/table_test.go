package view

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// TestTable compares a table with a map, through several fillings.
func TestTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var tab table
		for range rapid.IntRange(1, 3).Draw(rt, "fillings") {
			tab.clear()
			want := make(map[term]uint32)
			// Numbers differ in few bits, keys of one reference in the last four bytes.
			n := rapid.SampledFrom([]int{1, 100, 5000}).Draw(rt, "terms")
			for i := range 2 * n {
				key := operationTerm(keytrailv1.Operation(i % n))
				if i%3 == 0 {
					key = term{kindKey, 1, 2, 3}
					binary.BigEndian.PutUint32(key[refSize:], uint32(i%n))
				}
				number, had := want[key]
				if found, ok := tab.find(&key); ok != had || ok && found != number {
					rt.Fatalf("finding %x: %d, %v; want %d, %v", key, found, ok, number, had)
				}
				if !had {
					number = uint32(len(want))
					want[key] = number
				}
				if got, added := tab.add(&key); got != number || added == had {
					rt.Fatalf("adding %x: %d, %v; want %d, %v", key, got, added, number, !had)
				}
			}
			for key, number := range want {
				if got, ok := tab.find(&key); !ok || got != number || tab.lists[number].term != key {
					rt.Fatalf("%x is list %d, %v; want %d", key, got, ok, number)
				}
			}
		}
	})
}
