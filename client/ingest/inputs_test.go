package ingest_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/ingest"
)

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.json", "a/x.json.gz", "a/audit.log", "a/audit.log.1", "a/audit.log-20260301.gz", "a/.hidden.json", "README.md", "a/digest.json", "c.ndjson"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "b.json"), filepath.Join(dir, "z.json")); err != nil {
		t.Fatal(err)
	}
	skip := func(path string) string {
		if strings.Contains(path, "digest") {
			return "a digest"
		}
		return ""
	}
	list, skipped, err := ingest.Inputs([]string{filepath.Join(dir, "README.md"), ingest.Stdin, dir}, skip)
	if err != nil {
		t.Fatal(err)
	}
	var got, gotSkipped []string
	for _, in := range list {
		got = append(got, strings.TrimPrefix(in.Name, dir+"/"))
	}
	for _, s := range skipped {
		gotSkipped = append(gotSkipped, strings.TrimPrefix(s.Name, dir+"/"))
	}
	want := []string{"README.md", "-", "a/audit.log", "a/audit.log-20260301.gz", "a/audit.log.1", "a/x.json.gz", "b.json", "c.ndjson"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inputs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"README.md", "a/.hidden.json", "a/digest.json", "z.json"}, gotSkipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	if n := ingest.TotalSize(list); n != -1 {
		t.Errorf("total size with standard input is %d, want -1", n)
	}
	if n := ingest.TotalSize(list[2:]); n != 30 {
		t.Errorf("total size %d, want 30", n)
	}
	if _, _, err := ingest.Inputs([]string{filepath.Join(dir, "none")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestOpenGzipCountsStoredBytes(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	plain := strings.Repeat("zeros ", 100000)
	if _, err := io.WriteString(w, plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	stored, total := z.Len(), 0
	r, err := ingest.Input{Name: ingest.Stdin}.Open(&z, func(n int) { total += n })
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != plain || total != stored {
		t.Errorf("read %d bytes and counted %d, want %d and %d: %v", len(got), total, len(plain), stored, err)
	}
}

func TestRejectFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rejects.ndjson")
	none := ingest.NewRejectFile(name)
	if err := none.Close(); err != nil || none.Path() != "" {
		t.Errorf("a file without rejects: %q, %v", none.Path(), err)
	}
	for i, want := range []string{"rejects.ndjson", "rejects-2.ndjson"} {
		f := ingest.NewRejectFile(name)
		if err := f.Write(ingest.Reject{File: "f", Line: i, Reason: "r", Raw: []byte("\xff<")}); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(f.Path()) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("got %s with mode %v, want %s with 0600", f.Path(), info.Mode(), want)
		}
		data, err := os.ReadFile(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{"file":"f","line":%d,"reason":"r","raw_base64":"/zw="}`+"\n", i); string(data) != want {
			t.Errorf("got %s, want %s", data, want)
		}
	}
}
