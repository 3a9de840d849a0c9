package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// listed is a log whose events have the ids of a list; those in erased are not known.
type listed struct {
	ids    [][32]byte
	erased map[uint64]bool
}

func (l *listed) EventID(i uint64) (id [32]byte, known bool, err error) {
	return l.ids[i], !l.erased[i], nil
}

// apply adds the events from at on, step at a time, about keys that begin as they do.
func (l *listed) apply(t *testing.T, x *index.Index, at, step int) {
	t.Helper()
	for ; at < len(l.ids); at += step {
		var rows []index.Row
		for i := at; i < min(at+step, len(l.ids)); i++ {
			rows = append(rows, index.Row{Index: uint64(i), Event: l.ids[i], Key: l.key(i), KeySequence: uint64(i + 1)})
		}
		if err := x.Apply(rows, index.Cursor{Size: uint64(at + len(rows))}); err != nil {
			t.Fatal(err)
		}
	}
}

// key is the key of an event: some have several.
func (l *listed) key(i int) [32]byte {
	id := l.ids[i-i%3]
	id[31] ^= 1
	return id
}

func (l *listed) check(t *testing.T, x *index.Index) {
	t.Helper()
	for i, id := range l.ids {
		if at, ok, err := x.Event(&id, l); err != nil || !ok || at != uint64(i) {
			t.Fatalf("event %d, %x: %d, %v, %v", i, id, at, ok, err)
		}
		id[30] ^= 1
		if at, ok, err := x.Event(&id, l); ok || err != nil {
			t.Fatalf("event that only begins as %d, %x: %d, %v, %v", i, id, at, ok, err)
		}
		key := l.key(i)
		last := min(i-i%3+2, len(l.ids)-1)
		if h, err := x.Key(&key); err != nil || h != (index.KeyHead{Sequence: uint64(last + 1), Index: uint64(last)}) {
			t.Fatalf("key of event %d: %+v, %v; want %d", i, h, err, last)
		}
		key[30] ^= 1
		if h, err := x.Key(&key); err != nil || h != (index.KeyHead{}) {
			t.Fatalf("key that only begins as that of %d: %+v, %v", i, h, err)
		}
	}
}

// TestIdsThatBeginAlike gives the index ids of which many share the bytes that it keeps,
// and ids that are not spread at all: it must tell them apart in memory, on the disk, and
// after merging.
func TestIdsThatBeginAlike(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	random := func() (id [32]byte) {
		for i := range 4 {
			binary.BigEndian.PutUint64(id[8*i:], rng.Uint64())
		}
		return id
	}
	one := random()
	for name, make := range map[string]func(i int) [32]byte{
		"random": func(int) [32]byte { return random() },
		"half the same": func(i int) [32]byte {
			if i%6 < 3 {
				return random()
			}
			id := one
			binary.BigEndian.PutUint64(id[20:], uint64(i))
			return id
		},
		"all the same": func(i int) [32]byte {
			id := one
			binary.BigEndian.PutUint64(id[20:], uint64(i))
			return id
		},
		"counted": func(i int) [32]byte {
			var id [32]byte
			binary.BigEndian.PutUint64(id[:], uint64(i))
			return id
		},
		"at the ends": func(i int) (id [32]byte) {
			if i%2 == 0 {
				id = [32]byte([]byte(strings.Repeat("\xff", 32)))
			}
			binary.BigEndian.PutUint64(id[8:], uint64(i))
			return id
		},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := vfs.NewMem()
			for _, n := range []int{2, 100, 1000} {
				l := &listed{}
				for i := range n {
					l.ids = append(l.ids, make(i))
				}
				dir := fmt.Sprint("index", n)
				x := open(t, dir, index.Options{FS: fsys})
				l.apply(t, x, 0, 100)
				l.check(t, x) // in memory
				closeIndex(t, x)
				x = open(t, dir, index.Options{FS: fsys})
				l.check(t, x) // in one run
				if err := x.Reset(); err != nil {
					t.Fatal(err)
				}
				l.apply(t, x, 0, 1)
				closeIndex(t, x)
				dir += " merged"
				x = open(t, dir, index.Options{FS: fsys, RoundRecords: 7})
				l.apply(t, x, 0, 3)
				l.check(t, x) // in some runs
				closeIndex(t, x)
				x = open(t, dir, index.Options{FS: fsys, RoundRecords: 7})
				l.check(t, x)
				if events, keys := x.Runs(); n == 1000 && (events > 30 || keys > 30) {
					t.Errorf("%d and %d runs of %d events: nothing was merged", events, keys, n)
				}
				closeIndex(t, x)
			}
		})
	}
}

// TestErasedEventKeepsItsPlace: of an erased entry nothing says that it is another event.
func TestErasedEventKeepsItsPlace(t *testing.T) {
	x := open(t, "index", index.Options{FS: vfs.NewMem(), RoundRecords: 2})
	defer closeIndex(t, x)
	l := &listed{erased: map[uint64]bool{1: true}}
	for i := range 20 {
		l.ids = append(l.ids, eventID(uint64(i)))
	}
	l.apply(t, x, 0, 1)
	id := eventID(1)
	if at, ok, err := x.Event(&id, l); err != nil || !ok || at != 1 {
		t.Errorf("event of an erased entry: %d, %v, %v", at, ok, err)
	}
}

