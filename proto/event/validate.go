package event

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Limits of lengths (bytes) and lists (elements). Those that event.proto leaves open are
// marked.
const (
	maxEventID      = 256
	maxTenant       = 128
	maxSystem       = 64
	maxAccount      = 256
	maxRegion       = 128 // of a source: as the event's own region
	maxAdapter      = 64
	maxRef          = 512
	maxVersion      = 128
	maxMaterialID   = 128 // open in event.proto
	maxRule         = 256 // open in event.proto
	maxAlso         = 8
	maxRelatedKeys  = 16
	maxVersions     = 64
	maxDelegation   = 16
	maxApprovals    = 32
	maxPairs        = 64
	maxSignature    = 8 << 10
	maxTimeAhead    = 24 * time.Hour
	minUnix         = 631152000    // 1990-01-01T00:00:00Z
	maxPlannedUnix  = 7258118400   // 2200-01-01T00:00:00Z
	maxProtobufUnix = 253402300799 // 9999-12-31T23:59:59Z, written for "never"
)

// Validate checks an event against every rule of event.proto, with now as the log's
// clock. It returns nil or an *InvalidError with all violations.
//
// Beyond limits and required fields: an element of a list past the list's limit is not
// looked at, and a string past its limit is not read.
func Validate(ev *keytrailv1.KeyEvent, now time.Time) error {
	c := checker{}
	if ev == nil {
		c.add("", "is missing")
		return c.err()
	}
	if size := proto.Size(ev); size > MaxSize {
		c.add("", "is %d bytes long, encoded; the limit is %d", size, MaxSize)
	}
	c.knownFields(ev)
	limit := now.Add(maxTimeAhead).Unix()
	c.header(ev, limit)
	c.operation(ev)
	c.key(ev.Key)
	c.relatedKeys(ev.RelatedKeys)
	c.actor(ev.Actor)
	c.circumstances(ev, limit)
	c.pairs(ev)
	c.evidence(ev, limit)
	return c.err()
}

// header checks who says it and when it happened.
func (c *checker) header(ev *keytrailv1.KeyEvent, limit int64) {
	if ev.SchemaVersion != SchemaVersion {
		c.add("schema_version", "is %d; this log knows version %d", ev.SchemaVersion, SchemaVersion)
	}
	c.required("event_id", ev.EventId, maxEventID)
	if src := ev.Source; src == nil {
		c.add("source", "is required")
	} else {
		c.system(src.System)
		c.id("source.account", src.Account, maxAccount)
		c.id("source.region", src.Region, maxRegion)
		c.id("source.adapter", src.Adapter, maxAdapter)
	}
	c.required("tenant", ev.Tenant, maxTenant)
	if ev.Time == nil {
		c.add("time", "is required")
	}
	c.time("time", ev.Time, limit)
	c.time("time_received", ev.TimeReceived, limit)
}

func (c *checker) system(s string) {
	const field = "source.system"
	c.required(field, s, maxSystem)
	for i := 0; i < len(s) && i < maxSystem; i++ {
		b := s[i]
		if 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '.' || b == '_' || b == '-' {
			continue
		}
		c.add(field, "may hold only a-z 0-9 . _ -")
		return
	}
}

// time checks a timestamp that may be absent, up to limit (Unix seconds, inclusive).
func (c *checker) time(field string, ts *timestamppb.Timestamp, limit int64) {
	switch {
	case ts == nil:
	case ts.Nanos < 0 || ts.Nanos > 999_999_999:
		c.add(field, "has %d nanoseconds; allowed are 0 to 999999999", ts.Nanos)
	case ts.Seconds < minUnix:
		c.add(field, "lies before 1990")
	case ts.Seconds > limit:
		c.add(field, "lies after %s", time.Unix(limit, 0).UTC().Format(time.RFC3339))
	}
}

// operation checks what happened and how it ended.
func (c *checker) operation(ev *keytrailv1.KeyEvent) {
	op := ev.Operation
	switch {
	case op == keytrailv1.Operation_OPERATION_UNSPECIFIED:
		c.add("operation", "is required")
	case !operationNames.known(int32(op)):
		c.add("operation", "has the unknown value %d: this log may be older than the producer", op)
	}
	c.id("source_operation", ev.SourceOperation, 256)
	if op == keytrailv1.Operation_OPERATION_OTHER && ev.SourceOperation == "" {
		c.add("source_operation", "is required when operation is other")
	}
	c.also(ev)
	switch {
	case ev.Outcome == keytrailv1.Outcome_OUTCOME_UNSPECIFIED:
		c.add("outcome", "is required")
	case !outcomeNames.known(int32(ev.Outcome)):
		c.add("outcome", "has the unknown value %d: this log may be older than the producer", ev.Outcome)
	}
	if e := ev.Error; e != nil {
		c.str("error.code", e.Code, 256, identifier)
		c.str("error.message", e.Message, 2048, text)
	}
}

