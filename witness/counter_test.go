package witness_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness"
)

// TestStoreWentBack restores an older copy of the store's directory, as from a backup.
func TestStoreWentBack(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	base := t.TempDir()
	dir, backup := filepath.Join(base, "store"), filepath.Join(base, "backup")
	s, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWitness(t, s, l)
	w.add(t, l.request(t, 0, 5))
	stop := func() {
		t.Helper()
		if err := errors.Join(w.Close(), w.store.Close()); err != nil {
			t.Fatal(err)
		}
	}
	start := func() error {
		t.Helper()
		if w.store, err = pebblestore.Open(dir, pebblestore.Options{}); err != nil {
			t.Fatal(err)
		}
		return w.tryOpen(t)
	}
	stop()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	w.add(t, l.request(t, 5, 9))
	newest, _ := w.Checkpoint(hash(l.origin))
	stop()
	if err := errors.Join(os.RemoveAll(dir), os.Rename(backup, dir)); err != nil {
		t.Fatal(err)
	}
	if err := start(); !errors.Is(err, witness.ErrWentBack) {
		t.Fatalf("opening an older store: %v, want ErrWentBack", err)
	}
	// The way out: the newest cosigned checkpoint, as the log publishes it.
	if err := witness.Adopt(context.Background(), w.config(t), w.counter(), newest); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	if s := w.Logs()[0]; s.Size != 9 || s.Root != l.at(9).Root {
		t.Errorf("after adopting the state is %+v", s)
	}
	w.add(t, l.request(t, 9, 10))
}

// TestStoreLost opens the counter file with a store that is empty, and with one of another
// witness; and a store without the file.
func TestStoreLost(t *testing.T) {
	w := inMemory(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	good := w.store
	w.store = memstore.New()
	if err := w.tryOpen(t); !errors.Is(err, witness.ErrWentBack) {
		t.Errorf("an empty store: %v, want ErrWentBack", err)
	}
	if err := witness.Create(context.Background(), w.store, filepath.Join(t.TempDir(), "counter")); err != nil {
		t.Fatal(err)
	}
	if err := w.tryOpen(t); !errors.Is(err, witness.ErrWentBack) {
		t.Errorf("another witness's store: %v, want ErrWentBack", err)
	}
	w.store = good
	if err := os.Remove(w.counter()); err != nil {
		t.Fatal(err)
	}
	if err := w.tryOpen(t); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no counter file: %v, want fs.ErrNotExist", err)
	}
}

// TestOwnCosignatureProvesLoss sets store and counter back together, which nothing local
// shows. The log then sends a checkpoint with the lost cosignature.
func TestOwnCosignatureProvesLoss(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 5))
	lost := cosignedAt(t, l, l.at(9), uint64(time.Now().Unix()))
	if _, err := w.AddCheckpoint(context.Background(), l.bundle(t, 5, 9, lost)); !errors.Is(err, witness.ErrStopped) || !errors.Is(err, witness.ErrWentBack) {
		t.Errorf("a checkpoint that this witness cosigned and forgot: %v, want ErrStopped and ErrWentBack", err)
	}
	if _, err := w.AddCheckpoint(context.Background(), l.request(t, 5, 6)); !errors.Is(err, witness.ErrStopped) {
		t.Errorf("afterwards: %v, want ErrStopped", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.tryOpen(t); !errors.Is(err, witness.ErrWentBack) {
		t.Errorf("starting again: %v, want ErrWentBack", err)
	}
	if err := witness.Adopt(context.Background(), w.config(t), w.counter(), lost); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	w.add(t, l.request(t, 9, 12))
}

// TestForgedOwnCosignature ignores a line that only claims to be the witness's own.
func TestForgedOwnCosignature(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 5))
	other := cosignedAt(t, l, l.at(8), 1700000000)
	note := append(l.sign(t, l.at(9)), other[len(l.sign(t, l.at(8))):]...)
	verifyLines(t, w.add(t, l.bundle(t, 5, 9, note)), l.at(9))
	if got, _ := w.Checkpoint(hash(l.origin)); len(got) >= len(note)+len(other) {
		t.Error("the forged line is kept")
	}
}

// TestCounterFollows writes the counter file within its delay, without a request.
func TestCounterFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, testOrigin, testOrigin)
		w := inMemory(t, l)
		w.add(t, l.request(t, 0, 5))
		before, err := os.ReadFile(w.counter())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(witness.CounterDelay + time.Millisecond)
		synctest.Wait()
		after, err := os.ReadFile(w.counter())
		if err != nil || string(after) == string(before) {
			t.Errorf("after its delay the counter file holds %q, %v, as before", after, err)
		}
	})
}

func TestDamagedCounter(t *testing.T) {
	w := inMemory(t)
	b, err := os.ReadFile(w.counter())
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []string{"", string(b[:len(b)-1]), string(b) + "\n", "x" + string(b), string(b[:len(b)-2]) + "01\n"} {
		path := filepath.Join(t.TempDir(), "counter")
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := witness.OpenCounter(path); err == nil {
			t.Errorf("the counter file %q is read", damaged)
		}
	}
}

// TestDamagedState changes what is stored: a witness does not go on from what it did not
// cosign.
func TestDamagedState(t *testing.T) {
	ctx := context.Background()
	l, other := newLog(t, testOrigin, testOrigin), newLog(t, "log.test/two", "log.test/two")
	cellOf := func(l *testLog) string { return "log/" + hash(l.origin) }
	for name, damage := range map[string]func(cell, others []byte) []byte{
		"another size":    func(cell, _ []byte) []byte { return bytes.Replace(cell, []byte(`\n5\n`), []byte(`\n6\n`), 1) },
		"another log's":   func(_, others []byte) []byte { return others },
		"cut off":         func(cell, _ []byte) []byte { return cell[:len(cell)-2] },
		"something after": func(cell, _ []byte) []byte { return append(cell, '{') },
		"other format":    func(cell, _ []byte) []byte { return bytes.Replace(cell, []byte("log/v1"), []byte("log/v2"), 1) },
		"no cosignature": func(cell, _ []byte) []byte {
			return bytes.ReplaceAll(cell, []byte("— witness.test/w1 "), []byte("— witness.test/w2 "))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := inMemory(t, l, other)
			w.add(t, l.request(t, 0, 5))
			w.add(t, other.request(t, 0, 5))
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			cell, err := w.store.Cell(ctx, cellOf(l))
			if err != nil {
				t.Fatal(err)
			}
			others, err := w.store.Cell(ctx, cellOf(other))
			if err != nil {
				t.Fatal(err)
			}
			bad := damage(bytes.Clone(cell), others)
			if bytes.Equal(bad, cell) {
				t.Fatal("nothing was damaged")
			}
			if err := w.store.SwapCell(ctx, cellOf(l), cell, bad); err != nil {
				t.Fatal(err)
			}
			if err := w.tryOpen(t); !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("opening: %v, want storage.ErrCorrupt", err)
			}
		})
	}
}