// TestDamageWhileMerging flips a bit in one run before it is merged: no lookup is answered
// any more, and the next start is empty.
func TestDamageWhileMerging(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	opts := index.Options{RoundRecords: 10}
	x := open(t, dir, opts)
	b := newBuilder()
	for range 4 {
		b.apply(t, x, 10)
	}
	closeIndex(t, x)
	runs, err := filepath.Glob(filepath.Join(dir, "events-*"))
	if err != nil || len(runs) != 4 {
		t.Fatalf("runs %v, %v", runs, err)
	}
	page, err := os.ReadFile(runs[2])
	if err != nil {
		t.Fatal(err)
	}
	page[50] ^= 4
	if err := os.WriteFile(runs[2], page, 0o600); err != nil {
		t.Fatal(err)
	}
	x = open(t, dir, opts)
	for range 1000 {
		rows, c := b.rows(10)
		if err = x.Apply(rows, c); err != nil {
			break
		}
	}
	if !errors.Is(err, index.ErrDamaged) {
		t.Errorf("applied to damaged files: %v", err)
	}
	id := eventID(b.size + 1)
	if _, _, err := x.Event(&id, entries{}); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("looked up in damaged files: %v", err)
	}
	_ = x.Close()
	x = open(t, dir, opts)
	defer closeIndex(t, x)
	b.rewind(0)
	if b.check(t, x); x.Cursor().Size != 0 {
		t.Errorf("cursor is %d", x.Cursor().Size)
	}
}

// TestPowerLossAtEverySync cuts the power before and after each sync of a life of the index:
// what is left can be read, so that nothing needs to be rebuilt, and reaches at least as far
// as what was closed.
func TestPowerLossAtEverySync(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	crashes := rand.New(rand.NewPCG(10, 11)) // used by one sync at a time
	fsys := storagetest.NewSyncFS()
	opts := index.Options{FS: fsys, RoundRecords: 8}
	b := newBuilder()
	x := open(t, "index", opts)
	b.apply(t, x, 20)
	closeIndex(t, x)
	x = open(t, "index", opts)
	var moments []*vfs.MemFS
	fsys.Around(func() {
		unsynced := []int{0, 50, 100}[crashes.IntN(3)]
		moments = append(moments, fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: crashes}))
	})
	for range 40 {
		b.apply(t, x, 1+rng.IntN(12))
	}
	closeIndex(t, x)
	t.Logf("%d moments", len(moments))
	for _, m := range moments {
		var messages bytes.Buffer
		y := open(t, "index", index.Options{FS: m, RoundRecords: 8, Logger: slog.New(slog.NewTextHandler(&messages, nil))})
		if got := b.check(t, y); got < 20 {
			t.Errorf("cursor is %d", got)
		}
		closeIndex(t, y)
		if messages.Len() > 0 {
			t.Errorf("after a power loss: %s", messages.String())
		}
	}
}

// TestFailedWrites lets each operation on the file system fail in turn: what Apply and
// Close do not report is there at the next start, and nothing that was not applied.
func TestFailedWrites(t *testing.T) {
	failures, step := 0, int32(1)
	if testing.Short() {
		step = 7
	}
	for n := int32(1); ; n += step {
		mem := vfs.NewMem()
		opts := index.Options{FS: mem, RoundRecords: 4}
		x := open(t, "index", opts)
		b := newBuilder()
		b.apply(t, x, 10)
		closeIndex(t, x)

		var done atomic.Int32
		bad := opts
		bad.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if done.Add(1) == n {
				return errorfs.ErrInjected
			}
			return nil
		}))
		x, err := index.Open("index", bad)
		if err == nil {
			b.rewind(x.Cursor().Size)
			for err == nil && b.size < 60 {
				rows, c := b.rows(3)
				err = x.Apply(rows, c)
			}
			err = errors.Join(err, x.Close())
		}
		if done.Load() < n {
			if n < 100 {
				t.Fatalf("only %d operations", n)
			}
			break
		}
		x = open(t, "index", opts)
		got := b.check(t, x)
		if err != nil {
			failures++
		} else if got != b.size && got != 0 {
			t.Errorf("operation %d failed and nobody was told: %d of %d records", n, got, b.size)
		}
		closeIndex(t, x)
	}
	t.Logf("%d failures reported", failures)
	if failures == 0 {
		t.Error("no failure was reported")
	}
}

// FuzzManifest: no bytes make the parser panic; what it reads is what is written.
func FuzzManifest(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "index")
	x := open(f, dir, index.Options{RoundRecords: 3})
	b := newBuilder()
	for range 4 {
		b.apply(f, x, 3)
	}
	closeIndex(f, x)
	seed, err := os.ReadFile(filepath.Join(dir, "manifest"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := index.ParseManifest(b)
		if err == nil && string(again) != string(b) {
			t.Fatalf("%x is read as %x", b, again)
		}
	})
}
