package event_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

func TestJSONRoundTrip(t *testing.T) {
	for _, ev := range []*keytrailv1.KeyEvent{{}, minimal(), typical(), complete()} {
		b, err := event.AppendJSON([]byte("> "), ev)
		if err != nil {
			t.Fatal(err)
		}
		got, err := event.ParseJSON(b[2:])
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(ev, got, protocmp.Transform()); diff != "" {
			t.Errorf("after a round trip (-want +got):\n%s", diff)
		}
	}
}

func TestAppendJSON(t *testing.T) {
	b, err := event.AppendJSON(nil, minimal())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schemaVersion":1,"eventId":"e-1","source":{"system":"test"},"tenant":"acme",` +
		`"time":"2026-11-22T11:00:00Z","operation":"OPERATION_KEY_GENERATE","outcome":"OUTCOME_SUCCESS"}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestParseJSONShortNames(t *testing.T) {
	for in, want := range map[string]string{
		`{"operation":"key.generate","outcome":"success"}`:                               `{"operation":"OPERATION_KEY_GENERATE","outcome":"OUTCOME_SUCCESS"}`,
		` { "tenant" : "key.generate" , "operation" : "use.mac_verify" , "eventId":"x"}`: `{"tenant":"key.generate","operation":"OPERATION_USE_MAC_VERIFY","eventId":"x"}`,
		`{"also":["key.generate","OPERATION_KEY_ROTATE" ] ,"outcome":"OUTCOME_DENIED"}`:  `{"also":["OPERATION_KEY_GENERATE","OPERATION_KEY_ROTATE"],"outcome":"OUTCOME_DENIED"}`,
		`{"oper\u0061tion":"key\u002egenerate"}`:                                         `{"operation":"OPERATION_KEY_GENERATE"}`,
		`{"operation":100,"also":[101],"outcome":null,"tenant":"a"}`:                     `{"operation":100,"also":[101],"tenant":"a"}`,
		`{"attributes":[{"name":"operation","value":"key.generate"}]}`:                   `{"attributes":[{"name":"operation","value":"key.generate"}]}`,
		`{"operation":"other"}`: `{"operation":"OPERATION_OTHER"}`,
	} {
		got, err := event.ParseJSON([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		ev := new(keytrailv1.KeyEvent)
		if err := protojson.Unmarshal([]byte(want), ev); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ev, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}

func TestParseJSONRefuses(t *testing.T) {
	for in, part := range map[string]string{
		``:                              "",
		`[]`:                            "",
		`{"tenant":"a"`:                 "",
		`{"tenant":"a"} {}`:             "",
		`{"tenant":"a","tenant":"b"}`:   "tenant",
		`{"operation":"key.make"}`:      `operation: unknown operation "key.make"`,
		`{"outcome":"ok"}`:              `outcome: unknown outcome "ok"`,
		`{"also":["key.generate","x"]}`: `also: unknown operation "x"`,
		`{"operation":"unspecified"}`:   "unspecified",
		`{"tenannt":"a"}`:               `parsing event: (line 1:2): unknown field "tenannt"`,
		`{"key":{"reff":"a"}}`:          "reff",
		"{\"tenant\":\"\xff\"}":         "",
		`{"tenant":"` + strings.Repeat("a", event.MaxJSONSize) + `"}`: "65549 bytes",
	} {
		ev, err := event.ParseJSON([]byte(in))
		if err == nil {
			t.Errorf("%.40s: parsed as %v", in, ev)
		} else if !strings.Contains(err.Error(), part) {
			t.Errorf("%.40s: %v does not name %s", in, err, part)
		}
	}
}
