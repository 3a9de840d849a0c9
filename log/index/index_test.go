package index_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/log/index"
)

// keys is how many keys the records of row take turns on; one in noKey has none.
const (
	keys  = 5
	noKey = 7
)

func eventID(i uint64) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "event %d", i)) }

// entries is the log that the tests make the index of.
type entries struct{}

func (entries) EventID(i uint64) (id [32]byte, known bool, err error) { return eventID(i), true, nil }

func keyID(i uint64) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "key %d", i%keys)) }

// builder makes rows as the log does.
type builder struct {
	size uint64
	seq  map[[32]byte]uint64
}

func newBuilder() *builder { return &builder{seq: make(map[[32]byte]uint64)} }

// root is what the tests take for the root of a tree of n records.
func root(n uint64) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "root %d", n)) }

func (b *builder) rows(n int) ([]index.Row, index.Cursor) {
	rows := make([]index.Row, n)
	for i := range rows {
		rows[i] = index.Row{Index: b.size, Event: eventID(b.size)}
		if b.size%noKey != 0 {
			k := keyID(b.size)
			b.seq[k]++
			rows[i].Key, rows[i].KeySequence = k, b.seq[k]
		}
		b.size++
	}
	return rows, index.Cursor{Size: b.size, Root: root(b.size)}
}

// rewind goes back to a log of n records.
func (b *builder) rewind(n uint64) {
	b.size = n
	clear(b.seq)
	for i, h := range heads(n) {
		b.seq[keyID(uint64(i))] = h.Sequence
	}
}

// heads returns the last record of each key in a log of n records.
func heads(n uint64) (h [keys]index.KeyHead) {
	for i := range n {
		if i%noKey != 0 {
			h[i%keys] = index.KeyHead{Sequence: h[i%keys].Sequence + 1, Index: i}
		}
	}
	return h
}

func (b *builder) apply(t testing.TB, x *index.Index, n int) {
	t.Helper()
	rows, c := b.rows(n)
	if err := x.Apply(rows, c); err != nil {
		t.Fatal(err)
	}
}

// check sees that the index holds exactly the records below its cursor, and the cursor is
// one that was applied.
func (b *builder) check(t testing.TB, x *index.Index) uint64 {
	t.Helper()
	c := x.Cursor()
	if c.Size > b.size || (c.Size > 0 && c.Root != root(c.Size)) || x.Applied() != c.Size {
		t.Fatalf("cursor is %d, %x; applied %d", c.Size, c.Root, x.Applied())
	}
	for i := range b.size {
		id := eventID(i)
		at, ok, err := x.Event(&id, entries{})
		if err != nil || ok != (i < c.Size) || (ok && at != i) {
			t.Fatalf("cursor %d: event %d is at %d, %v, %v", c.Size, i, at, ok, err)
		}
	}
	for i, want := range heads(c.Size) {
		id := keyID(uint64(i))
		h, err := x.Key(&id)
		if err != nil || h != want {
			t.Fatalf("cursor %d: key %d: %+v, %v, want %+v", c.Size, i, h, err, want)
		}
	}
	return c.Size
}

func open(t testing.TB, dir string, opts index.Options) *index.Index {
	t.Helper()
	x, err := index.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func closeIndex(t testing.TB, x *index.Index) {
	t.Helper()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestApplyLookUpReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	b := newBuilder()
	for _, n := range []int{1, 2, 0, 300} {
		x := open(t, dir, index.Options{})
		if got := b.check(t, x); got != b.size {
			t.Fatalf("cursor is %d after a clean close at %d", got, b.size)
		}
		b.apply(t, x, n)
		b.check(t, x)
		closeIndex(t, x)
	}
}

func TestErasedRowsAddNothing(t *testing.T) {
	x := open(t, "index", index.Options{FS: vfs.NewMem()})
	defer closeIndex(t, x)
	row := index.Row{Index: 0, Event: eventID(0), Key: keyID(0), KeySequence: 1, Erased: true}
	if err := x.Apply([]index.Row{row}, index.Cursor{Size: 1, Root: root(1)}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := x.Event(&row.Event, entries{}); ok || err != nil {
		t.Errorf("event of an erased record: %v, %v", ok, err)
	}
	if h, err := x.Key(&row.Key); h != (index.KeyHead{}) || err != nil {
		t.Errorf("key of an erased record: %+v, %v", h, err)
	}
	if x.Cursor().Size != 1 {
		t.Errorf("cursor is %d", x.Cursor().Size)
	}
}

func TestReset(t *testing.T) {
	fsys := vfs.NewMem()
	x := open(t, "index", index.Options{FS: fsys})
	newBuilder().apply(t, x, 100)
	if err := x.Reset(); err != nil {
		t.Fatal(err)
	}
	empty := newBuilder()
	empty.rows(100)
	if got := empty.check(t, x); got != 0 {
		t.Errorf("cursor is %d after a reset", got)
	}
	b := newBuilder()
	b.apply(t, x, 50)
	b.check(t, x)
	closeIndex(t, x)
	x = open(t, "index", index.Options{FS: fsys})
	defer closeIndex(t, x)
	if got := b.check(t, x); got != 50 {
		t.Errorf("cursor is %d after reset and reopening", got)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := open(t, dir, index.Options{})
	b := newBuilder()
	b.apply(t, x, 10)
	if _, err := index.Open(dir, index.Options{}); !errors.Is(err, index.ErrLocked) {
		t.Errorf("second opener: %v, want ErrLocked", err)
	}
	b.check(t, x) // and the first was not emptied
	closeIndex(t, x)
}

func TestOtherFormatIsRebuilt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := open(t, dir, index.Options{})
	b := newBuilder()
	b.apply(t, x, 10)
	closeIndex(t, x)
	if err := index.SetFormat(vfs.Default, dir, "keytrail index 0"); err != nil {
		t.Fatal(err)
	}
	x = open(t, dir, index.Options{})
	defer closeIndex(t, x)
	if got := b.check(t, x); got != 0 {
		t.Errorf("cursor is %d in a directory of another format", got)
	}
}

// TestDamagedDirectoryIsRebuilt damages one kind of file after the other: the index is
// emptied, at once or at the start after it was noticed, or right as far as its cursor
// goes.
func TestDamagedDirectoryIsRebuilt(t *testing.T) {
	damage := map[string]func(b []byte) []byte{
		"emptied": func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"garbage": func(b []byte) []byte { return []byte(strings.Repeat("garbage", 100)) },
		"flipped": func(b []byte) []byte {
			for i := range b {
				b[i] ^= 0x55
			}
			return b
		},
	}
	for _, prefix := range []string{"manifest", "events-", "keys-"} {
		for how, change := range damage {
			t.Run(prefix+" "+how, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "index")
				x := open(t, dir, index.Options{})
				b := newBuilder()
				b.apply(t, x, 100)
				closeIndex(t, x)
				if damageFiles(t, dir, prefix, change) == 0 {
					t.Fatalf("there is no file %s* to damage", prefix)
				}
				x = open(t, dir, index.Options{})
				id, key := eventID(50), keyID(0)
				_, _, err := x.Event(&id, entries{})
				_, keyErr := x.Key(&key)
				if errors.Is(errors.Join(err, keyErr), index.ErrDamaged) {
					// Noticed only now; the next start rebuilds it.
					closeIndex(t, x)
					x = open(t, dir, index.Options{})
				}
				b.check(t, x)
				b = newBuilder()
				if err := x.Reset(); err != nil {
					t.Fatal(err)
				}
				b.apply(t, x, 100)
				closeIndex(t, x)
				x = open(t, dir, index.Options{})
				defer closeIndex(t, x)
				if got := b.check(t, x); got != 100 {
					t.Errorf("cursor is %d after rebuilding", got)
				}
			})
		}
	}
}

