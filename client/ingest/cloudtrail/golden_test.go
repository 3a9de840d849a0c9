package cloudtrail_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/proto/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testdata reads one of our own files.
func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), "testdata", "audit", "cloudtrail", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// lines prints events as JSON, one a line, in one form.
func lines(t testing.TB, items []ingest.Item) []byte {
	t.Helper()
	var out []byte
	for _, it := range items {
		var err error
		if out, err = event.AppendJSON(out, it.Event); err != nil {
			t.Fatal(err)
		}
		out = append(out, '\n')
	}
	return out
}

func TestGolden(t *testing.T) {
	s := read(t, tenant, testdata(t, "events.ndjson"))
	if len(s.rejects) > 0 || len(s.skips) > 0 {
		t.Fatalf("rejects %v, skips %v", s.rejects, s.skips)
	}
	got := lines(t, s.items)
	const name = "events.golden.ndjson"
	if *update {
		path := filepath.Join(root(t), "testdata", "audit", "cloudtrail", name)
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := bytes.Split(testdata(t, name), []byte("\n"))
	if diff := cmp.Diff(asStrings(want), asStrings(bytes.Split(got, []byte("\n")))); diff != "" {
		t.Errorf("events differ from %s (-want +got):\n%s", name, diff)
	}
}

func asStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}
