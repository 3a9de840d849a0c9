package witness_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

var update = flag.Bool("update", false, "rewrite the vectors from the cases in the tests")

const vectorDir = "../testdata/vectors/witness"

// exchange is a golden vector: what a witness answers to one add-checkpoint request.
type exchange struct {
	Description string `json:"description"`
	// Log is the only log that the witness knows, with all of its keys.
	Log vectorLog `json:"log"`
	// Before are requests that are answered with 200 before, in this order.
	Before []string `json:"before"`
	// Request is the body of the request.
	Request string `json:"request"`
	Status  int    `json:"status"`
	// ContentType is that of the answer, where tlog-witness prescribes it.
	ContentType string `json:"content_type,omitempty"`
	// Body is that of the answer, where tlog-witness prescribes it.
	Body string `json:"body,omitempty"`
	// Cosigned is what the lines of the answer sign, each with a time that is not 0.
	Cosigned *vectorTree `json:"cosigned,omitempty"`
}

type vectorLog struct {
	Origin string   `json:"origin"`
	Keys   []string `json:"vkeys"`
}

type vectorTree struct {
	Size uint64 `json:"size"`
	Root string `json:"root_hex"`
}

// TestVectors replays the exchanges on disk over HTTP.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d vectors, %v; see -update", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var x exchange
			dec := json.NewDecoder(bytes.NewReader(data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&x); err != nil {
				t.Fatal(err)
			}
			x.replay(t)
		})
	}
}

func (x *exchange) replay(t *testing.T) {
	w := newWitness(t, memstore.New())
	e := witness.Log{Origin: x.Log.Origin}
	for _, s := range x.Log.Keys {
		k, err := checkpoint.ParseVerifierKey(s)
		if err != nil {
			t.Fatal(err)
		}
		e.Keys = append(e.Keys, k)
	}
	if err := w.Enroll(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	h := w.Handler()
	for i, body := range x.Before {
		if r := do(h, "POST", "/add-checkpoint", []byte(body)); r.StatusCode != http.StatusOK {
			t.Fatalf("request %d before: %d %s", i+1, r.StatusCode, readBody(t, r))
		}
	}
	r := do(h, "POST", "/add-checkpoint", []byte(x.Request))
	body := readBody(t, r)
	if r.StatusCode != x.Status {
		t.Fatalf("the answer is %d %s, want %d", r.StatusCode, body, x.Status)
	}
	if x.ContentType != "" && r.Header.Get("Content-Type") != x.ContentType {
		t.Errorf("the content type is %q, want %q", r.Header.Get("Content-Type"), x.ContentType)
	}
	if x.Body != "" && body != x.Body {
		t.Errorf("the body is %q, want %q", body, x.Body)
	}
	if (x.Cosigned != nil) != (x.Status == http.StatusOK) {
		t.Fatal("a vector says what is cosigned with status 200 alone")
	}
	if x.Cosigned != nil {
		root, err := hex.DecodeString(x.Cosigned.Root)
		if err != nil || len(root) != 32 {
			t.Fatalf("%q is no root hash", x.Cosigned.Root)
		}
		verifyLines(t, []byte(body), checkpoint.Checkpoint{Origin: x.Log.Origin, Size: x.Cosigned.Size, Root: [32]byte(root)})
	}
}

// writeVectors makes the exchanges of TestStatus, and the good ones. Signatures with
// ML-DSA-44 differ each time.
func writeVectors(t *testing.T) {
	t.Helper()
	l := newLog(t, testOrigin, testOrigin)
	foreign := newLog(t, "go.sum database tree", "sum.test")
	first := string(l.request(t, 0, 8))
	all := make(map[string]exchange)
	good := func(name string, l *testLog, before []string, old, size uint64) {
		root := l.at(size).Root
		all[name] = exchange{Before: before, Log: inVector(l), Request: string(l.request(t, old, size)), Status: 200,
			Cosigned: &vectorTree{size, hex.EncodeToString(root[:])}}
	}
	good("first checkpoint", l, []string{}, 0, 8)
	good("empty tree", l, []string{}, 0, 0)
	good("growth from the empty tree", l, []string{string(l.request(t, 0, 0))}, 0, 8)
	good("growth", l, []string{first}, 8, 300)
	good("same tree again", l, []string{first}, 8, 8)
	good("origin that is no key name", foreign, []string{}, 0, 9)
	for name, c := range statusCases(t, l) {
		x := exchange{Before: []string{first}, Log: inVector(l), Request: string(c.body), Status: c.status}
		if c.status == http.StatusConflict {
			x.ContentType, x.Body = "text/x.tlog.size", "8\n"
		}
		all[name] = x
	}
	for name, x := range all {
		x.Description = name
		all[name] = x
	}
	writeCases(t, vectorDir, all)
}

// writeCases replaces the vectors in a directory, a file for each with a name after its
// description.
func writeCases[V any](t *testing.T, dir string, all map[string]V) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, x := range all {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(x); err != nil {
			t.Fatal(err)
		}
		file := strings.NewReplacer(" ", "-", ",", "").Replace(name) + ".json"
		if err := os.WriteFile(filepath.Join(dir, file), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func inVector(l *testLog) vectorLog {
	v := vectorLog{Origin: l.origin}
	for _, k := range l.keys {
		v.Keys = append(v.Keys, k.VerifierKey().String())
	}
	return v
}