func damageFiles(t *testing.T, dir, prefix string, change func([]byte) []byte) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		n++
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, change(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestPowerLoss cuts the power again and again: whatever was on the disk, the rows reach
// as far as the cursor says, and no further.
func TestPowerLoss(t *testing.T) {
	for _, round := range []int{0, 16, 200} {
		t.Run(fmt.Sprint("round=", round), func(t *testing.T) { testPowerLoss(t, index.Options{RoundRecords: round}) })
	}
}

func testPowerLoss(t *testing.T, opts index.Options) {
	rng := rand.New(rand.NewPCG(1, 2))
	fsys := vfs.NewCrashableMem()
	behind, kept := 0, 0
	for range 30 {
		b := newBuilder()
		opts.FS = fsys
		x := open(t, "index", opts)
		if err := x.Reset(); err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(30) {
			b.apply(t, x, 1+rng.IntN(200)) // enough for rounds to be written and merged
		}
		if rng.IntN(4) == 0 {
			closeIndex(t, x)
			x = open(t, "index", opts)
			b.apply(t, x, 10)
		}
		clone := fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 90}[rng.IntN(3)], RNG: rng})
		closeIndex(t, x)
		fsys = clone
		opts.FS = fsys
		x = open(t, "index", opts)
		if got := b.check(t, x); got < b.size {
			behind++
		} else {
			kept++
		}
		// What is read again from the log goes on from there.
		b.rewind(x.Cursor().Size)
		b.apply(t, x, 300)
		b.check(t, x)
		closeIndex(t, x)
	}
	t.Logf("%d times behind, %d times complete", behind, kept)
	if behind == 0 {
		t.Error("no power loss cost a row: the test does not test")
	}
}

// TestPowerLossWhileResetting cuts the power at any moment of a reset: a cursor without
// its rows would let events in twice.
func TestPowerLossWhileResetting(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 60 {
		fsys := vfs.NewCrashableMem()
		opts := index.Options{FS: fsys, RoundRecords: []int{0, 30}[n%2]}
		x := open(t, "index", opts)
		b := newBuilder()
		for range 20 {
			b.apply(t, x, 25)
		}
		closeIndex(t, x)
		x = open(t, "index", opts)
		var clone *vfs.MemFS
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
			clone = fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		})
		if err := x.Reset(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		closeIndex(t, x)
		x = open(t, "index", index.Options{FS: clone})
		b.check(t, x)
		closeIndex(t, x)
	}
}

func TestLookUpsWhileApplying(t *testing.T) {
	x := open(t, "index", index.Options{FS: vfs.NewMem(), RoundRecords: 20})
	defer closeIndex(t, x)
	b := newBuilder()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				// All below Applied must be there.
				if n := x.Applied(); n > 0 {
					id := eventID(n - 1)
					if at, ok, err := x.Event(&id, entries{}); err != nil || !ok || at != n-1 {
						t.Errorf("event %d of %d: %d, %v, %v", n-1, n, at, ok, err)
						return
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 200 {
		b.apply(t, x, 5)
	}
	close(done)
	wg.Wait()
	b.check(t, x)
}
