package recovery_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// restoring is a restore of a life at a size, into a new place.
func restoring(t testing.TB, l *life, size uint64) *recovery.Restore {
	t.Helper()
	src, err := recovery.FromStore(t.Context(), l.backup(t, size))
	if err != nil {
		t.Fatal(err)
	}
	return &recovery.Restore{Dir: filepath.Join(t.TempDir(), "log"), Policy: policyText(l.dir), Source: src}
}

func policyText(d *logtest.Dir) []byte {
	p := policy.Policy{Quorum: policy.None}
	for _, k := range d.Signers {
		p.Logs = append(p.Logs, policy.Log{Key: k.VerifierKey()})
	}
	return p.Append(nil)
}

// left returns what a restore left at its place and beside it.
func left(t testing.TB, r *recovery.Restore) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(r.Dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestRestore makes the store that was, and the log goes on over it.
func TestRestore(t *testing.T) {
	t.Parallel()
	sizes := []uint64{1, 255, 256, 1024, 1025, 2500}
	l := live(t, sizes...)
	for _, size := range sizes {
		r := restoring(t, l, size)
		done, err := r.Run(t.Context())
		if err != nil {
			t.Fatalf("%d entries: %v", size, err)
		}
		if done.Size != size || done.Erased != 0 || done.Signed != nil || len(done.Missing) != 1 || done.Missing[0] != filepath.Join(r.Dir, "signer", "ledger") {
			t.Errorf("%d entries: %+v", size, done)
		}
		if names := left(t, r); len(names) != 1 {
			t.Errorf("left: %v", names)
		}
		s, err := pebblestore.Open(filepath.Join(r.Dir, "store"), pebblestore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		sameStore(t, l.backup(t, size), s)
		d := l.dir.WithLedger(t, l.ledgers[size])
		logtest.Check(t, d, s)
		// What is appended again has its place, what is new comes after it.
		opened := logtest.Open(t, d, s)
		again := opened.Append1(t, event(size-1))
		if next := opened.Append1(t, event(size)); !again.Duplicate || again.Index != size-1 || next.Duplicate || next.Index != size {
			t.Errorf("%d entries: %+v, then %+v", size, again, next)
		}
		if err := opened.Stop(); err != nil {
			t.Error(err)
		}
		logtest.Check(t, d, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// sameStore holds heads, leaves and payloads of two stores against each other.
func sameStore(t testing.TB, want, got storage.Store) {
	t.Helper()
	head, err := want.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h, err := got.Head(t.Context()); err != nil || !h.Equal(head) {
		t.Errorf("head %+v, %v; want %+v", h, err, head)
	}
	read := func(s storage.Store) (all [][]byte) {
		keep := func(_ uint64, b []byte) error { all = append(all, bytes.Clone(b)); return nil }
		if err := errors.Join(s.Leaves(t.Context(), 0, head.Size, keep), s.Payloads(t.Context(), 0, head.Size, keep)); err != nil {
			t.Fatal(err)
		}
		return all
	}
	a, b := read(want), read(got)
	for i := range a {
		if !bytes.Equal(a[i], b[i]) || (a[i] == nil) != (b[i] == nil) {
			t.Errorf("row %d differs", i)
		}
	}
}

// TestRestoreErased keeps erased what was erased, also where nothing else is there.
func TestRestoreErased(t *testing.T) {
	t.Parallel()
	l := live(t, 1500)
	for _, c := range []struct{ from, to uint64 }{{7, 8}, {0, 1100}, {1024, 1500}} {
		var indexes []uint64
		for i := c.from; i < c.to; i++ {
			indexes = append(indexes, i)
		}
		from := l.backup(t, 1500)
		if err := from.ErasePayloads(t.Context(), indexes); err != nil {
			t.Fatal(err)
		}
		r := restoring(t, l, 1500)
		r.Source.Entries = from
		done, err := r.Run(t.Context())
		if err != nil || done.Erased != c.to-c.from {
			t.Errorf("%d to %d erased: %+v, %v", c.from, c.to, done, err)
			continue
		}
		s, err := pebblestore.Open(filepath.Join(r.Dir, "store"), pebblestore.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		err = s.Payloads(t.Context(), c.from, c.to, func(_ uint64, p []byte) error {
			if p == nil {
				n++
			}
			return nil
		})
		if err := errors.Join(err, s.Close()); err != nil || n != done.Erased {
			t.Errorf("%d of %d are erased, %v", n, done.Erased, err)
		}
	}
}

// altered is a source some of whose entries are not what they were.
type altered struct {
	recovery.Entries
	leaf, payload func(i uint64, b []byte) []byte
}

func (a altered) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return a.Entries.Leaves(ctx, start, end, func(i uint64, b []byte) error {
		if a.leaf != nil {
			b = a.leaf(i, bytes.Clone(b))
		}
		return fn(i, b)
	})
}

func (a altered) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return a.Entries.Payloads(ctx, start, end, func(i uint64, b []byte) error {
		if a.payload != nil {
			b = a.payload(i, bytes.Clone(b))
		}
		return fn(i, b)
	})
}

// TestRestoreRefuses puts nothing into its place that is not what was signed.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	l, other := live(t, 600), live(t, 600)
	at := func(n uint64, do func([]byte) []byte) func(uint64, []byte) []byte {
		return func(i uint64, b []byte) []byte {
			if i == n {
				return do(b)
			}
			return b
		}
	}
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for _, c := range []struct {
		name  string
		spoil func(r *recovery.Restore)
		is    error // nil for *DamageError
		says  string
	}{
		{"payload", func(r *recovery.Restore) { r.Source.Entries = altered{r.Source.Entries, nil, at(300, flip)} }, nil, "entry 300: record does not open its leaf"},
		{"leaf", func(r *recovery.Restore) { r.Source.Entries = altered{r.Source.Entries, at(300, flip), nil} }, nil, "entry 300"},
		{"leaf of an erased entry", func(r *recovery.Restore) {
			r.Source.Entries = altered{r.Source.Entries, at(300, flip), at(300, func([]byte) []byte { return nil })}
		}, nil, "its checkpoint states"},
		{"entries of another log", func(r *recovery.Restore) { r.Source.Entries = other.store }, nil, "its checkpoint states"},
		{"checkpoint of another log", func(r *recovery.Restore) { r.Source.Checkpoint = other.notes[600] }, recovery.ErrOtherLog, ""},
		{"policy of another log", func(r *recovery.Restore) { r.Policy = policyText(other.dir) }, recovery.ErrOtherLog, ""},
		{"configuration of another log", func(r *recovery.Restore) { r.Config = []byte("origin: log.test/other\n") }, recovery.ErrOtherLog, ""},
		{"ledger of another history", func(r *recovery.Restore) { r.Ledger = other.dir.Ledger() }, nil, "the signer's ledger has"},
		{"ledger elsewhere", func(r *recovery.Restore) {
			r.Config, r.Ledger = []byte("origin: "+logtest.Origin+"\nledger: ../../ledger\n"), l.dir.Ledger()
		}, recovery.ErrLedgerElsewhere, ""},
		{"no ledger there", func(r *recovery.Restore) { r.Ledger += "nowhere" }, fs.ErrNotExist, ""},
	} {
		r := restoring(t, l, 600)
		c.spoil(r)
		_, err := r.Run(t.Context())
		damage, isDamage := errors.AsType[*recovery.DamageError](err)
		if c.is != nil && !errors.Is(err, c.is) || c.is == nil && (!isDamage || !strings.Contains(damage.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if names := left(t, r); len(names) > 0 {
			t.Errorf("%s: left: %v", c.name, names)
		}
	}
}

// TestRestorePlaces takes no place that holds anything, and clears only what a restore left.
func TestRestorePlaces(t *testing.T) {
	t.Parallel()
	l := live(t, 300)
	write := func(path string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r := restoring(t, l, 300)
	write(filepath.Join(r.Dir, "letter"))
	if _, err := r.Run(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a place that is taken: %v", err)
	}
	r = restoring(t, l, 300)
	write(filepath.Join(r.Dir+".new", "letter"))
	if _, err := r.Run(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("something else beside the place: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.Dir+".new", "letter")); err != nil {
		t.Error(err)
	}
	// What a restore that was killed left, and an empty directory at the place.
	r = restoring(t, l, 300)
	write(filepath.Join(r.Dir+".new", "store", "db", "garbage"))
	write(filepath.Join(r.Dir+".new", "policy"))
	if err := os.Mkdir(r.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another one meanwhile waits its turn; one that is cut off leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(string, uint64, uint64) {
		second := *r
		second.Progress = nil
		if _, err := second.Run(t.Context()); !errors.Is(err, recovery.ErrRestoring) {
			t.Errorf("a second restore: %v", err)
		}
		cancel()
	}
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
	if names := left(t, r); len(names) != 1 { // the empty directory
		t.Errorf("left: %v", names)
	}
	r.Progress = nil
	if _, err := r.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRestoreLedger brings the ledger that it is given, and says what it knows.
func TestRestoreLedger(t *testing.T) {
	t.Parallel()
	l := live(t, 200, 300, 400)
	for size, signed := range map[uint64]uint64{300: 400, 400: 400, 401: 200} {
		given := l.dir.WithLedger(t, l.ledgers[signed]).Ledger()
		r := restoring(t, l, min(size, 400))
		r.Ledger = given
		done, err := r.Run(t.Context())
		if err != nil || done.Signed == nil || done.Signed.Size != signed || len(done.Missing) > 0 {
			t.Fatalf("%d signed, %d restored: %+v, %v", signed, size, done, err)
		}
		brought, err := os.ReadFile(filepath.Join(r.Dir, "signer", "ledger"))
		if err != nil || !bytes.Equal(brought, l.ledgers[signed]) {
			t.Errorf("the ledger is another: %v", err)
		}
	}
	r := restoring(t, l, 400)
	r.Ledger = l.dir.WithLedger(t, l.ledgers[400]).Ledger()
	held, err := ledger.Open(r.Ledger, logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context()); !errors.Is(err, ledger.ErrLocked) || len(left(t, r)) > 0 {
		t.Errorf("a ledger that is used: %v, left %v", err, left(t, r))
	}
	if err := errors.Join(held.Seal("log.test/next"), held.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context()); !errors.Is(err, recovery.ErrEnded) {
		t.Errorf("a log that has ended: %v", err)
	}
	// One that the configuration names outside is looked at where it is, but not by a drill.
	r = restoring(t, l, 300)
	outside := l.dir.WithLedger(t, l.ledgers[400]).Ledger()
	r.Config = []byte("origin: " + logtest.Origin + "\nledger: " + outside + "\n")
	r.Drill = true
	if done, err := r.Run(t.Context()); err != nil || done.Signed != nil {
		t.Errorf("a drill: %+v, %v", done, err)
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		t.Fatal(err)
	}
	r.Drill = false
	if done, err := r.Run(t.Context()); err != nil || done.Signed == nil || done.Signed.Size != 400 || done.Ledger != outside || len(done.Missing) > 0 {
		t.Errorf("a ledger outside: %+v, %v", done, err)
	}
}
