package vectors_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the vectors from the cases in the tests")

// dir is where the vectors of a format are.
func dir(format string) string {
	return filepath.Join("..", "..", "..", "testdata", "vectors", format)
}

// run compares the vectors of a format on disk with the cases here, so that neither can
// change alone, and checks each as it was read from disk.
func run[T any](t *testing.T, format string, cases map[string]T, check func(t *testing.T, v T)) {
	t.Helper()
	if *update {
		write(t, format, cases)
	}
	files, err := filepath.Glob(filepath.Join(dir(format), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(cases) {
		t.Errorf("%d vectors on disk, %d cases here; see go test -run Vectors -update", len(files), len(cases))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(format+"/"+name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v T
			dec := json.NewDecoder(bytes.NewReader(data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&v); err != nil {
				t.Fatal(err)
			}
			want, ok := cases[name]
			if !ok {
				t.Fatal("no such case here")
			}
			if diff := cmp.Diff(want, v); diff != "" {
				t.Errorf("the vector is not the case here; see go test -run Vectors -update: %s", diff)
			}
			check(t, v)
		})
	}
}

func write[T any](t *testing.T, format string, cases map[string]T) {
	t.Helper()
	if err := os.RemoveAll(dir(format)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir(format), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, v := range cases {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir(format), name+".json"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fromHex reads the hashes of a vector.
func fromHex(t *testing.T, digits []string) [][32]byte {
	t.Helper()
	var out [][32]byte
	for _, d := range digits {
		b, err := hex.DecodeString(d)
		if err != nil || len(b) != 32 {
			t.Fatalf("%q is no hash", d)
		}
		out = append(out, [32]byte(b))
	}
	return out
}
