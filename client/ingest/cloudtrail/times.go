package cloudtrail

import (
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// Bounds of times in an event (event.proto), and of planned ones.
var (
	earliest = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// dateLayouts are the forms in which dates stand in request parameters and response
// elements: the Java service writes them for people, in UTC, and its form has changed
// over the years.
var dateLayouts = []string{
	time.RFC3339,
	"Jan 2, 2006, 3:04:05 PM",
	"Jan 2, 2006 3:04:05 PM",
	"Jan 2, 2006, 15:04:05",
	"Jan 2, 2006 15:04:05",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02 15:04:05",
}

// date reads such a date, or seconds since 1970. It returns nil for what it cannot read.
func date(v any) *timestamppb.Timestamp {
	var t time.Time
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		if err != nil || f < 0 || f > 1e10 {
			return nil
		}
		t = time.UnixMilli(int64(f * 1000))
	case string:
		t = parseDate(v)
	}
	if t.Before(earliest) || t.After(latest) {
		return nil
	}
	return timestamppb.New(t)
}

func parseDate(s string) time.Time {
	// Newer Java puts a narrow no-break space before AM and PM.
	s = strings.NewReplacer("\u202f", " ", "\u00a0", " ").Replace(s)
	// "18:58:30 PM" is written too; the 24-hour layouts take it without the PM.
	for _, form := range []string{s, strings.TrimSuffix(s, " PM")} {
		for _, layout := range dateLayouts {
			if t, err := time.Parse(layout, form); err == nil && (form == s || t.Hour() >= 12) {
				return t.UTC()
			}
		}
	}
	return time.Time{}
}

// keyTimes fills in when the key will be destroyed and when its material expires. Neither
// is computed from a number of days: what the record does not date stays open.
func (b *builder) keyTimes(k *keytrailv1.Key) {
	request, response, meta := b.r.object["requestParameters"], b.r.object["responseElements"], metadata(b.r)
	for _, v := range []any{get(response, "deletionDate"), get(meta, "deletionDate")} {
		if k.DestroyTime == nil {
			k.DestroyTime = date(v)
		}
	}
	expiry := []any{get(meta, "validTo")}
	if str(b.r.object, "eventName") == "ImportKeyMaterial" {
		expiry = append(expiry, get(request, "validTo"))
	}
	for _, v := range expiry {
		if k.CryptoperiodEnd == nil {
			k.CryptoperiodEnd = date(v)
		}
	}
}
