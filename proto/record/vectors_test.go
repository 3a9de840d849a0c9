package record_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/record"
)

var update = flag.Bool("update", false, "rewrite the vectors")

const vectorDir = "../../testdata/vectors/record"

// vector is one golden case; bytes are in hex. Numbers are strings, because JSON readers
// lose large ones.
type vector struct {
	Description string  `json:"description"`
	Record      *fields `json:"record,omitempty"`
	Encoded     string  `json:"encoded"`
	Salt        string  `json:"salt,omitempty"`
	Payload     string  `json:"payload,omitempty"`
	Leaf        string  `json:"leaf,omitempty"`
	// Error is set when encoded is to be refused.
	Error string `json:"error,omitempty"`
}

type fields struct {
	Index         uint64 `json:"index,string"`
	LoggedAt      string `json:"logged_at"`
	Producer      string `json:"producer"`
	KeySequence   uint64 `json:"key_sequence,string"`
	PreviousIndex uint64 `json:"previous_index,string"`
	KeyEvent      string `json:"key_event"`
}

func vectors() map[string]vector {
	first := &record.Record{LoggedAt: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), KeySequence: 1, KeyEvent: []byte("first")}
	noKey := &record.Record{Index: 128, LoggedAt: time.Unix(0, 1).UTC(), Producer: "Ω", KeyEvent: []byte{0}}
	largest := &record.Record{
		Index: math.MaxUint64, LoggedAt: time.Unix(253402300799, 999999999).UTC(), Producer: "p",
		KeySequence: math.MaxUint64, PreviousIndex: math.MaxUint64 - 1, KeyEvent: bytes.Repeat([]byte{0xff}, 200),
	}
	const index, at, body = "\x08\xac\x02", "\x12\x04\x08\x01\x10\x01", "\x82\x01\x01e"
	return map[string]vector{
		"valid-first":            valid("The first record of a log and of its key.", first),
		"valid-chained":          valid("The second record of a key.", sample()),
		"valid-no-key":           valid("A record that concerns no key, logged in the first second of 1970.", noKey),
		"valid-largest":          valid("The largest numbers and the latest time.", largest),
		"refused-no-time":        refused("No logged_at.", index+body),
		"refused-no-body":        refused("No body.", index+at),
		"refused-zero":           refused("index 0 spelt out.", "\x08\x00"+at+body),
		"refused-varint":         refused("index as a varint longer than needed.", "\x08\x81\x00"+at+body),
		"refused-order":          refused("logged_at before index.", at+index+body),
		"refused-twice":          refused("index twice.", index+index+at+body),
		"refused-unknown":        refused("A field that the schema does not have, number 6.", index+at+"\x30\x01"+body),
		"refused-previous":       refused("previous_index of a record that is the first of its key.", index+at+"\x20\x01\x28\x01"+body),
		"refused-later-previous": refused("previous_index is the record's own index.", index+at+"\x20\x02\x28\xac\x02"+body),
		"refused-nanos":          refused("1,000,000,000 nanoseconds.", index+"\x12\x06\x10\x80\x94\xeb\xdc\x03"+body),
	}
}

func valid(about string, r *record.Record) vector {
	var salt [record.SaltSize]byte
	for i := range salt {
		salt[i] = byte(i)
	}
	payload := record.AppendPayload(nil, &salt, r)
	leaf := record.Leaf(payload)
	return vector{
		Description: about,
		Record: &fields{
			Index: r.Index, LoggedAt: r.LoggedAt.Format(time.RFC3339Nano), Producer: r.Producer,
			KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex, KeyEvent: hex.EncodeToString(r.KeyEvent),
		},
		Encoded: hex.EncodeToString(r.Append(nil)),
		Salt:    hex.EncodeToString(salt[:]),
		Payload: hex.EncodeToString(payload),
		Leaf:    hex.EncodeToString(leaf[:]),
	}
}

func refused(about, encoded string) vector {
	return vector{Description: about, Encoded: hex.EncodeToString([]byte(encoded)), Error: "not the encoding of a record"}
}

func TestVectors(t *testing.T) {
	cases := vectors()
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

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkVector reads a vector as another implementation would.
func checkVector(t *testing.T, file []byte) {
	t.Helper()
	var v vector
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	r, err := record.Parse(unhex(t, v.Encoded))
	if v.Error != "" {
		if err == nil {
			t.Errorf("parsed as %+v", r)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := fields{
		Index: r.Index, LoggedAt: r.LoggedAt.Format(time.RFC3339Nano), Producer: r.Producer,
		KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex, KeyEvent: hex.EncodeToString(r.KeyEvent),
	}
	if got != *v.Record {
		t.Errorf("read as %+v", got)
	}
	if b := r.Append(nil); hex.EncodeToString(b) != v.Encoded {
		t.Errorf("encoded as %x", b)
	}
	salt, rec, err := record.Open(unhex(t, v.Payload))
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(salt[:]) != v.Salt || hex.EncodeToString(rec) != v.Encoded {
		t.Errorf("opened to %x, %x", salt, rec)
	}
	if leaf := record.Leaf(unhex(t, v.Payload)); hex.EncodeToString(leaf[:]) != v.Leaf {
		t.Errorf("leaf %x", leaf)
	}
}
