package cloudtrail_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/proto/event"
)

// Whatever a file holds: no panic, every event valid and the same when read again, no
// reject larger than a record, and a good record on the last line is found.
func FuzzRead(f *testing.F) {
	for i, line := range bytes.Split(testdata(f, "events.ndjson"), []byte("\n")) {
		if i%4 == 0 {
			f.Add(line)
		}
	}
	r := numbered(1)
	for _, seed := range []string{
		`{"Records":[` + r + `,{"eventID":},` + r + "]}", "[" + r + ",null]", `{"Records":[` + r[:50] + "," + r,
		`{"Events":[{"CloudTrailEvent":"{\"eventSource\":\"kms.amazonaws.com\"}"}]}`, "\xef\xbb\xbf{}", "{\n{\n",
		`{"eventSource":"kms.amazonaws.com","eventName":"ReEncrypt","resources":[null,{"ARN":7},[]]}`,
		record(`"eventName":"CreateKey","responseElements":{"keyMetadata":[1]},"requestParameters":{"tags":[{"tagKey":"a.b"}]}`),
		record(`"eventName":"ReEncrypt","requestParameters":{"sourceEncryptionContext":{"a":1},"destinationEncryptionContext":{"sourceEncryptionContext.a":2}}`),
		record(`"eventName":"TagResource","requestParameters":{"tags":[{"tagKey":"\u2066","tagValue":"\ud800"}]},"userIdentity":{"type":"AWSService"}`),
	} {
		f.Add([]byte(seed))
	}
	now := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		var runs [2][]byte
		for i := range runs {
			imp, err := cloudtrail.New(cloudtrail.Options{Tenant: "t", KeepRaw: len(data)%2 == 0})
			if err != nil {
				t.Fatal(err)
			}
			s := new(sink)
			if err := imp.Read(t.Context(), "f", bytes.NewReader(data), s); err != nil {
				t.Fatal(err)
			}
			if err := imp.Flush(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			for _, it := range s.items {
				if err := event.Validate(it.Event, now); err != nil {
					t.Fatalf("line %d: %v", it.Line, err)
				}
			}
			for _, r := range s.rejects {
				if len(r.Raw) > ingest.MaxRecordSize || r.Reason == "" {
					t.Fatalf("reject of %d bytes: %q", len(r.Raw), r.Reason)
				}
			}
			runs[i] = lines(t, s.items)
		}
		if !bytes.Equal(runs[0], runs[1]) {
			t.Fatal("two readings differ")
		}
	})
}

// A good record in a line of its own is found whatever stands before it, unless that is
// the beginning of a list: within one, a line has no meaning.
func FuzzGoodLineIsFound(f *testing.F) {
	f.Add(`{"eventVersion":"1.11","eventID":"`)
	f.Add("{\"a\":{{\n\n\"")
	f.Add("x\\\"")
	f.Fuzz(func(t *testing.T, before string) {
		if strings.Contains(before, "[") {
			return
		}
		s := new(sink)
		imp, _ := cloudtrail.New(tenant)
		if err := imp.Read(t.Context(), "f", strings.NewReader(fmt.Sprintf("%s\n%s", before, numbered(1))), s); err != nil {
			t.Fatal(err)
		}
		if err := imp.Flush(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		for _, it := range s.items {
			if it.Event.GetEventId() == "e-1" {
				return
			}
		}
		t.Errorf("the record after %q was lost: %v", before, s.rejects)
	})
}
