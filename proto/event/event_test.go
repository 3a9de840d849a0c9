package event_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// now is the log's clock in these tests.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// minimal holds the required fields and nothing else.
func minimal() *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       "e-1",
		Source:        &keytrailv1.Source{System: "test"},
		Tenant:        "acme",
		Time:          timestamppb.New(now.Add(-time.Hour)),
		Operation:     keytrailv1.Operation_OPERATION_KEY_GENERATE,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
	}
}

// typical is what an importer makes of one CloudTrail record: about 500 bytes.
func typical() *keytrailv1.KeyEvent {
	ev := minimal()
	ev.EventId = "6f5d1c1e-7d4a-4a52-9b11-3c86a7d9c0aa"
	ev.Source = &keytrailv1.Source{System: "aws.kms", Account: "111122223333", Region: "eu-central-1", Adapter: "cloudtrail/1"}
	ev.Operation = keytrailv1.Operation_OPERATION_USE_DECRYPT
	ev.SourceOperation = "Decrypt"
	ev.Key = &keytrailv1.Key{
		Ref:       "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		Algorithm: "SYMMETRIC_DEFAULT",
	}
	ev.Actor = &keytrailv1.Actor{
		Id:   "arn:aws:sts::111122223333:assumed-role/app/i-0abc",
		Type: keytrailv1.Actor_TYPE_WORKLOAD, AuthMethod: "AssumedRole", Session: "ASIAEXAMPLE",
	}
	ev.RequestId = "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111"
	ev.SourceIp = "192.0.2.17"
	ev.UserAgent = "aws-sdk-go-v2/1.30.0 os/linux lang/go"
	ev.Context = []*keytrailv1.Context{{Name: "purpose", Content: &keytrailv1.Context_Value{Value: "backup"}}}
	return ev
}

// complete has every field of every message set.
func complete() *keytrailv1.KeyEvent {
	content := []byte(`{"eventName":"ScheduleKeyDeletion"}`)
	sum := sha256.Sum256(content)
	at := timestamppb.New(time.Date(2026, 11, 20, 8, 30, 0, 123456789, time.UTC))
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: "evt-0001",
		Source: &keytrailv1.Source{System: "aws.kms", Account: "111122223333", Region: "eu-central-1", Adapter: "cloudtrail/1"},
		Tenant: "acme", Time: at, TimeReceived: at,
		Operation: keytrailv1.Operation_OPERATION_OTHER, SourceOperation: "ScheduleKeyDeletion",
		Also:     []keytrailv1.Operation{keytrailv1.Operation_OPERATION_KEY_SUSPEND, keytrailv1.Operation_OPERATION_ACCESS_REVOKE},
		Outcome:  keytrailv1.Outcome_OUTCOME_PARTIAL,
		NoEffect: true,
		Error:    &keytrailv1.Error{Code: "Throttled", Message: "first line\n\tsecond line"},
		Key: &keytrailv1.Key{
			Ref: "arn:aws:kms:eu-central-1:111122223333:key/1", Versions: []string{"1", "2"}, MaterialId: "m-1",
			Alias: "alias/billing", Algorithm: "AES_256", Size: 256, Purpose: "ENCRYPT_DECRYPT",
			ProtectionLevel: keytrailv1.ProtectionLevel_PROTECTION_LEVEL_HSM, Origin: keytrailv1.KeyOrigin_KEY_ORIGIN_IMPORTED,
			StateBefore: "Enabled", StateAfter: "PendingDeletion", CryptoperiodEnd: at, DestroyTime: at,
		},
		RelatedKeys: []*keytrailv1.RelatedKey{{Role: keytrailv1.RelatedKey_ROLE_WRAPPING, Ref: "wrap", Version: "7"}},
		Actor: &keytrailv1.Actor{
			Id: "arn:aws:iam::111122223333:user/alice", Type: keytrailv1.Actor_TYPE_USER, Display: "Ålice 👩\u200d💻",
			AuthMethod: "mfa", Mfa: proto.Bool(false), Session: "s", Account: "111122223333", Delegation: []string{"role/admin"},
		},
		CausedBy:  &keytrailv1.Cause{EventId: "evt-0000", Rule: "automatic rotation"},
		Component: "billing", Service: "kms", Region: "eu-central-1", RequestId: "r", CorrelationId: "c",
		SourceIp: "192.0.2.1", UserAgent: "aws-cli/2",
		Tls:           &keytrailv1.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256"},
		Justification: &keytrailv1.Justification{Code: "CUSTOMER_INITIATED_ACCESS", Text: "end of\nlife", Ticket: "T-1"},
		Approvals:     []*keytrailv1.Approval{{Approver: "bob", Time: at, Reference: "CHG-1"}, {Approver: "carol"}},
		Context: []*keytrailv1.Context{
			{Name: "a", Content: &keytrailv1.Context_Value{Value: ""}},
			{Name: "b", Content: &keytrailv1.Context_Sha256{Sha256: sum[:]}},
			{Name: "c"},
		},
		Aggregate:       &keytrailv1.Aggregate{Count: 3, Failed: proto.Uint64(0), First: at, Last: at},
		SourceSequence:  &keytrailv1.SourceSequence{Counter: 17, Epoch: 2},
		Raw:             &keytrailv1.Raw{MediaType: "application/json", Sha256: sum[:], Content: content},
		SourceSignature: &keytrailv1.SourceSignature{Algorithm: "ed25519", KeyId: "k", Signature: []byte{1, 2, 3}},
		Attributes:      []*keytrailv1.Attribute{{Name: "a", Value: "1"}, {Name: "b"}},
	}
	// Without the messages that are shared above.
	return proto.Clone(ev).(*keytrailv1.KeyEvent)
}

