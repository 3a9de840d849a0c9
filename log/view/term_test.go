package view

import (
	"encoding/binary"
	"testing"
)

// TestTermCache: a cached term is that of its string and kind, whatever took its place
// before.
func TestTermCache(t *testing.T) {
	var c termCache
	long := make([]byte, maxCached+1)
	for round := range 2 {
		for i := range 3 * cachedTerms {
			s := binary.BigEndian.AppendUint32(nil, uint32(i))
			for _, kind := range []byte{kindTenant, kindActor, kindTenant, kindTenant} {
				if c.hashed(kind, s) != hashedTerm(kind, s) {
					t.Fatalf("round %d: term of %c and %x is another's", round, kind, s)
				}
			}
		}
		if c.hashed(kindActor, long) != hashedTerm(kindActor, long) || c.hashed(kindActor, nil) != hashedTerm(kindActor, []byte{}) {
			t.Error("term of a long or empty string is another's")
		}
	}
	for i := range c.entries {
		if cap(c.entries[i].of) > 2*maxCached {
			t.Fatalf("an entry keeps %d bytes", cap(c.entries[i].of))
		}
	}
}
