package event

import (
	"crypto/sha256"
	"encoding/binary"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Domains of the hashes below; no other hash of keytrail begins with them.
const (
	idDomain    = "keytrail.dev/event-id/v1\n"
	keyIDDomain = "keytrail.dev/key-id/v1\n"
)

// ID is the identity of an event, under which the log takes it once and for ever:
//
//	SHA-256("keytrail.dev/event-id/v1\n" || tenant || source.system ||
//	        source.account || source.region || event_id)
//
// each string preceded by its length in bytes as a big-endian uint32. It is meaningful
// for valid events only.
func ID(ev *keytrailv1.KeyEvent) [sha256.Size]byte {
	src := ev.GetSource()
	return hashStrings(idDomain, ev.GetTenant(), src.GetSystem(), src.GetAccount(), src.GetRegion(), ev.GetEventId())
}

// KeyID is the identity of a key: the events with the same one form one history.
//
//	SHA-256("keytrail.dev/key-id/v1\n" || tenant || key.ref)
//
// each string preceded by its length in bytes as a big-endian uint32.
func KeyID(tenant, ref string) [sha256.Size]byte { return hashStrings(keyIDDomain, tenant, ref) }

func hashStrings[S string | []byte](domain string, list ...S) [sha256.Size]byte {
	// Room for the longest valid event id keeps the buffer on the stack.
	b := append(make([]byte, 0, 1024), domain...)
	for _, s := range list {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}