func encode(t testing.TB, ev *keytrailv1.KeyEvent) []byte {
	t.Helper()
	b, err := event.Append(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for name, ev := range map[string]*keytrailv1.KeyEvent{"minimal": minimal(), "typical": typical(), "complete": complete()} {
		t.Run(name, func(t *testing.T) {
			b := encode(t, ev)
			got, err := event.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ev, got, protocmp.Transform()); diff != "" {
				t.Errorf("after a round trip (-want +got):\n%s", diff)
			}
			checkAscending(t, b, ev.ProtoReflect().Descriptor())
		})
	}
}

// checkAscending holds what Append says of its encoding: at every level, fields in
// ascending number order.
func checkAscending(t *testing.T, b []byte, md protoreflect.MessageDescriptor) {
	t.Helper()
	last := protowire.Number(0)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatalf("%s: bad tag", md.FullName())
		}
		fd := md.Fields().ByNumber(num)
		if num < last || num == last && !fd.IsList() {
			t.Errorf("%s: field %d after field %d", md.FullName(), num, last)
		}
		if fd.Message() != nil && typ == protowire.BytesType {
			sub, m := protowire.ConsumeBytes(b[n:])
			if m < 0 {
				t.Fatalf("%s: bad field %d", md.FullName(), num)
			}
			checkAscending(t, sub, fd.Message())
		}
		b, last = b[n+protowire.ConsumeFieldValue(num, typ, b[n:]):], num
	}
}

// TestCompleteIsComplete guards the other tests: a new field must be added to complete.
func TestCompleteIsComplete(t *testing.T) {
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			alternative := fd.ContainingOneof() != nil && !fd.HasOptionalKeyword()
			// version and versions exclude each other; RelatedKey has version too.
			if fd.FullName() == "keytrail.v1.Key.version" || alternative {
				continue
			}
			if !m.Has(fd) {
				t.Errorf("%s is not set", fd.FullName())
				continue
			}
			switch {
			case fd.Message() == nil:
			case fd.IsList():
				walk(m.Get(fd).List().Get(0).Message())
			default:
				walk(m.Get(fd).Message())
			}
		}
	}
	ev := complete()
	walk(ev.ProtoReflect())
	if err := event.Validate(ev, now); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	b := encode(t, minimal())
	swapped := append(protowire.AppendTag(nil, 4, protowire.BytesType), "\x04acme"...)
	swapped = append(swapped, "\x08\x01"...)
	for name, in := range map[string][]byte{
		"fields out of order": swapped,
		"a default spelt out": append(bytes.Clone(b), 0x58, 0x00),
		"a field twice":       append(bytes.Clone(b), 0x50, 0x01),
		"a long varint":       append([]byte{0x08, 0x81, 0x00}, b[2:]...),
	} {
		if _, err := event.Parse(in); !errors.Is(err, event.ErrNotCanonical) {
			t.Errorf("%s: %v, want ErrNotCanonical", name, err)
		}
	}
	for name, in := range map[string][]byte{
		"not protobuf":  {0xff},
		"too large":     make([]byte, event.MaxSize+1),
		"truncated":     b[:len(b)-1],
		"not UTF-8":     {0x22, 0x01, 0xff},
		"unknown field": append(bytes.Clone(b), 0x98, 0x06, 0x01),
	} {
		if ev, err := event.Parse(in); err == nil {
			t.Errorf("%s: parsed as %v", name, ev)
		}
	}
}

