package pebblestore_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

type readPayloads = func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error

// payloadsOf returns copies of what is read from start to end.
func payloadsOf(t *testing.T, read readPayloads, start, end uint64) (got [][]byte) {
	t.Helper()
	err := read(t.Context(), start, end, func(index uint64, payload []byte) error {
		if want := start + uint64(len(got)); index != want {
			t.Fatalf("entry %d comes where %d belongs", index, want)
		}
		got = append(got, bytes.Clone(payload))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// samePayloads holds that a store, read in ranges of all sizes, gives the payloads that
// Pebble's iterators give.
func samePayloads(t *testing.T, s *pebblestore.Store, size uint64) {
	t.Helper()
	want := payloadsOf(t, s.PebblePayloads, 0, size)
	r := rng(4)
	ranges := [][2]uint64{{0, size}, {size - 1, size}, {0, 0}, {size - 300, size}, {256, 512}}
	for range 60 {
		start := r.Uint64N(size)
		ranges = append(ranges, [2]uint64{start, start + r.Uint64N(size-start+1)})
	}
	for _, at := range ranges {
		got := payloadsOf(t, s.Payloads, at[0], at[1])
		if uint64(len(got)) != at[1]-at[0] {
			t.Fatalf("%d payloads from %d to %d", len(got), at[0], at[1])
		}
		for i, b := range got {
			if w := want[at[0]+uint64(i)]; !bytes.Equal(b, w) || (b == nil) != (w == nil) {
				t.Fatalf("payload %d has %d bytes, want %d", at[0]+uint64(i), len(b), len(w))
			}
		}
	}
}

// manySizes fills a store: batches of 1 to 700 entries of 0 to 3,000 bytes, a few larger than
// a row.
func manySizes(t *testing.T, s storage.Store, b *storagetest.Builder, batches int) {
	t.Helper()
	r := rng(3)
	for range batches {
		entries := make([]storage.Entry, 1+r.IntN(700))
		for i := range entries {
			payload := make([]byte, r.IntN(40)*r.IntN(75))
			if r.IntN(500) == 0 {
				payload = make([]byte, 40<<10)
			}
			for j := range payload {
				payload[j] = byte(r.IntN(50))
			}
			entries[i] = storage.Entry{Leaf: []byte{1}, Payload: payload}
		}
		if err := s.Commit(t.Context(), b.BatchOf(t, entries)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStraight reads a store that was closed straight from its tables, some of whose payloads
// are erased, from several goroutines.
func TestStraight(t *testing.T) {
	mem := vfs.NewMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", small(mem))
	manySizes(t, s, b, 30)
	closeStore(t, s)
	readOnly := small(mem)
	readOnly.ReadOnly = true
	s = open(t, "store", readOnly)
	head, _ := s.Head(t.Context())
	if !s.Straight() {
		t.Error("a store that was closed is not read straight")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { samePayloads(t, s, head.Size) })
	}
	wg.Wait()
	stop := errors.New("enough")
	if err := s.Payloads(t.Context(), 0, head.Size, func(uint64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error came back as %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Payloads(ctx, 0, head.Size, func(uint64, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled reading ends with %v", err)
	}
	closeStore(t, s)

	s = open(t, "store", small(mem))
	if s.Straight() {
		t.Error("a store that is written to is read straight")
	}
	if err := s.ErasePayloads(t.Context(), []uint64{0, 255, 256, 300, 301, 2000, head.Size - 1}); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, "store", readOnly)
	t.Logf("after erasing, read straight: %v", s.Straight())
	samePayloads(t, s, head.Size)
	closeStore(t, s)
}

// TestStraightNeedsTables opens stores of which more counts than what one table of payloads
// says: logs that no table holds yet, and a row that stands in two tables.
func TestStraightNeedsTables(t *testing.T) {
	readOnly := func(fsys vfs.FS) pebblestore.Options {
		o := small(fsys)
		o.ReadOnly = true
		return o
	}
	mem := vfs.NewCrashableMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", small(mem))
	entries := make([]storage.Entry, 600)
	for i := range entries {
		entries[i] = storage.Entry{Leaf: []byte{1}, Payload: []byte("old")}
	}
	if err := s.Commit(t.Context(), b.BatchOf(t, entries)); err != nil {
		t.Fatal(err)
	}
	killed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	closeStore(t, s)

	k := open(t, "store", readOnly(killed))
	if k.Straight() {
		t.Error("a store that was killed is read straight")
	}
	samePayloads(t, k, 600)
	closeStore(t, k)

	s = open(t, "store", small(mem))
	if err := s.ChangeRow('p', 255, slices.Repeat([][]byte{[]byte("new")}, 256)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, "store", readOnly(mem))
	defer closeStore(t, s)
	samePayloads(t, s, 600) // whether Pebble has merged the two or not
	if got := payloadsOf(t, s.Payloads, 0, 600); string(got[255]) != "new" || string(got[256]) != "old" {
		t.Errorf("payloads 255 and 256 are %q and %q", got[255], got[256])
	}
	for what, change := range map[string]func(t []pebble.SSTableInfo) []pebble.SSTableInfo{
		"tables that overlap":              func(t []pebble.SSTableInfo) []pebble.SSTableInfo { return append(t, t...) },
		"a part of a table":                func(t []pebble.SSTableInfo) []pebble.SSTableInfo { t[len(t)-1].Virtual = true; return t },
		"a table of leaves and payloads":   func(t []pebble.SSTableInfo) []pebble.SSTableInfo { t[len(t)-1].Smallest.UserKey[0] = 'l'; return t },
		"a table that ends with a removal": func(t []pebble.SSTableInfo) []pebble.SSTableInfo { t[len(t)-1].Largest.Trailer = 0; return t },
	} {
		if s.StraightOver(change) {
			t.Errorf("%s: is read straight", what)
		}
	}
	if !s.StraightOver(func(t []pebble.SSTableInfo) []pebble.SSTableInfo { return t }) {
		t.Error("tables that do not overlap are not read straight")
	}
}

// TestStraightDamage flips bits in the tables of payloads: a reading gives what was written
// or ErrCorrupt.
func TestStraightDamage(t *testing.T) {
	mem := vfs.NewMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", small(mem))
	manySizes(t, s, b, 1)
	head, _ := s.Head(t.Context())
	want := payloadsOf(t, s.Payloads, 0, head.Size)
	closeStore(t, s)
	r := rng(5)
	found := 0
	for _, name := range files(t, mem, "store") {
		if !strings.HasSuffix(name, ".sst") || !strings.Contains(name, "tree") {
			continue
		}
		content := readFile(t, mem, name)
		for range 20 {
			bit := r.IntN(8 * len(content))
			content[bit/8] ^= 1 << (bit % 8)
			readOnly := small(mem)
			readOnly.ReadOnly = true
			s, err := pebblestore.Open("store", readOnly)
			if err == nil {
				err = s.Payloads(t.Context(), 0, head.Size, func(i uint64, payload []byte) error {
					if !bytes.Equal(payload, want[i]) {
						t.Errorf("bit %d of %s: payload %d is another", bit, name, i)
					}
					return nil
				})
				closeStore(t, s)
			}
			content[bit/8] ^= 1 << (bit % 8)
			if err != nil {
				found++
				if !errors.Is(err, storage.ErrCorrupt) {
					t.Errorf("bit %d of %s: %v", bit, name, err)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d flips were found", found)
	}
}
