package openbao

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Names of the source in every event. adapterVersion counts up when the same line would
// give another event.
const (
	sourceSystem   = "openbao"
	adapterVersion = "openbao/1"
)

// translate makes the event of a record, or says why the record cannot become one: a
// name in it is longer than an event may hold, for one.
func (i *Importer) translate(rec *record) (*keytrailv1.KeyEvent, error) {
	c := i.engines.locate(rec)
	c.readBatch()
	c.decide()
	c.classify()
	tenant := i.opts.Tenant
	if i.opts.TenantFromNamespace && c.namespace != "" {
		tenant = c.namespace
	}
	if tenant == "" {
		return nil, errors.New("no tenant: the call is in the root namespace and no tenant is set for it")
	}
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: event.SchemaVersion,
		EventId:       eventID(rec),
		Source:        &keytrailv1.Source{System: sourceSystem, Account: i.opts.Account, Adapter: adapterVersion},
		Tenant:        tenant,
		// When the line was written, the only time in it. The request line is a little
		// nearer to the call, but may stand in a file that is not read.
		Time:            timestamppb.New(rec.at),
		Operation:       c.op,
		SourceOperation: c.sourceOperation(),
		Also:            c.also,
		Outcome:         c.outcome,
		NoEffect:        c.noEffect,
		Error:           c.failure,
		Key:             c.keyPart(),
		RelatedKeys:     c.related,
		Actor:           c.actor(),
		RequestId:       rec.Request.ID,
		CorrelationId:   header(rec, "x-correlation-id"),
		SourceIp:        rec.Request.RemoteAddress,
		UserAgent:       cut(oneLine(header(rec, "user-agent")), maxUserAgent),
	}
	if c.batch.count > 0 {
		ev.Aggregate = &keytrailv1.Aggregate{Count: c.batch.count, Failed: c.batch.failed}
	}
	return ev, i.finish(c, ev)
}

// finish adds the attributes and the record itself, and checks the whole.
func (i *Importer) finish(c *call, ev *keytrailv1.KeyEvent) error {
	c.facts()
	raw, withheld := i.rawOf(c.rec)
	if raw.Content != nil && c.vars["secret"] != "" {
		raw.Content, withheld = nil, "a credential stands in the path"
	}
	ev.Raw = raw
	ev.Attributes = c.attrs.sorted()
	if raw.Content != nil && proto.Size(ev) > event.MaxSize {
		raw.Content, withheld = nil, fmt.Sprintf("the event would be longer than %d bytes", event.MaxSize)
	}
	if withheld != "" {
		c.attrs.add("raw_withheld", withheld)
		ev.Attributes = c.attrs.sorted()
	}
	// The record's own time stands for the log's clock: a time to come is the log's to
	// refuse, and an import must not depend on when it is made.
	return event.Validate(ev, c.rec.at)
}

// keyPart is the key concerned, or nil.
func (c *call) keyPart() *keytrailv1.Key {
	if c.key == "" {
		return nil
	}
	asked, got := c.rec.Request.Data, c.rec.responseData()
	k := &keytrailv1.Key{Ref: c.ref(c.key), Origin: c.origin}
	switch len(c.versions) {
	case 0:
	case 1:
		k.Version = c.versions[0]
	default:
		k.Versions = c.versions
	}
	// In clear only on mounts tuned to show it. What was asked for counts only where the
	// server took it up.
	k.Algorithm = got.text("type")
	if k.Algorithm == "" && !c.noEffect && c.kind == "transit" &&
		(c.op == keytrailv1.Operation_OPERATION_KEY_GENERATE || c.op == keytrailv1.Operation_OPERATION_KEY_IMPORT) {
		k.Algorithm = asked.text("type")
	}
	if bytes, ok := got.int("key_size"); ok && bytes > 0 && bytes < 1<<20 {
		k.Size = uint32(bytes) * 8
	}
	return k
}

// header is a registered header of the request, if the device shows it in clear. Names
// are in lower case at OpenBao and as registered at others.
func header(rec *record, name string) string {
	for _, k := range slices.Sorted(maps.Keys(rec.Request.Headers)) {
		values := rec.Request.Headers[k]
		if strings.EqualFold(k, name) && len(values) > 0 && !hashed(values[0]) {
			return values[0]
		}
	}
	return ""
}
