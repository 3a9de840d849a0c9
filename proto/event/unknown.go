package event

import (
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// maxUnknown bounds how many unknown fields of one message are named.
const maxUnknown = 8

// knownFields refuses fields that the schema does not have, in every message of the
// tree. It names the messages one by one because ranging by reflection costs ten times
// as much; TestUnknownFields holds that none is left out.
func (c *checker) knownFields(ev *keytrailv1.KeyEvent) {
	c.known("", ev)
	if ev.Source != nil {
		c.known("source", ev.Source)
	}
	c.knownTime("time", ev.Time)
	c.knownTime("time_received", ev.TimeReceived)
	if ev.Error != nil {
		c.known("error", ev.Error)
	}
	if k := ev.Key; k != nil {
		c.known("key", k)
		c.knownTime("key.cryptoperiod_end", k.CryptoperiodEnd)
		c.knownTime("key.destroy_time", k.DestroyTime)
	}
	if ev.Actor != nil {
		c.known("actor", ev.Actor)
	}
	if ev.CausedBy != nil {
		c.known("caused_by", ev.CausedBy)
	}
	if ev.Tls != nil {
		c.known("tls", ev.Tls)
	}
	if ev.Justification != nil {
		c.known("justification", ev.Justification)
	}
	if a := ev.Aggregate; a != nil {
		c.known("aggregate", a)
		c.knownTime("aggregate.first", a.First)
		c.knownTime("aggregate.last", a.Last)
	}
	if ev.SourceSequence != nil {
		c.known("source_sequence", ev.SourceSequence)
	}
	if ev.Raw != nil {
		c.known("raw", ev.Raw)
	}
	if ev.SourceSignature != nil {
		c.known("source_signature", ev.SourceSignature)
	}
	c.knownInLists(ev)
}

func (c *checker) knownInLists(ev *keytrailv1.KeyEvent) {
	knownEach(c, "related_keys", ev.RelatedKeys, maxRelatedKeys)
	knownEach(c, "approvals", ev.Approvals, maxApprovals)
	for i, a := range ev.Approvals[:min(len(ev.Approvals), maxApprovals)] {
		n := len(c.violations)
		c.knownTime("time", a.GetTime())
		c.within(n, "approvals", i)
	}
	knownEach(c, "context", ev.Context, maxPairs)
	knownEach(c, "attributes", ev.Attributes, maxPairs)
}

// knownEach looks at the first elements of a list, up to its limit; a longer list is
// refused anyway.
func knownEach[M interface {
	comparable
	ProtoReflect() protoreflect.Message
}](c *checker, list string, messages []M, limit int) {
	var none M
	for i, m := range messages[:min(len(messages), limit)] {
		if m == none {
			continue
		}
		n := len(c.violations)
		c.known("", m)
		c.within(n, list, i)
	}
}

func (c *checker) knownTime(field string, ts *timestamppb.Timestamp) {
	if ts != nil {
		c.known(field, ts)
	}
}

func (c *checker) known(field string, m interface{ ProtoReflect() protoreflect.Message }) {
	if unknown := m.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		c.unknown(field, unknown)
	}
}

// unknown names the fields by number, each once in a row.
func (c *checker) unknown(field string, b []byte) {
	if field != "" {
		field += "."
	}
	last := protowire.Number(0)
	for named := 0; len(b) > 0 && named < maxUnknown; {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			c.add(field+"0", "is not a field")
			return
		}
		if num != last {
			c.add(field+strconv.Itoa(int(num)), "is an unknown field: this log may be older than the producer")
			named++
		}
		last, b = num, b[n:]
	}
}
