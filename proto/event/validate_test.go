package event_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// violations returns "field reason" of each rule that ev breaks.
func violations(t testing.TB, ev *keytrailv1.KeyEvent) []string {
	t.Helper()
	err := event.Validate(ev, now)
	if err == nil {
		return nil
	}
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Violations) == 0 {
		t.Fatalf("not an InvalidError: %#v", err)
	}
	var out []string
	for _, v := range invalid.Violations {
		out = append(out, v.String())
	}
	return out
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*keytrailv1.KeyEvent){
		"minimal":     func(*keytrailv1.KeyEvent) {},
		"a day ahead": func(ev *keytrailv1.KeyEvent) { ev.Time = timestamppb.New(now.Add(24 * time.Hour)) },
		"1990":        func(ev *keytrailv1.KeyEvent) { ev.Time = timestamppb.New(time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)) },
		"no expiry": func(ev *keytrailv1.KeyEvent) {
			ev.Key = &keytrailv1.Key{Ref: "k", CryptoperiodEnd: &timestamppb.Timestamp{Seconds: 253402300799}}
		},
		"letters of anywhere": func(ev *keytrailv1.KeyEvent) { ev.Tenant = "ÄÖ 株式会社 🔑" },
		"context names by bytes": func(ev *keytrailv1.KeyEvent) {
			ev.Context = []*keytrailv1.Context{{Name: "B"}, {Name: "a"}, {Name: "ä"}}
		},
		"actor by display only": func(ev *keytrailv1.KeyEvent) { ev.Actor = &keytrailv1.Actor{Display: "x"} },
		"cause by rule only":    func(ev *keytrailv1.KeyEvent) { ev.CausedBy = &keytrailv1.Cause{Rule: "x"} },
		"marks in names":        func(ev *keytrailv1.KeyEvent) { ev.Actor = &keytrailv1.Actor{Id: "x", Display: "م\u200fa\u200d"} },
		"raw withheld": func(ev *keytrailv1.KeyEvent) {
			ev.Raw = &keytrailv1.Raw{MediaType: "text/plain", Sha256: make([]byte, 32)}
		},
	} {
		ev := minimal()
		change(ev)
		if got := violations(t, ev); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestValidateRefuses breaks one rule at a time in the complete event.
func TestValidateRefuses(t *testing.T) {
	type ev = keytrailv1.KeyEvent
	at := func(year int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	for _, c := range []struct {
		change func(*ev)
		want   string
	}{
		{func(e *ev) { e.SchemaVersion = 2 }, "schema_version is 2; this log knows version 1"},
		{func(e *ev) { e.EventId = "" }, "event_id is required"},
		{func(e *ev) { e.Source = nil }, "source is required"},
		{func(e *ev) { e.Source.System = "" }, "source.system is required"},
		{func(e *ev) { e.Source.System = "AWS" }, "source.system may hold only a-z 0-9 . _ -"},
		{func(e *ev) { e.Tenant = "" }, "tenant is required"},
		{func(e *ev) { e.Tenant = strings.Repeat("t", 129) }, "tenant is 129 bytes long; the limit is 128"},
		{func(e *ev) { e.Tenant = "a\tb" }, "tenant holds the control character U+0009 at byte 1"},
		{func(e *ev) { e.Tenant = "a\u0085b" }, "tenant holds the control character U+0085 at byte 1"},
		{func(e *ev) { e.Tenant = "a\u2028" }, "tenant holds the line separator U+2028 at byte 1"},
		{func(e *ev) { e.Tenant = "a\u202eb" }, "tenant holds the direction control U+202E at byte 1"},
		{func(e *ev) { e.Tenant = "a\u200bb" }, "tenant holds the invisible character U+200B at byte 1"},
		{func(e *ev) { e.Tenant = "a\xffb" }, "tenant is not valid UTF-8 at byte 1"},
		{func(e *ev) { e.Actor.Display = "\u202e" }, "actor.display holds the direction control U+202E at byte 0"},
		{func(e *ev) { e.UserAgent = "a\nb" }, "user_agent holds the control character U+000A at byte 1"},
		{func(e *ev) { e.Error.Message = "a\rb" }, "error.message holds the control character U+000D at byte 1"},
		{func(e *ev) { e.Time = nil }, "time is required"},
		{func(e *ev) { e.Time = at(1989) }, "time lies before 1990"},
		{func(e *ev) { e.Time = timestamppb.New(now.Add(24*time.Hour + time.Second)) }, "time lies after 2026-11-23T12:00:00Z"},
		{func(e *ev) { e.Time.Nanos = 1e9 }, "time has 1000000000 nanoseconds; allowed are 0 to 999999999"},
		{func(e *ev) { e.TimeReceived = at(2027) }, "time_received lies after 2026-11-23T12:00:00Z"},
		{func(e *ev) { e.Key.DestroyTime = at(2201) }, "key.destroy_time lies after 2200-01-01T00:00:00Z"},
		{func(e *ev) { e.Key.CryptoperiodEnd.Seconds = 253402300800 }, "key.cryptoperiod_end lies after 9999-12-31T23:59:59Z"},
		{func(e *ev) { e.Operation = 0 }, "operation is required"},
		{func(e *ev) { e.Operation = 199 }, "operation has the unknown value 199: this log may be older than the producer"},
		{func(e *ev) { e.SourceOperation = "" }, "source_operation is required when operation is other"},
		{func(e *ev) { e.Also = make([]keytrailv1.Operation, 1) }, "also[0] is not an operation"},
		{func(e *ev) { e.Also[1] = e.Also[0] }, "also[1] repeats an earlier one"},
		{func(e *ev) { e.Also[1] = 1 }, "also[1] may not be other"},
		{func(e *ev) { e.Operation = e.Also[0] }, "also[0] repeats operation"},
		{func(e *ev) { e.Also[0] = -1 }, "also[0] has the unknown value -1: this log may be older than the producer"},
		{func(e *ev) { e.Also = []keytrailv1.Operation{100, 101, 102, 103, 104, 105, 106, 107, 108} }, "also has 9 elements; the limit is 8"},
		{func(e *ev) { e.Outcome = 0 }, "outcome is required"},
		{func(e *ev) { e.Outcome = 6 }, "outcome has the unknown value 6: this log may be older than the producer"},
		{func(e *ev) { e.Key.Ref = "" }, "key.ref is required"},
		{func(e *ev) { e.Key.Version = "3" }, "key.versions may not stand beside version"},
		{func(e *ev) { e.Key.Versions[1] = "1" }, "key.versions[1] repeats an earlier one"},
		{func(e *ev) { e.Key.Versions[1] = "" }, "key.versions[1] is required"},
		{func(e *ev) { e.Key.ProtectionLevel = 4 }, "key.protection_level has the unknown value 4: this log may be older than the producer"},
		{func(e *ev) { e.Key.Origin = 5 }, "key.origin has the unknown value 5: this log may be older than the producer"},
		{func(e *ev) { e.RelatedKeys[0].Role = 6 }, "related_keys[0].role has the unknown value 6: this log may be older than the producer"},
		{func(e *ev) { e.RelatedKeys = append(e.RelatedKeys, nil) }, "related_keys[1].ref is required"},
		{func(e *ev) { e.Actor.Id, e.Actor.Display = "", "" }, "actor needs id or display"},
		{func(e *ev) { e.Actor.Type = 5 }, "actor.type has the unknown value 5: this log may be older than the producer"},
		{func(e *ev) { e.Actor.Delegation[0] = "" }, "actor.delegation[0] is required"},
		{func(e *ev) { e.CausedBy = new(keytrailv1.Cause) }, "caused_by needs event_id or rule"},
		{func(e *ev) { e.Approvals[1].Approver = "" }, "approvals[1].approver is required"},
		{func(e *ev) { e.Approvals[0].Time = at(2027) }, "approvals[0].time lies after 2026-11-23T12:00:00Z"},
		{func(e *ev) { e.Context[1].Name = "a" }, "context[1].name must come after the one before it: sort by name, without repeats"},
		{func(e *ev) { e.Context[1].Content.(*keytrailv1.Context_Sha256).Sha256 = []byte{1} }, "context[1].sha256 is 1 bytes long; a SHA-256 is 32"},
		{func(e *ev) { e.Attributes[1].Name = "A" }, "attributes[1].name must come after the one before it: sort by name, without repeats"},
		{func(e *ev) { e.Aggregate.Count = 0 }, "aggregate.count must be at least 1"},
		{func(e *ev) { e.Aggregate.Failed = proto.Uint64(4) }, "aggregate.failed is 4, more than count 3"},
		{func(e *ev) { e.Aggregate.Last = at(2020) }, "aggregate.last lies before first"},
		{func(e *ev) { e.Raw.MediaType = "" }, "raw.media_type is required"},
		{func(e *ev) { e.Raw.Sha256 = nil }, "raw.sha256 is 0 bytes long; a SHA-256 is 32"},
		{func(e *ev) { e.Raw.Content = []byte("x") }, "raw.sha256 is not the SHA-256 of raw.content"},
		{func(e *ev) { e.SourceSignature.Signature = nil }, "source_signature.signature is 0 bytes long; allowed are 1 to 8192"},
		{func(e *ev) { e.SourceSignature.Signature = make([]byte, 8193) }, "source_signature.signature is 8193 bytes long; allowed are 1 to 8192"},
	} {
		e := complete()
		c.change(e)
		if got := violations(t, e); len(got) != 1 || got[0] != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

func TestValidateNamesAll(t *testing.T) {
	want := []string{
		"schema_version is 0; this log knows version 1", "event_id is required", "source is required",
		"tenant is required", "time is required", "operation is required", "outcome is required",
	}
	if diff := cmp.Diff(want, violations(t, new(keytrailv1.KeyEvent))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"the event is missing"}, violations(t, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValidateSize(t *testing.T) {
	ev := minimal()
	for i := range 20 {
		ev.Attributes = append(ev.Attributes, &keytrailv1.Attribute{Name: fmt.Sprintf("a%02d", i), Value: strings.Repeat("x", 2048)})
	}
	want := fmt.Sprintf("the event is %d bytes long, encoded; the limit is 32768", proto.Size(ev))
	if got := violations(t, ev); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// stringLimits are the limits of event.proto, in bytes.
var stringLimits = map[string]int{
	"event_id": 256, "source.system": 64, "source.account": 256, "source.region": 128, "source.adapter": 64,
	"tenant": 128, "source_operation": 256, "error.code": 256, "error.message": 2048,
	"key.ref": 512, "key.versions[0]": 128, "key.material_id": 128, "key.alias": 512, "key.algorithm": 64,
	"key.purpose": 128, "key.state_before": 64, "key.state_after": 64,
	"related_keys[0].ref": 512, "related_keys[0].version": 128,
	"actor.id": 512, "actor.display": 256, "actor.auth_method": 128, "actor.session": 256, "actor.account": 256,
	"actor.delegation[0]": 512, "caused_by.event_id": 256, "caused_by.rule": 256,
	"component": 128, "service": 128, "region": 128, "request_id": 256, "correlation_id": 256,
	"source_ip": 256, "user_agent": 1024, "tls.version": 64, "tls.cipher": 64,
	"justification.code": 128, "justification.text": 2048, "justification.ticket": 256,
	"approvals[0].approver": 512, "approvals[0].reference": 256, "context[0].name": 256, "context[0].value": 1024,
	"raw.media_type": 128, "source_signature.algorithm": 64, "source_signature.key_id": 256,
	"attributes[0].name": 128, "attributes[0].value": 2048,
}

// eachString calls fn with the path of every string of a message and a way to set it; of
// lists, only with the first element.
func eachString(m protoreflect.Message, prefix string, fn func(path string, set func(string))) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := prefix + string(fd.Name())
		switch {
		case fd.IsList() && fd.Message() != nil:
			eachString(v.List().Get(0).Message(), path+"[0].", fn)
		case fd.IsList() && fd.Kind() == protoreflect.StringKind:
			fn(path+"[0]", func(s string) { v.List().Set(0, protoreflect.ValueOfString(s)) })
		case fd.Kind() == protoreflect.StringKind:
			fn(path, func(s string) { m.Set(fd, protoreflect.ValueOfString(s)) })
		case fd.Message() != nil && !fd.IsList():
			eachString(v.Message(), path+".", fn)
		}
		return true
	})
}

// TestEveryString puts bad strings into every string field there is.
func TestEveryString(t *testing.T) {
	seen := 0
	eachString(complete().ProtoReflect(), "", func(path string, _ func(string)) {
		seen++
		limit, ok := stringLimits[path]
		if !ok {
			t.Errorf("%s has no limit in this test", path)
			return
		}
		for _, c := range []struct {
			value string
			bad   bool
		}{
			{strings.Repeat("0", limit), false},
			{strings.Repeat("0", limit+1), true},
			{"\x00", true}, {"\x7f", true}, {"\u0090", true}, {"\u2029", true}, {"\u2066", true}, {"\xc3", true},
		} {
			ev := complete()
			eachString(ev.ProtoReflect(), "", func(p string, set func(string)) {
				if p == path {
					set(c.value)
				}
			})
			bad := slices.ContainsFunc(violations(t, ev), func(v string) bool { return strings.HasPrefix(v, path+" ") })
			if bad != c.bad {
				t.Errorf("%s = %.20q (%d bytes): refused is %v", path, c.value, len(c.value), bad)
			}
		}
	})
	if seen != len(stringLimits) {
		t.Errorf("saw %d of %d strings", seen, len(stringLimits))
	}
}

// TestUnknownFields puts an unknown field into every message of the tree.
func TestUnknownFields(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	var paths []string
	var walk func(m protoreflect.Message, path string)
	walk = func(m protoreflect.Message, path string) {
		paths = append(paths, path)
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case fd.Message() == nil:
			case fd.IsList():
				walk(v.List().Get(0).Message(), path+string(fd.Name())+"[0].")
			default:
				walk(v.Message(), path+string(fd.Name())+".")
			}
			return true
		})
	}
	walk(complete().ProtoReflect(), "")
	for _, path := range paths {
		ev := complete()
		m := ev.ProtoReflect()
		for name := range strings.SplitSeq(strings.TrimSuffix(path, "."), ".") {
			if name == "" {
				continue
			}
			field, isList := strings.CutSuffix(name, "[0]")
			v := m.Mutable(m.Descriptor().Fields().ByName(protoreflect.Name(field)))
			if isList {
				m = v.List().Get(0).Message()
			} else {
				m = v.Message()
			}
		}
		m.SetUnknown(unknown)
		want := path + "99 is an unknown field: this log may be older than the producer"
		if got := violations(t, ev); len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %q", got, want)
		}
		b, err := proto.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		var invalid *event.InvalidError
		if _, err := event.Parse(b); !errors.As(err, &invalid) {
			t.Errorf("Parse with an unknown field %s99: %v", path, err)
		}
	}
	if len(paths) < 20 {
		t.Errorf("only %d messages", len(paths))
	}
}

