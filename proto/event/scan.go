package event

import (
	"crypto/sha256"
	"time"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Fields are what a log itself reads of an event. Its strings are parts of the encoding
// that was scanned, empty where the event has none.
type Fields struct {
	Tenant, System, Account, Region, EventID []byte
	// KeyRef is key.ref, empty when the event concerns no key.
	KeyRef                []byte
	ActorID, ActorDisplay []byte
	// Seconds and Nanos are time, since 1970.
	Seconds   int64
	Nanos     int32
	Operation keytrailv1.Operation
	Also      []keytrailv1.Operation
	Outcome   keytrailv1.Outcome

	// latest is the latest of the times that may not lie ahead of the log's clock, in
	// seconds since 1970.
	latest int64
}

// Scan reads the encoding of an event without building a message, and says whether it is
// surely one that Append writes and that keeps all rules of Validate, except those that
// depend on the clock: for these see InTime. Of everything else it says false: Parse and
// Validate then decide, and name what is wrong. f is filled anew when the answer is true,
// and keeps parts of b; when it is false, f means nothing.
func Scan(b []byte, f *Fields) bool {
	if len(b) > MaxSize {
		return false
	}
	*f = Fields{}
	s := scanner{f: f}
	return s.message(b, &eventTable)
}

// InTime says whether no time of the event lies too far ahead of the log's clock.
func (f *Fields) InTime(now time.Time) bool { return f.latest <= now.Add(maxTimeAhead).Unix() }

// ID is the identity of the event: see the function ID.
func (f *Fields) ID() [32]byte {
	b := append(make([]byte, 0, hashRoom), idDomain...)
	for _, part := range [...][]byte{f.Tenant, f.System, f.Account, f.Region, f.EventID} {
		b = appendSized(b, part)
	}
	return sha256.Sum256(b)
}

// KeyID is the identity of the event's key; ok is false when it concerns none.
func (f *Fields) KeyID() (id [32]byte, ok bool) {
	if len(f.KeyRef) == 0 {
		return id, false
	}
	b := append(make([]byte, 0, hashRoom), keyIDDomain...)
	return sha256.Sum256(appendSized(appendSized(b, f.Tenant), f.KeyRef)), true
}