func (c *checker) also(ev *keytrailv1.KeyEvent) {
	list := limited(c, "also", ev.Also, maxAlso)
	for i, op := range list {
		n := len(c.violations)
		switch {
		case op == keytrailv1.Operation_OPERATION_UNSPECIFIED:
			c.add("", "is not an operation")
		case !operationNames.known(int32(op)):
			c.add("", "has the unknown value %d: this log may be older than the producer", op)
		case op == keytrailv1.Operation_OPERATION_OTHER:
			c.add("", "may not be other")
		case op == ev.Operation:
			c.add("", "repeats operation")
		case slices.Contains(list[:i], op):
			c.add("", "repeats an earlier one")
		}
		c.within(n, "also", i)
	}
}

// limited returns the elements of a list that are to be looked at.
func limited[T any](c *checker, field string, list []T, limit int) []T {
	if len(list) <= limit {
		return list
	}
	c.add(field, "has %d elements; the limit is %d", len(list), limit)
	return list[:limit]
}

func (c *checker) key(k *keytrailv1.Key) {
	if k == nil {
		return
	}
	c.required("key.ref", k.Ref, maxRef)
	c.id("key.version", k.Version, maxVersion)
	if len(k.Versions) > 0 {
		if k.Version != "" {
			c.add("key.versions", "may not stand beside version")
		}
		c.versions(k.Versions)
	}
	c.id("key.material_id", k.MaterialId, maxMaterialID)
	c.id("key.alias", k.Alias, maxRef)
	c.id("key.algorithm", k.Algorithm, 64)
	c.id("key.purpose", k.Purpose, 128)
	if k.ProtectionLevel < 0 || k.ProtectionLevel > keytrailv1.ProtectionLevel_PROTECTION_LEVEL_EXTERNAL {
		c.add("key.protection_level", "has the unknown value %d: this log may be older than the producer", k.ProtectionLevel)
	}
	if k.Origin < 0 || k.Origin > keytrailv1.KeyOrigin_KEY_ORIGIN_DERIVED {
		c.add("key.origin", "has the unknown value %d: this log may be older than the producer", k.Origin)
	}
	c.id("key.state_before", k.StateBefore, 64)
	c.id("key.state_after", k.StateAfter, 64)
	c.time("key.cryptoperiod_end", k.CryptoperiodEnd, maxProtobufUnix)
	c.time("key.destroy_time", k.DestroyTime, maxPlannedUnix)
}

func (c *checker) versions(versions []string) {
	list := limited(c, "key.versions", versions, maxVersions)
	for i, v := range list {
		n := len(c.violations)
		c.required("", v, maxVersion)
		if slices.Contains(list[:i], v) {
			c.add("", "repeats an earlier one")
		}
		c.within(n, "key.versions", i)
	}
}

func (c *checker) relatedKeys(keys []*keytrailv1.RelatedKey) {
	for i, k := range limited(c, "related_keys", keys, maxRelatedKeys) {
		n := len(c.violations)
		if r := k.GetRole(); r < 0 || r > keytrailv1.RelatedKey_ROLE_REPLICA {
			c.add("role", "has the unknown value %d: this log may be older than the producer", r)
		}
		c.required("ref", k.GetRef(), maxRef)
		c.id("version", k.GetVersion(), maxVersion)
		c.within(n, "related_keys", i)
	}
}

func (c *checker) actor(a *keytrailv1.Actor) {
	if a == nil {
		return
	}
	if a.Id == "" && a.Display == "" {
		c.add("actor", "needs id or display")
	}
	c.id("actor.id", a.Id, 512)
	if a.Type < 0 || a.Type > keytrailv1.Actor_TYPE_PROVIDER {
		c.add("actor.type", "has the unknown value %d: this log may be older than the producer", a.Type)
	}
	c.str("actor.display", a.Display, 256, line)
	c.id("actor.auth_method", a.AuthMethod, 128)
	c.id("actor.session", a.Session, 256)
	c.id("actor.account", a.Account, 256)
	for i, d := range limited(c, "actor.delegation", a.Delegation, maxDelegation) {
		n := len(c.violations)
		c.required("", d, 512)
		c.within(n, "actor.delegation", i)
	}
}