// TestNoReadingPastLimits: what is too long is named once, however long.
func TestNoReadingPastLimits(t *testing.T) {
	ev := minimal()
	ev.Approvals = make([]*keytrailv1.Approval, 100_000)
	ev.Attributes = make([]*keytrailv1.Attribute, 100_000)
	ev.Tenant = strings.Repeat("\x00", 1<<20)
	if got := violations(t, ev); len(got) > 32+2*64+4 {
		t.Errorf("%d violations", len(got))
	}
}

func TestWithPrefix(t *testing.T) {
	err := &event.InvalidError{Violations: []event.Violation{{Field: "key.ref", Reason: "is required"}, {Reason: "is too long"}}}
	got := err.WithPrefix("events[3].").Error()
	if want := "invalid event: events[3].key.ref is required; events[3] is too long"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := err.Error(), "invalid event: key.ref is required; the event is too long"; got != want {
		t.Errorf("the original became %q", got)
	}
}

func TestValidateAllocates(t *testing.T) {
	ev := typical()
	if n := testing.AllocsPerRun(100, func() { _ = event.Validate(ev, now) }); n != 0 {
		t.Errorf("a valid event costs %v allocations", n)
	}
}

// TestEveryByte puts each byte at each place of a string of 17 bytes.
func TestEveryByte(t *testing.T) {
	for b := range 256 {
		for place := range 17 {
			ev := minimal()
			s := []byte("0123456789abcdefg")
			s[place] = byte(b)
			ev.EventId = string(s)
			if refused := violations(t, ev) != nil; refused != (b < 0x20 || b > 0x7e) {
				t.Errorf("byte %#02x at %d: refused is %v", b, place, refused)
			}
		}
	}
}