func TestAppendRefusesBadUTF8(t *testing.T) {
	ev := minimal()
	ev.Tenant = "\xff"
	b, err := event.Append([]byte("kept"), ev)
	if err == nil || string(b) != "kept" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestNames(t *testing.T) {
	for v, full := range keytrailv1.Operation_name {
		op := keytrailv1.Operation(v)
		for _, name := range []string{full, event.OperationName(op)} {
			got, err := event.ParseOperation(name)
			if (err == nil) != (v != 0) || got != op {
				t.Errorf("ParseOperation(%q) = %v, %v; want %v", name, got, err, op)
			}
		}
	}
	for v, full := range keytrailv1.Outcome_name {
		o := keytrailv1.Outcome(v)
		for _, name := range []string{full, event.OutcomeName(o)} {
			got, err := event.ParseOutcome(name)
			if (err == nil) != (v != 0) || got != o {
				t.Errorf("ParseOutcome(%q) = %v, %v; want %v", name, got, err, o)
			}
		}
	}
	for op, want := range map[keytrailv1.Operation][2]string{
		keytrailv1.Operation_OPERATION_UNSPECIFIED:          {"unspecified", ""},
		keytrailv1.Operation_OPERATION_OTHER:                {"other", ""},
		keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE: {"key.destroy_schedule", "key"},
		keytrailv1.Operation_OPERATION_USE_MAC_VERIFY:       {"use.mac_verify", "use"},
		keytrailv1.Operation_OPERATION_CEREMONY_BEGIN:       {"ceremony.begin", "ceremony"},
		999: {"operation(999)", ""},
	} {
		if got := [2]string{event.OperationName(op), event.Class(op)}; got != want {
			t.Errorf("name and class of %d: %q, want %q", op, got, want)
		}
	}
	if got := event.OutcomeName(9); got != "outcome(9)" {
		t.Errorf("OutcomeName(9) = %q", got)
	}
	if _, err := event.ParseOperation("KEY.GENERATE"); err == nil {
		t.Error("upper case was taken")
	}
}

func TestID(t *testing.T) {
	base := typical()
	other := typical()
	other.Source.Adapter = "cloudtrail/2"
	other.Operation = keytrailv1.Operation_OPERATION_USE_ENCRYPT
	if event.ID(base) != event.ID(other) {
		t.Error("adapter and content change the id")
	}
	for name, change := range map[string]func(*keytrailv1.KeyEvent){
		"tenant":  func(ev *keytrailv1.KeyEvent) { ev.Tenant = "x" },
		"system":  func(ev *keytrailv1.KeyEvent) { ev.Source.System = "x" },
		"account": func(ev *keytrailv1.KeyEvent) { ev.Source.Account = "x" },
		"region":  func(ev *keytrailv1.KeyEvent) { ev.Source.Region = "x" },
		"id":      func(ev *keytrailv1.KeyEvent) { ev.EventId = "x" },
		"shifted": func(ev *keytrailv1.KeyEvent) { ev.Source.Account += "e"; ev.Source.Region = "u-central-1" },
	} {
		ev := typical()
		change(ev)
		if event.ID(ev) == event.ID(base) {
			t.Errorf("%s does not change the id", name)
		}
	}
	if event.KeyID("a", "bc") == event.KeyID("ab", "c") {
		t.Error("two keys have one id")
	}
}

func BenchmarkValidate(b *testing.B) {
	ev := typical()
	b.SetBytes(int64(len(encode(b, ev))))
	b.ReportAllocs()
	for b.Loop() {
		if err := event.Validate(ev, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	ev := typical()
	buf := make([]byte, 0, event.MaxSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Append(buf, ev); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	in := encode(b, typical())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Parse(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkID(b *testing.B) {
	ev := typical()
	b.ReportAllocs()
	for b.Loop() {
		event.ID(ev)
	}
}
