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

func hashStrings(domain string, list ...string) [sha256.Size]byte {
	b := append(make([]byte, 0, hashRoom), domain...)
	for _, s := range list {
		b = appendSized(b, s)
	}
	return sha256.Sum256(b)
}

// hashRoom is room for the longest valid event id. It keeps what is hashed on the stack.
const hashRoom = 1024

func appendSized[S string | []byte](b []byte, s S) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
