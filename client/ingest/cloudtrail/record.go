package cloudtrail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// object is a decoded JSON object; numbers are json.Number.
type object = map[string]any

// record is one CloudTrail record.
type record struct {
	object
	// raw is the record as delivered.
	raw []byte
}

var (
	errNotUTF8    = errors.New("the record is not valid UTF-8")
	errTwice      = errors.New("the record names a field twice")
	errNotAnEntry = errors.New("not a CloudTrail record: it has no eventSource")
)

// decode reads one object. A field that is named twice is refused: readers differ in
// which of the two they believe.
func decode(raw []byte) (object, error) {
	if !utf8.Valid(raw) {
		return nil, errNotUTF8
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var o object
	if err := dec.Decode(&o); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading JSON: something follows the record")
	}
	if o == nil {
		return nil, errors.New("not a JSON object")
	}
	if members(o) != colons(raw) {
		return nil, errTwice
	}
	return o, nil
}

// foreign reports a whole record of a service that is not translated, without decoding
// all of it: nearly every record of most trails is one.
func foreign(raw []byte) bool {
	for _, source := range []string{sourceKMS, sourceCloudHSM, sourceCloudTrail} {
		if bytes.Contains(raw, []byte(source)) {
			return false
		}
	}
	if bytes.Contains(raw, []byte(`\u`)) || !utf8.Valid(raw) {
		return false
	}
	var head struct {
		EventSource string `json:"eventSource"`
	}
	return json.Unmarshal(raw, &head) == nil && head.EventSource != ""
}

// members counts the members of all objects in v.
func members(v any) int {
	n := 0
	switch v := v.(type) {
	case object:
		n = len(v)
		for _, e := range v {
			n += members(e)
		}
	case []any:
		for _, e := range v {
			n += members(e)
		}
	}
	return n
}

// colons counts the colons outside of strings: the members as written.
func colons(raw []byte) int {
	n := 0
	var c scan
	for _, b := range raw {
		if b == ':' && !c.inString {
			n++
		}
		c.step(b)
	}
	return n
}

// unwrap finds the CloudTrail record in what a list or a line holds: the record itself,
// an event of lookup-events or of a log stream that holds it as a string, or an
// EventBridge event with the record as its detail.
func unwrap(raw []byte, o object) (record, error) {
	if _, ok := o["eventSource"]; ok {
		return record{o, raw}, nil
	}
	for _, name := range []string{"CloudTrailEvent", "message"} {
		if inner, ok := o[name].(string); ok {
			raw := []byte(inner)
			o, err := decode(raw)
			if err != nil {
				return record{}, fmt.Errorf("%s: %w", name, err)
			}
			return record{o, raw}, nil
		}
	}
	if inner, ok := o["detail"].(object); ok {
		return record{inner, raw}, nil
	}
	return record{o, raw}, nil
}

// get walks down the names. It returns nil where there is no such member.
func get(v any, names ...string) any {
	for _, name := range names {
		o, ok := v.(object)
		if !ok {
			return nil
		}
		v = o[name]
	}
	return v
}

// str is the string at names, or "" if there is none or it is something else.
func str(v any, names ...string) string {
	s, _ := get(v, names...).(string)
	return s
}

// scalar writes a string, number or truth value as the source does.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// first is the first of values that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
