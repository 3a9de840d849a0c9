package cloudtrail_test

import (
	"fmt"
	"strings"
	"testing"
)

// story writes records of one key from lines of "id day eventName members".
func story(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		f := strings.SplitN(l, " ", 4)
		members := `"eventName":"` + f[2] + `","resources":[{"ARN":"` + ref + `"}]`
		if len(f) == 4 {
			members += "," + f[3]
		}
		r := strings.Replace(record(members), `"e-1"`, `"`+f[0]+`"`, 1)
		b.WriteString(strings.Replace(r, "2026-05-01T", "2026-05-"+f[1]+"T", 1) + "\n")
	}
	return b.String()
}

func TestCauses(t *testing.T) {
	const (
		service  = `"eventType":"AwsServiceEvent"`
		auto     = service + `,"serviceEventDetails":{"rotationType":"AUTOMATIC"}`
		onDemand = service + `,"serviceEventDetails":{"rotationType":"ON_DEMAND"}`
		expires  = `"requestParameters":{"validTo":"May 9, 2026, 1:00:00 AM"},"responseElements":{"keyMaterialId":"%s"}`
		expired  = service + `,"serviceEventDetails":{"keyMaterialId":"%s"}`
	)
	for _, c := range []struct {
		name  string
		lines []string
		// want is the cause of the last event: an id, a rule after "+", or "".
		want string
	}{
		{"deletion", []string{"s 01 ScheduleKeyDeletion", "d 08 DeleteKey " + service}, "s"},
		{"effect first in the file", []string{"d 08 DeleteKey " + service, "s 01 ScheduleKeyDeletion"}, "s"},
		{"scheduled twice", []string{"s 01 ScheduleKeyDeletion", "c 02 CancelKeyDeletion", "u 03 ScheduleKeyDeletion", "d 12 DeleteKey " + service}, "u"},
		{"cancelled", []string{"s 01 ScheduleKeyDeletion", "c 02 CancelKeyDeletion", "d 12 DeleteKey " + service}, ""},
		{"denied cancel", []string{"s 01 ScheduleKeyDeletion", `c 02 CancelKeyDeletion "errorCode":"AccessDenied"`, "d 12 DeleteKey " + service}, "s"},
		{"failed schedule", []string{`s 01 ScheduleKeyDeletion "errorCode":"KMSInvalidStateException"`, "d 12 DeleteKey " + service}, ""},
		{"unknown", []string{"d 12 DeleteKey " + service}, ""},
		{"rotation", []string{"e 01 EnableKeyRotation", "r 20 RotateKey " + auto}, "e+automatic rotation"},
		{"rotation of unknown cause", []string{"r 20 RotateKey " + auto}, "+automatic rotation"},
		{"rotation switched off", []string{"e 01 EnableKeyRotation", "f 02 DisableKeyRotation", "r 20 RotateKey " + auto}, "+automatic rotation"},
		{"rotation that does not say", []string{"e 01 EnableKeyRotation", "r 20 RotateKey " + service}, "e"},
		{"on demand", []string{"e 01 EnableKeyRotation", "o 19 RotateKeyOnDemand", "r 20 RotateKey " + onDemand}, "o"},
		{"expiry", []string{"i 01 ImportKeyMaterial " + fmt.Sprintf(expires, "m1"), "x 09 DeleteExpiredKeyMaterial " + fmt.Sprintf(expired, "m1")}, "i"},
		{"expiry of the first of two", []string{"i 01 ImportKeyMaterial " + fmt.Sprintf(expires, "m1"), "j 02 ImportKeyMaterial " + fmt.Sprintf(expires, "m2"), "x 09 DeleteExpiredKeyMaterial " + fmt.Sprintf(expired, "m1")}, "i"},
		{"expiry of other material", []string{"i 01 ImportKeyMaterial " + fmt.Sprintf(expires, "m1"), "x 09 DeleteExpiredKeyMaterial " + fmt.Sprintf(expired, "m2")}, ""},
		{"imported without expiry", []string{"i 01 ImportKeyMaterial", "x 09 DeleteExpiredKeyMaterial " + service}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := read(t, tenant, []byte(story(c.lines...)))
			if len(s.items) != len(c.lines) {
				t.Fatalf("got %d events, rejects %v", len(s.items), s.rejects)
			}
			cause := s.items[len(s.items)-1].Event.GetCausedBy()
			got := cause.GetEventId()
			if cause.GetRule() != "" {
				got += "+" + cause.GetRule()
			}
			if got != c.want {
				t.Errorf("caused by %q, want %q", got, c.want)
			}
		})
	}
}
