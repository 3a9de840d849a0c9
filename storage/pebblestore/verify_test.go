package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// TestVerifyTables flips bits in every table of both databases, old blocks among them that no
// row is read from: opening, reading all entries and VerifyTables together find each flip,
// and VerifyTables names the file.
func TestVerifyTables(t *testing.T) {
	mem := vfs.NewMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", small(mem))
	var old []byte
	for i := range 2 { // fewer flushes than a merge needs: old versions stay
		entries := make([]storage.Entry, 300*storage.TileWidth) // more than a block of nodes
		for i := range entries {
			entries[i] = storage.Entry{Leaf: []byte{1}, Payload: []byte{2}}
		}
		if err := s.Commit(t.Context(), b.BatchOf(t, entries)); err != nil {
			t.Fatal(err)
		}
		next := fmt.Append(nil, i, strings.Repeat("x", 20<<10))
		if err := s.SwapCell(t.Context(), "cell", old, next); err != nil {
			t.Fatal(err)
		}
		old = next
		closeStore(t, s)
		s = open(t, "store", small(mem))
	}
	closeStore(t, s)
	if found, err := verifyTables(t, mem); err != nil || len(found) > 0 {
		t.Fatalf("an undamaged store: %q, %v", found, err)
	}
	perFile := 40
	if os.Getenv("KEYTRAIL_LONG") != "" {
		perFile = 1000
	}
	r := rng(2)
	tables, named := map[string]int{}, map[string]int{}
	for _, name := range files(t, mem, "store") {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		database := strings.Split(name, "/")[2]
		tables[database]++
		content := readFile(t, mem, name)
		for n := range perFile {
			bit := r.IntN(8 * len(content))
			if n%4 == 0 {
				bit = 8*len(content) - 1 - r.IntN(8*min(len(content), 512))
			}
			what := fmt.Sprintf("bit %d of %s (%d bytes)", bit, name, len(content))
			content[bit/8] ^= 1 << (bit % 8)
			found, err := verifyTables(t, mem)
			content[bit/8] ^= 1 << (bit % 8)
			switch {
			case err != nil && !errors.Is(err, storage.ErrCorrupt):
				t.Errorf("%s: %v", what, err)
			case err == nil && len(found) == 0:
				t.Errorf("%s: is not found", what)
			case len(found) > 1 || len(found) == 1 && !strings.HasPrefix(found[0], name+": "):
				t.Errorf("%s: VerifyTables found %q", what, found)
			}
			if err == nil {
				named[database]++
			}
		}
	}
	t.Logf("%v tables, flips that only VerifyTables finds: %v", tables, named)
	if tables["tree"] < 2 || tables["cells"] < 2 || named["cells"] == 0 {
		t.Error("too little was tried")
	}
}

// verifyTables opens a store and reads all entries, which may show the damage, and returns
// what VerifyTables finds.
func verifyTables(t *testing.T, mem *vfs.MemFS) (found []string, err error) {
	t.Helper()
	s, err := pebblestore.Open("store", pebblestore.Options{FS: mem, ReadOnly: true, CacheBytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	verifyErr := s.VerifyTables(t.Context(), func(file, what string) { found = append(found, file+": "+what) })
	if verifyErr != nil {
		t.Fatal(verifyErr)
	}
	for _, read := range []func(context.Context, uint64, uint64, func(uint64, []byte) error) error{s.Leaves, s.Payloads} {
		if err := read(t.Context(), 0, head.Size, func(uint64, []byte) error { return nil }); err != nil {
			return found, err
		}
	}
	return found, nil
}
