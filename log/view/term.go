package view

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// term is what an entry can be found by: a kind, and a hash or number. Strings are hashed
// and cut, so two of them may share a term; whoever reads a posting checks the entry.
type term [termSize]byte

const (
	termSize = 13
	// refSize is the part of a key's term that depends on the reference alone.
	refSize = 9

	kindTenant    = 't'
	kindKey       = 'k' // 8 bytes of the reference, then 4 of the tenant
	kindActor     = 'a'
	kindOperation = 'o'
	kindOutcome   = 'r'
)

func hashedTerm[S string | []byte](kind byte, s S) term {
	h := sha256.Sum256([]byte(s))
	t := term{kind}
	copy(t[1:], h[:])
	return t
}

func tenantTerm(tenant string) term { return hashedTerm(kindTenant, tenant) }
func actorTerm(actor string) term   { return hashedTerm(kindActor, actor) }

// keyTerm begins with refPrefix(ref), so that one range holds the keys of all tenants
// that share a reference.
func keyTerm(tenant, ref string) term {
	t := hashedTerm(kindKey, ref)
	h := sha256.Sum256([]byte(tenant))
	copy(t[refSize:], h[:])
	return t
}

func refPrefix(ref string) [refSize]byte {
	t := hashedTerm(kindKey, ref)
	return [refSize]byte(t[:])
}

func operationTerm(op keytrailv1.Operation) term { return numberTerm(kindOperation, int32(op)) }
func outcomeTerm(o keytrailv1.Outcome) term      { return numberTerm(kindOutcome, int32(o)) }

func numberTerm(kind byte, n int32) term {
	t := term{kind}
	binary.BigEndian.PutUint32(t[1:], uint32(n))
	return t
}

// appendTerms appends the terms of an event, each once.
func (c *termCache) appendTerms(ts []term, f *event.Fields) []term {
	tenant := c.hashed(kindTenant, f.Tenant)
	ts = append(ts, tenant, operationTerm(f.Operation), outcomeTerm(f.Outcome))
	for i, op := range f.Also {
		if !slices.Contains(f.Also[:i], op) && op != f.Operation {
			ts = append(ts, operationTerm(op))
		}
	}
	if len(f.KeyRef) > 0 {
		key := hashedTerm(kindKey, f.KeyRef)
		copy(key[refSize:], tenant[1:])
		ts = append(ts, key)
	}
	if len(f.ActorID) > 0 {
		ts = append(ts, c.hashed(kindActor, f.ActorID))
	}
	if len(f.ActorDisplay) > 0 && !bytes.Equal(f.ActorDisplay, f.ActorID) {
		ts = append(ts, c.hashed(kindActor, f.ActorDisplay))
	}
	return ts
}

// termCache keeps terms of tenants and actors, of which a log has few beside its keys: to
// find one here takes a tenth of hashing it. The zero value is empty.
type termCache struct {
	seed    maphash.Seed
	entries []cachedTerm
}

const (
	cachedTerms = 4096
	// maxCached is the longest string that is kept, so that all of them take 512 KiB.
	maxCached = 128
)

type cachedTerm struct {
	of   []byte
	term term
}

// hashed is hashedTerm.
func (c *termCache) hashed(kind byte, s []byte) term {
	if len(s) > maxCached {
		return hashedTerm(kind, s)
	}
	if c.entries == nil {
		c.seed, c.entries = maphash.MakeSeed(), make([]cachedTerm, cachedTerms)
	}
	e := &c.entries[maphash.Bytes(c.seed, s)%cachedTerms]
	if e.term[0] != kind || !bytes.Equal(e.of, s) {
		e.of, e.term = append(e.of[:0], s...), hashedTerm(kind, s)
	}
	return e.term
}
