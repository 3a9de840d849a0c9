package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// MaxJSONSize is the size of the largest event as JSON that ParseJSON reads, in bytes.
const MaxJSONSize = 64 << 10

// ParseJSON reads an event in protobuf's JSON form (protojson). Unknown fields are
// refused. The fields operation, also and outcome take the short names too
// ("key.generate", "success"). It does not apply the rules of an event: see Validate.
func ParseJSON(line []byte) (*keytrailv1.KeyEvent, error) {
	if len(line) > MaxJSONSize {
		return nil, fmt.Errorf("parsing event: %d bytes of JSON, more than %d", len(line), MaxJSONSize)
	}
	full, err := expandNames(line)
	if err != nil {
		return nil, fmt.Errorf("parsing event: %w", err)
	}
	ev := new(keytrailv1.KeyEvent)
	if err := protojson.Unmarshal(full, ev); err != nil {
		return nil, fmt.Errorf("parsing event: %w", readable(err))
	}
	return ev, nil
}

// AppendJSON appends an event in protobuf's JSON form, on one line without spaces. Equal
// events give equal bytes.
func AppendJSON(b []byte, ev *keytrailv1.KeyEvent) ([]byte, error) {
	spaced, err := protojson.Marshal(ev)
	if err != nil {
		return b, fmt.Errorf("encoding event as JSON: %w", err)
	}
	// protojson spaces its output differently from build to build, on purpose.
	out := bytes.NewBuffer(b)
	if err := json.Compact(out, spaced); err != nil {
		return b, fmt.Errorf("encoding event as JSON: %w", err)
	}
	return out.Bytes(), nil
}

// expandNames replaces short names in the top-level fields operation, also and outcome by
// the names of the enum values and leaves every other byte as it is. What it does not
// understand it leaves to protojson, whose messages name the place.
func expandNames(line []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return line, nil
	}
	var out []byte
	copied := 0
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return line, nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return line, nil
		}
		name, _ := t.(string)
		expanded, err := expandValue(name, value)
		if err != nil {
			return nil, err
		}
		if expanded != nil {
			// A string or an array ends where the decoder stands.
			end := int(dec.InputOffset())
			out = append(append(out, line[copied:end-len(value)]...), expanded...)
			copied = end
		}
	}
	return append(out, line[copied:]...), nil
}

// expandValue returns what to put in the place of a value, nil to leave it.
func expandValue(field string, value json.RawMessage) ([]byte, error) {
	var short []string
	switch field {
	case "also":
		if json.Unmarshal(value, &short) != nil {
			return nil, nil
		}
	case "operation", "outcome":
		short = []string{""}
		if value[0] != '"' || json.Unmarshal(value, &short[0]) != nil {
			return nil, nil
		}
	default:
		return nil, nil
	}
	for i, name := range short {
		full, err := enumName(field, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		short[i] = full
	}
	if field == "also" {
		return json.Marshal(short)
	}
	return json.Marshal(short[0])
}

func enumName(field, name string) (string, error) {
	if strings.HasPrefix(name, "OPERATION_") || strings.HasPrefix(name, "OUTCOME_") {
		return name, nil
	}
	if field == "outcome" {
		o, err := ParseOutcome(name)
		return o.String(), err
	}
	op, err := ParseOperation(name)
	return op.String(), err
}