// circumstances checks cause, place, request and who agreed to it.
func (c *checker) circumstances(ev *keytrailv1.KeyEvent, limit int64) {
	if cause := ev.CausedBy; cause != nil {
		if cause.EventId == "" && cause.Rule == "" {
			c.add("caused_by", "needs event_id or rule")
		}
		c.id("caused_by.event_id", cause.EventId, maxEventID)
		c.id("caused_by.rule", cause.Rule, maxRule)
	}
	c.id("component", ev.Component, 128)
	c.id("service", ev.Service, 128)
	c.id("region", ev.Region, 128)
	c.id("request_id", ev.RequestId, 256)
	c.id("correlation_id", ev.CorrelationId, 256)
	c.id("source_ip", ev.SourceIp, 256)
	c.str("user_agent", ev.UserAgent, 1024, line)
	if t := ev.Tls; t != nil {
		c.id("tls.version", t.Version, 64)
		c.id("tls.cipher", t.Cipher, 64)
	}
	if j := ev.Justification; j != nil {
		c.id("justification.code", j.Code, 128)
		c.str("justification.text", j.Text, 2048, text)
		c.id("justification.ticket", j.Ticket, 256)
	}
	for i, a := range limited(c, "approvals", ev.Approvals, maxApprovals) {
		n := len(c.violations)
		c.required("approver", a.GetApprover(), 512)
		c.time("time", a.GetTime(), limit)
		c.id("reference", a.GetReference(), 256)
		c.within(n, "approvals", i)
	}
}

// pairs checks the two lists of names and values.
func (c *checker) pairs(ev *keytrailv1.KeyEvent) {
	before := ""
	for i, p := range limited(c, "context", ev.Context, maxPairs) {
		n := len(c.violations)
		c.required("name", p.GetName(), 256)
		c.ascending(i, before, p.GetName())
		before = p.GetName()
		switch content := p.GetContent().(type) {
		case *keytrailv1.Context_Value:
			c.str("value", content.Value, 1024, line)
		case *keytrailv1.Context_Sha256:
			c.hash("sha256", content.Sha256)
		}
		c.within(n, "context", i)
	}
	for i, a := range limited(c, "attributes", ev.Attributes, maxPairs) {
		n := len(c.violations)
		c.required("name", a.GetName(), 128)
		c.ascending(i, before, a.GetName())
		before = a.GetName()
		c.str("value", a.GetValue(), 2048, line)
		c.within(n, "attributes", i)
	}
}

// ascending checks that the name of element i comes after the one before it, by bytes.
func (c *checker) ascending(i int, before, name string) {
	if i > 0 && name <= before {
		c.add("name", "must come after the one before it: sort by name, without repeats")
	}
}

func (c *checker) hash(field string, b []byte) {
	if len(b) != sha256.Size {
		c.add(field, "is %d bytes long; a SHA-256 is %d", len(b), sha256.Size)
	}
}

// evidence checks totals, counters and the source's own record.
func (c *checker) evidence(ev *keytrailv1.KeyEvent, limit int64) {
	if a := ev.Aggregate; a != nil {
		if a.Count < 1 {
			c.add("aggregate.count", "must be at least 1")
		}
		if a.GetFailed() > a.Count {
			c.add("aggregate.failed", "is %d, more than count %d", a.GetFailed(), a.Count)
		}
		c.time("aggregate.first", a.First, limit)
		c.time("aggregate.last", a.Last, limit)
		if a.First != nil && a.Last != nil && a.Last.AsTime().Before(a.First.AsTime()) {
			c.add("aggregate.last", "lies before first")
		}
	}
	if r := ev.Raw; r != nil {
		c.required("raw.media_type", r.MediaType, 128)
		c.hash("raw.sha256", r.Sha256)
		if len(r.Content) > 0 && len(r.Content) <= MaxSize && len(r.Sha256) == sha256.Size {
			if sum := sha256.Sum256(r.Content); !bytes.Equal(sum[:], r.Sha256) {
				c.add("raw.sha256", "is not the SHA-256 of raw.content")
			}
		}
	}
	if s := ev.SourceSignature; s != nil {
		c.id("source_signature.algorithm", s.Algorithm, 64)
		c.id("source_signature.key_id", s.KeyId, 256)
		if len(s.Signature) < 1 || len(s.Signature) > maxSignature {
			c.add("source_signature.signature", "is %d bytes long; allowed are 1 to %d", len(s.Signature), maxSignature)
		}
	}
}
