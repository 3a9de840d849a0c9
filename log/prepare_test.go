package log

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

func prepared(key string) *keytrailv1.KeyEvent {
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: "e", Tenant: "t", Source: &keytrailv1.Source{System: "s", Account: "a", Region: "r"},
		Time:      timestamppb.New(time.Unix(1_700_000_000, 5)),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
	}
	if key != "" {
		ev.Key = &keytrailv1.Key{Ref: key}
	}
	return ev
}

// TestPrepareEncoded: both ways to prepare an event come to the same.
func TestPrepareEncoded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, key := range []string{"", "k"} {
		ev := prepared(key)
		b, err := event.Append(nil, ev)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := PrepareEncoded(b, now)
		if want := fromMessage(ev, b); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("key %q: %v, %+v, want %+v", key, ok, got, want)
		}
		if _, ok := PrepareEncoded(b, now.Add(-24*time.Hour-time.Second)); ok {
			t.Error("an event from the future was taken")
		}
		if _, err := Prepare(ev, now.Add(-24*time.Hour-time.Second)); err == nil {
			t.Error("an event from the future was taken by way of its message")
		}
		if _, ok := PrepareEncoded(b[:len(b)-1], now); ok {
			t.Error("half an event was taken")
		}
	}
	bad := prepared("k")
	bad.Tenant = "\xff"
	if _, err := Prepare(bad, now); err == nil || err.Error() != "invalid event: tenant is not valid UTF-8 at byte 0" {
		t.Errorf("not UTF-8: %v", err)
	}
	if _, err := Prepare(nil, now); err == nil {
		t.Error("no event was taken")
	}
}
