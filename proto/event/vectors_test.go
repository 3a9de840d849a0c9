package event_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

var update = flag.Bool("update", false, "rewrite the vectors")

const vectorDir = "../../testdata/vectors/event"

// vector is one golden case. Those with an event have it in protobuf's JSON form; of
// violations, the reasons are for people and not part of the vector.
type vector struct {
	Description string `json:"description"`
	// The log's clock.
	Now   string          `json:"now,omitempty"`
	Event json.RawMessage `json:"event,omitempty"`
	// Encoded is the one encoding, in hex; or, with an error, bytes to be refused.
	Encoded string `json:"encoded,omitempty"`
	EventID string `json:"event_id_sha256,omitempty"`
	KeyID   string `json:"key_id_sha256,omitempty"`
	// Violations are the paths of the fields that break a rule.
	Violations []string `json:"violations,omitempty"`
	Error      string   `json:"error,omitempty"`
}

// vectors are the cases in code, from which the files are written.
func vectors(t *testing.T) map[string]vector {
	t.Helper()
	other := minimal()
	other.Operation = keytrailv1.Operation_OPERATION_OTHER
	other.SourceOperation = "Frobnicate"
	packed := minimal()
	packed.Also = []keytrailv1.Operation{keytrailv1.Operation_OPERATION_USE_ENCRYPT, keytrailv1.Operation_OPERATION_ACCESS_LOGIN}
	wide := minimal()
	wide.Tenant, wide.EventId = "株式会社", "Ω-1"
	wide.Key = &keytrailv1.Key{Ref: "schlüssel/🔑"}
	broken := complete()
	broken.Time, broken.Tenant, broken.Key.Ref, broken.Approvals[1].Approver = nil, "a\nb", "", ""
	broken.Raw.Content = []byte("changed")
	unsorted := typical()
	unsorted.Context = []*keytrailv1.Context{{Name: "b"}, {Name: "a"}, {Name: "a"}}
	plain := encode(t, minimal())
	return map[string]vector{
		"valid-minimal":     valid(t, "Required fields only.", minimal()),
		"valid-typical":     valid(t, "A decryption as an importer reports it.", typical()),
		"valid-complete":    valid(t, "Every field of every message.", complete()),
		"valid-other":       valid(t, "An operation that the vocabulary does not have.", other),
		"valid-packed":      valid(t, "Repeated enum values are packed.", packed),
		"valid-wide":        valid(t, "Identifiers beyond ASCII; lengths count bytes.", wide),
		"invalid-empty":     invalid(t, "Nothing at all.", new(keytrailv1.KeyEvent)),
		"invalid-several":   invalid(t, "Several rules broken at once.", broken),
		"invalid-unsorted":  invalid(t, "Context out of order and repeated.", unsorted),
		"refused-zero":      refused("A field that holds its default is spelt out: no_effect = false.", append(bytes.Clone(plain), 0x58, 0x00)),
		"refused-order":     refused("tenant before event_id.", []byte("\x08\x01\x22\x01a\x12\x01b")),
		"refused-twice":     refused("schema_version twice.", append([]byte{0x08, 0x01}, plain...)),
		"refused-varint":    refused("schema_version as a varint of two bytes.", append([]byte{0x08, 0x81, 0x00}, plain[2:]...)),
		"refused-unpacked":  refused("Repeated enum values one by one.", append(bytes.Clone(plain[:len(plain)-2]), 0x48, 0x64, 0x50, 0x01)),
		"refused-unknown":   refused("A field that the schema does not have, number 99.", append(bytes.Clone(plain), 0x98, 0x06, 0x01)),
		"refused-truncated": refused("The last byte is missing.", plain[:len(plain)-1]),
	}
}

func valid(t *testing.T, about string, ev *keytrailv1.KeyEvent) vector {
	t.Helper()
	v := vector{Description: about, Now: now.Format(time.RFC3339), Event: toJSON(t, ev), Encoded: hex.EncodeToString(encode(t, ev))}
	id := event.ID(ev)
	v.EventID = hex.EncodeToString(id[:])
	if ev.Key != nil {
		id := event.KeyID(ev.Tenant, ev.Key.Ref)
		v.KeyID = hex.EncodeToString(id[:])
	}
	return v
}

func invalid(t *testing.T, about string, ev *keytrailv1.KeyEvent) vector {
	t.Helper()
	return vector{Description: about, Now: now.Format(time.RFC3339), Event: toJSON(t, ev), Violations: fields(event.Validate(ev, now))}
}

func refused(about string, encoded []byte) vector {
	return vector{Description: about, Encoded: hex.EncodeToString(encoded), Error: "not the encoding of an event"}
}

func fields(err error) []string {
	var out []string
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			out = append(out, v.Field)
		}
	}
	return out
}

func toJSON(t *testing.T, ev *keytrailv1.KeyEvent) json.RawMessage {
	t.Helper()
	b, err := event.AppendJSON(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	cases := vectors(t)
	for name, v := range cases {
		t.Run(name, func(t *testing.T) {
			want, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, '\n')
			file := filepath.Join(vectorDir, name+".json")
			if *update {
				if err := os.MkdirAll(vectorDir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs from\n%s", file, want)
			}
			checkVector(t, got)
		})
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(cases) {
		t.Errorf("%d files for %d cases", len(files), len(cases))
	}
}

// checkVector reads a vector as another implementation would.
func checkVector(t *testing.T, file []byte) {
	t.Helper()
	var v vector
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	encoded, err := hex.DecodeString(v.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	if v.Error != "" {
		if ev, err := event.Parse(encoded); err == nil {
			t.Errorf("parsed as %v", ev)
		}
		return
	}
	clock, err := time.Parse(time.RFC3339, v.Now)
	if err != nil {
		t.Fatal(err)
	}
	ev := new(keytrailv1.KeyEvent)
	if err := protojson.Unmarshal(v.Event, ev); err != nil {
		t.Fatal(err)
	}
	verdict := event.Validate(ev, clock)
	if len(v.Violations) > 0 {
		if got := fields(verdict); !slices.Equal(got, v.Violations) {
			t.Errorf("violations of %q, want %q", got, v.Violations)
		}
		return
	}
	if verdict != nil {
		t.Error(verdict)
	}
	parsed, err := event.Parse(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(parsed, ev) {
		t.Errorf("bytes hold %v, JSON %v", parsed, ev)
	}
	if b := encode(t, ev); !bytes.Equal(b, encoded) {
		t.Errorf("encoded as %x", b)
	}
	if id := event.ID(ev); hex.EncodeToString(id[:]) != v.EventID {
		t.Errorf("event id %x", id)
	}
	if ev.Key != nil {
		if id := event.KeyID(ev.Tenant, ev.Key.Ref); hex.EncodeToString(id[:]) != v.KeyID {
			t.Errorf("key id %x", id)
		}
	}
}
