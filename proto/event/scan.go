package event

import (
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
// and keeps parts of b.
func Scan(b []byte, f *Fields) bool {
	ev, err := Parse(b)
	if err != nil || Validate(ev, time.Unix(maxProtobufUnix, 0)) != nil {
		return false
	}
	*f = Fields{
		Tenant: []byte(ev.Tenant), System: []byte(ev.Source.System), Account: []byte(ev.Source.Account),
		Region: []byte(ev.Source.Region), EventID: []byte(ev.EventId), KeyRef: []byte(ev.GetKey().GetRef()),
		ActorID: []byte(ev.GetActor().GetId()), ActorDisplay: []byte(ev.GetActor().GetDisplay()),
		Seconds: ev.Time.Seconds, Nanos: ev.Time.Nanos, Operation: ev.Operation, Also: ev.Also, Outcome: ev.Outcome,
	}
	f.latest = max(ev.Time.Seconds, ev.TimeReceived.GetSeconds(), ev.GetAggregate().GetFirst().GetSeconds(), ev.GetAggregate().GetLast().GetSeconds())
	for _, a := range ev.Approvals {
		f.latest = max(f.latest, a.GetTime().GetSeconds())
	}
	return true
}

// InTime says whether no time of the event lies too far ahead of the log's clock.
func (f *Fields) InTime(now time.Time) bool { return f.latest <= now.Add(maxTimeAhead).Unix() }

// ID is the identity of the event: see the function ID.
func (f *Fields) ID() [32]byte {
	return hashStrings(idDomain, f.Tenant, f.System, f.Account, f.Region, f.EventID)
}

// KeyID is the identity of the event's key; ok is false when it concerns none.
func (f *Fields) KeyID() (id [32]byte, ok bool) {
	if len(f.KeyRef) == 0 {
		return id, false
	}
	return hashStrings(keyIDDomain, f.Tenant, f.KeyRef), true
}
