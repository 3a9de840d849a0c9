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
	// Room for the longest valid event id keeps the buffer on the stack.
	b := append(make([]byte, 0, 1024), idDomain...)
	b = appendString(b, ev.GetTenant())
	b = appendString(b, src.GetSystem())
	b = appendString(b, src.GetAccount())
	b = appendString(b, src.GetRegion())
	b = appendString(b, ev.GetEventId())
	return sha256.Sum256(b)
}

// KeyID is the identity of a key: the events with the same one form one history.
//
//	SHA-256("keytrail.dev/key-id/v1\n" || tenant || key.ref)
//
// each string preceded by its length in bytes as a big-endian uint32.
func KeyID(tenant, ref string) [sha256.Size]byte {
	b := append(make([]byte, 0, 1024), keyIDDomain...)
	b = appendString(b, tenant)
	b = appendString(b, ref)
	return sha256.Sum256(b)
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
