package ledger_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/log/ledger"
)

const origin = "log.test/keytrail"

// state is a tree of n entries, with a root of its own.
func state(n uint64) ledger.State {
	return ledger.State{Size: n, Root: [32]byte{byte(n), 1}}
}

// create makes a ledger in a new directory.
func create(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger")
	if err := ledger.Create(path, origin); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(path, origin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func advance(t testing.TB, l *ledger.Ledger, sizes ...uint64) {
	t.Helper()
	for _, n := range sizes {
		if err := l.Advance(state(n)); err != nil {
			t.Fatal(err)
		}
		if l.State() != state(n) {
			t.Fatalf("state is %v after advancing to %v", l.State(), state(n))
		}
	}
}

// advanced makes a ledger that has signed trees of the given sizes, and closes it.
func advanced(t testing.TB, sizes ...uint64) string {
	t.Helper()
	path := create(t)
	l := open(t, path)
	advance(t, l, sizes...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCreate(t *testing.T) {
	path := create(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Size() != 2*ledger.SlotSize {
		t.Errorf("made with mode %v and %d bytes", info.Mode(), info.Size())
	}
	if got := open(t, path).State(); got != ledger.EmptyState() {
		t.Errorf("state of a new ledger is %v", got)
	}
}

func TestCreateRefusesExisting(t *testing.T) {
	path := advanced(t, 7)
	if err := ledger.Create(path, origin); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating again: %v, want fs.ErrExist", err)
	}
	if got := open(t, path).State(); got != state(7) {
		t.Errorf("state is %v after a refused creation", got)
	}
}

func TestOpenNeverMakesALedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	_, err := ledger.Open(path, origin)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want fs.ErrNotExist", err)
	}
	for _, want := range []string{path, "second history", "ledger adopt"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestOpenRefusesReadableByOthers(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o601} {
		path := advanced(t, 7)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Open(path, origin); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("mode %v: %v, want fs.ErrPermission", mode, err)
		}
	}
}

func TestOpenRefusesSecond(t *testing.T) {
	path := create(t)
	l := open(t, path)
	if _, err := ledger.Open(path, origin); !errors.Is(err, ledger.ErrLocked) {
		t.Errorf("second opener: %v, want ErrLocked", err)
	}
	advance(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := open(t, path).State(); got != state(3) {
		t.Errorf("state is %v", got)
	}
}

func TestOpenRefusesOtherOrigin(t *testing.T) {
	path := advanced(t, 7)
	if _, err := ledger.Open(path, origin+"2"); !errors.Is(err, ledger.ErrOrigin) {
		t.Errorf("got %v, want ErrOrigin", err)
	}
}

func TestAdvanceIsKept(t *testing.T) {
	path := create(t)
	for n := uint64(1); n < 20; n++ {
		l := open(t, path)
		if n > 1 && l.State() != state(n-1) {
			t.Fatalf("state is %v, want %v", l.State(), state(n-1))
		}
		advance(t, l, n)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdvanceRefusesToGoBack(t *testing.T) {
	path := create(t)
	l := open(t, path)
	advance(t, l, 5, 9)
	before := read(t, path)
	fork := state(9)
	fork.Root[31] ^= 1
	for _, st := range []ledger.State{state(8), state(5), ledger.EmptyState(), fork} {
		err := l.Advance(st)
		if !errors.Is(err, ledger.ErrRegression) {
			t.Errorf("advancing from 9 to %v: %v, want ErrRegression", st, err)
		}
	}
	if err := l.Advance(state(8)); !strings.Contains(err.Error(), "size 9") || !strings.Contains(err.Error(), "size 8") {
		t.Errorf("%q does not name both sizes", err)
	}
	if l.State() != state(9) || !bytes.Equal(read(t, path), before) {
		t.Error("a refused state changed the ledger")
	}
	advance(t, l, 10) // a refusal is no failure
}

func TestSameStateNeedsNoWrite(t *testing.T) {
	path := create(t)
	l := open(t, path)
	advance(t, l, 5)
	before := read(t, path)
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Exchange(readOnly).Close()
	if err := l.Advance(state(5)); err != nil {
		t.Errorf("same state: %v", err)
	}
	if !bytes.Equal(read(t, path), before) {
		t.Error("same state changed the file")
	}
}

func TestFailedWriteRefusesForGood(t *testing.T) {
	path := create(t)
	l := open(t, path)
	advance(t, l, 5)
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	good := l.Exchange(readOnly)
	if err := l.Advance(state(6)); err == nil {
		t.Fatal("advanced without writing")
	}
	l.Exchange(good)
	readOnly.Close()
	for _, st := range []ledger.State{state(5), state(6), state(7)} {
		if err := l.Advance(st); err == nil || !strings.Contains(err.Error(), "earlier failure") {
			t.Errorf("advancing to %v after a failed write: %v", st, err)
		}
	}
	l.Close()
	if l = open(t, path); l.State() != state(5) {
		t.Errorf("state is %v", l.State())
	}
	advance(t, l, 6)
}

// TestFailedSyncRefusesForGood has a file that takes what is written and cannot be synced.
func TestFailedSyncRefusesForGood(t *testing.T) {
	path := create(t)
	l := open(t, path)
	advance(t, l, 5)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	good := l.Exchange(null)
	if err := l.Advance(state(6)); err == nil {
		t.Fatal("advanced without a sync")
	}
	l.Exchange(good)
	if l.State() != state(5) {
		t.Errorf("state after a failed sync is %v", l.State())
	}
	if err := l.Advance(state(6)); err == nil || !strings.Contains(err.Error(), "earlier failure") {
		t.Errorf("advancing after a failed sync: %v", err)
	}
	l.Close()
}

// newer returns where the slot with the largest state begins.
func newer(t testing.TB, b []byte) int {
	t.Helper()
	first, _, ok1 := ledger.ReadSlot(b[:ledger.SlotSize])
	second, _, ok2 := ledger.ReadSlot(b[ledger.SlotSize:])
	if !ok1 || !ok2 {
		t.Fatal("a slot of a good ledger cannot be read")
	}
	if first.Size > second.Size {
		return 0
	}
	return ledger.SlotSize
}

func TestTornSlotCostsTheNewerState(t *testing.T) {
	for _, sizes := range [][]uint64{{5, 9}, {5, 9, 12}} { // either slot is the newer one
		good := read(t, advanced(t, sizes...))
		at := newer(t, good)
		older := state(sizes[len(sizes)-2])
		for _, kept := range []int{0, 1, 16, 24, 31, 64, 300, 480, 511} {
			for _, filler := range []byte{0, 0xff, 'k'} {
				b := bytes.Clone(good)
				for i := at + kept; i < at+ledger.SlotSize; i++ {
					b[i] = filler
				}
				if bytes.Equal(b, good) {
					continue
				}
				path := filepath.Join(t.TempDir(), "ledger")
				write(t, path, b)
				l := open(t, path)
				if l.State() != older {
					t.Fatalf("%d bytes kept, then %#x: state is %v, want %v", kept, filler, l.State(), older)
				}
				advance(t, l, 20, 21)
				l.Close()
				if got := open(t, path).State(); got != state(21) {
					t.Errorf("state is %v after the torn slot was written over", got)
				}
			}
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	path := advanced(t, 5, 9)
	good := read(t, path)
	at := newer(t, good)
	for bit := range ledger.SlotSize * 8 {
		b := bytes.Clone(good)
		b[at+bit/8] ^= 1 << (bit % 8)
		if _, _, ok := ledger.ReadSlot(b[at : at+ledger.SlotSize]); ok {
			t.Fatalf("bit %d flipped: the slot is taken", bit)
		}
	}
}

func TestCutFile(t *testing.T) {
	good := read(t, advanced(t, 5, 9)) // 9 stands in the first slot or the second
	at := newer(t, good)
	for n := range len(good) {
		path := filepath.Join(t.TempDir(), "ledger")
		write(t, path, good[:n])
		l, err := ledger.Open(path, origin)
		if n < ledger.SlotSize {
			if !errors.Is(err, ledger.ErrCorrupt) {
				t.Fatalf("cut to %d bytes: %v, want ErrCorrupt", n, err)
			}
			continue
		}
		want := state(9)
		if at > 0 {
			want = state(5)
		}
		if err != nil || l.State() != want {
			t.Fatalf("cut to %d bytes: %v, want %v", n, err, want)
		}
		l.Close()
	}
}

func TestBothSlotsDamaged(t *testing.T) {
	path := advanced(t, 5, 9)
	b := read(t, path)
	b[30] ^= 1
	b[ledger.SlotSize+30] ^= 1
	write(t, path, b)
	_, err := ledger.Open(path, origin)
	if !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "ledger adopt") {
		t.Errorf("got %v, want ErrCorrupt and how to recover", err)
	}
}

func FuzzParseSlot(f *testing.F) {
	b := read(f, advanced(f, 5, 9))
	f.Add(b[:ledger.SlotSize])
	f.Add(b[ledger.SlotSize:])
	f.Add(b[:ledger.SlotSize-1])
	f.Add(b)
	f.Add(make([]byte, ledger.SlotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, again, ok := ledger.ReadSlot(b)
		if ok && !bytes.Equal(again, b) {
			t.Errorf("two encodings of %v are taken:\n%x\n%x", st, b, again)
		}
	})
}
