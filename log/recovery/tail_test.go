package recovery_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// life is a log that was stopped, with what it was at some earlier sizes.
type life struct {
	dir   *logtest.Dir
	store storage.Store
	// notes and ledgers are what the log had published and signed when it had grown to
	// the sizes that live was called with.
	notes, ledgers map[uint64][]byte
}

// live runs a new log to each of the sizes in turn.
func live(t testing.TB, sizes ...uint64) *life {
	t.Helper()
	l := &life{dir: logtest.NewDir(t), store: memstore.New(), notes: make(map[uint64][]byte), ledgers: make(map[uint64][]byte)}
	for _, size := range sizes {
		l.grow(t, l.dir, l.store, size)
		l.notes[size], l.ledgers[size] = note(t, l.store), l.dir.ReadLedger(t)
	}
	return l
}

// grow opens the log over a store, and appends events up to a size; event n is about
// key n mod 7.
func (l *life) grow(t testing.TB, d *logtest.Dir, s storage.Store, size uint64) {
	t.Helper()
	opened := logtest.Open(t, d, s)
	for n := opened.DurableSize(); n < size; {
		end := min(n+200, size)
		var events []log.Event
		for ; n < end; n++ {
			events = append(events, logtest.Prepare(t, event(n)))
		}
		if _, err := opened.Append(t.Context(), "tester", events); err != nil {
			t.Fatal(err)
		}
	}
	opened.AwaitPublished(t, size)
	if err := opened.Stop(); err != nil {
		t.Fatal(err)
	}
}

func note(t testing.TB, s storage.Store) []byte {
	t.Helper()
	b, err := s.Cell(t.Context(), log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// backup copies the first size entries of the log into a new store, as a backup taken then
// would hold them.
func (l *life) backup(t testing.TB, size uint64) *memstore.Store {
	t.Helper()
	return copyStore(t, l.store, size, l.notes[size])
}

func copyStore(t testing.TB, from storage.Store, size uint64, note []byte) *memstore.Store {
	t.Helper()
	s := memstore.New()
	if size == 0 {
		return s
	}
	b := batchOf(t, from, size)
	_, rec, err := record.Open(b.Entries[size-1].Payload)
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.Parse(rec)
	if err != nil {
		t.Fatal(err)
	}
	b.New.Time = r.LoggedAt
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if note != nil {
		if err := s.SwapCell(t.Context(), log.CheckpointCell, nil, note); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// batchOf makes one batch of the first entries of a store.
func batchOf(t testing.TB, s storage.Store, size uint64) *storage.Batch {
	t.Helper()
	entries := make([]storage.Entry, size)
	read(t, s, 0, size, func(i uint64, leaf, payload []byte) { entries[i] = storage.Entry{Leaf: leaf, Payload: payload} })
	return storagetest.NewBuilder().BatchOf(t, entries)
}

func read(t testing.TB, s storage.Store, start, end uint64, fn func(i uint64, leaf, payload []byte)) {
	t.Helper()
	leaves := make([][]byte, end)
	err := s.Leaves(t.Context(), start, end, func(i uint64, leaf []byte) error {
		leaves[i] = bytes.Clone(leaf)
		return nil
	})
	if err == nil {
		err = s.Payloads(t.Context(), start, end, func(i uint64, payload []byte) error {
			fn(i, leaves[i], bytes.Clone(payload))
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (l *life) policy(t testing.TB) *policy.Policy { return logtest.Policy(t, l.dir, 0) }

// restored is a log whose store, and perhaps ledger, are those of a backup.
func (l *life) restored(t testing.TB, ledgerOf uint64) *logtest.Dir {
	t.Helper()
	b, ok := l.ledgers[ledgerOf]
	if !ok {
		t.Fatalf("no ledger of size %d", ledgerOf)
	}
	return l.dir.WithLedger(t, b)
}

// recoverTail runs Tail over a store with a source.
func (l *life) recoverTail(t testing.TB, d *logtest.Dir, s storage.Store, src *recovery.Source, change func(*recovery.Tail)) (*recovery.Recovered, error) {
	t.Helper()
	led, err := ledger.Open(d.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	tail := &recovery.Tail{Origin: logtest.Origin, Policy: l.policy(t), Store: s, Ledger: led, Source: src}
	if change != nil {
		change(tail)
	}
	return tail.Run(t.Context())
}

// fromStore makes a source of a store.
func fromStore(t testing.TB, s storage.Store) *recovery.Source {
	t.Helper()
	src, err := recovery.FromStore(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// mirrorOf is a source that is no store, as a mirror with payloads.
func mirrorOf(t testing.TB, s storage.Store) *recovery.Source {
	src := fromStore(t, s)
	src.Head = nil
	return src
}

// checkWhole sees that a store is the log again: the same bytes, and a log that opens,
// knows its events, and goes on.
func (l *life) checkWhole(t testing.TB, d *logtest.Dir, s storage.Store, size uint64) {
	t.Helper()
	read(t, l.store, 0, size, func(i uint64, leaf, payload []byte) {
		read(t, s, i, i+1, func(_ uint64, gotLeaf, gotPayload []byte) {
			if !bytes.Equal(gotLeaf, leaf) || !bytes.Equal(gotPayload, payload) || (payload == nil) != (gotPayload == nil) {
				t.Errorf("entry %d is another", i)
			}
		})
	})
	opened := logtest.Open(t, d, s)
	if n := opened.DurableSize(); n != size {
		t.Errorf("the log opens with %d entries, want %d", n, size)
	}
	for _, i := range []uint64{0, size / 2, size - 1} {
		if r := opened.Append1(t, event(i)); !r.Duplicate || r.Index != i {
			t.Errorf("event %d again: %+v", i, r)
		}
	}
	if r := opened.Append1(t, event(size)); r.Index != size || r.KeySequence != size/7+1 {
		t.Errorf("the next event: %+v", r)
	}
	opened.AwaitPublished(t, size+1)
	if err := opened.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
	h := logtest.NewHistory()
	for _, size := range slices.Sorted(maps.Keys(l.notes)) {
		published := memstore.New()
		if err := published.SwapCell(t.Context(), log.CheckpointCell, nil, l.notes[size]); err != nil {
			t.Fatal(err)
		}
		h.Watch(t, published)
	}
	h.Check(t, h.Watch(t, s))
}

func TestTail(t *testing.T) {
	const total = 2300
	for _, from := range []uint64{0, 1, 256, 1500} {
		sizes := []uint64{from, total}
		if from == 0 {
			sizes = []uint64{total}
		}
		l := live(t, sizes...)
		l.ledgers[0] = emptyLedger(t)
		for name, c := range map[string]struct {
			ledger uint64
			source func(testing.TB, storage.Store) *recovery.Source
		}{
			"store went back, source is a copy":              {total, fromStore},
			"store went back, source is a mirror":            {total, mirrorOf},
			"store and ledger went back, source is a copy":   {from, fromStore},
			"store and ledger went back, source is a mirror": {from, mirrorOf},
		} {
			t.Run(fmt.Sprintf("%s, from %d", name, from), func(t *testing.T) {
				l.checkRefuses(t, from, c.ledger, c.ledger > from)
				s, d := l.backup(t, from), l.restored(t, c.ledger)
				r, err := l.recoverTail(t, d, s, c.source(t, l.store), nil)
				if err != nil {
					t.Fatal(err)
				}
				if r.From != from || r.To != total || r.Signed != total || r.Left != 0 || r.Erased != 0 {
					t.Errorf("%+v", r)
				}
				if !bytes.Equal(note(t, s), l.notes[total]) {
					t.Error("the published checkpoint is not the source's")
				}
				l.checkWhole(t, d, s, total)
				if r, err := l.recoverTail(t, d, s, c.source(t, l.store), nil); err != nil || r.From != total+1 || r.To != r.From {
					t.Errorf("once more: %+v, %v", r, err)
				}
			})
		}
	}
}

// checkRefuses sees whether a log over what was restored refuses to open.
func (l *life) checkRefuses(t testing.TB, size, ledgerOf uint64, want bool) {
	t.Helper()
	opened, err := logtest.TryOpen(t, l.restored(t, ledgerOf), l.backup(t, size))
	if _, refused := errors.AsType[*log.RefusalError](err); refused != want {
		t.Errorf("opening what was restored: %v", err)
	}
	if err == nil {
		err = opened.Stop()
	}
	if !want && err != nil {
		t.Error(err)
	}
}

func emptyLedger(t testing.TB) []byte { return logtest.NewDir(t).ReadLedger(t) }

// TestTailIsCutOff lets each write fail, done or not, and runs again.
func TestTailIsCutOff(t *testing.T) {
	const from, total = 300, 2500
	l := live(t, from, total)
	// Some of the lost entries are erased, at the beginning, in the middle and at the end of a batch.
	source := copyStore(t, l.store, total, l.notes[total])
	erased := []uint64{from, 1500, 2047, 2490}
	if err := errors.Join(source.ErasePayloads(t.Context(), erased), l.store.ErasePayloads(t.Context(), erased)); err != nil {
		t.Fatal(err)
	}
	for _, op := range []storagetest.Op{storagetest.OpCommit, storagetest.OpErase, storagetest.OpSwap} {
		for n := 1; ; n++ {
			done := false
			for _, persisted := range []bool{false, true} {
				f, d := storagetest.NewFaults(l.backup(t, from)), l.restored(t, from)
				f.FailAt(op, n, persisted)
				_, err := l.recoverTail(t, d, f, mirrorOf(t, source), nil)
				if err == nil {
					done = true // there is no n-th
					break
				}
				if !errors.Is(err, storagetest.ErrInjected) {
					t.Fatalf("%s %d: %v", op, n, err)
				}
				if st := ledgerState(t, d); st.Size == total && op != storagetest.OpSwap {
					t.Errorf("%s %d: the ledger was raised before the entries were there", op, n)
				}
				again := f.Reopen()
				if _, err := l.recoverTail(t, d, again, mirrorOf(t, source), nil); err != nil {
					t.Fatalf("%s %d, persisted %v, run again: %v", op, n, persisted, err)
				}
				if st := ledgerState(t, d); st.Size != total {
					t.Errorf("%s %d: the ledger holds %d", op, n, st.Size)
				}
				l.checkWhole(t, d, again, total)
			}
			if done {
				if n == 1 {
					t.Errorf("no %s failed", op)
				}
				break
			}
		}
	}
}

func ledgerState(t testing.TB, d *logtest.Dir) ledger.State {
	t.Helper()
	led, err := ledger.Open(d.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	return led.State()
}

// TestUnpublished has a copy of the store that holds more than was signed.
func TestUnpublished(t *testing.T) {
	l := live(t, 100, 200, 300)
	source := copyStore(t, l.store, 300, l.notes[200])
	for name, c := range map[string]struct {
		ledger       uint64
		unpublished  bool
		to, left     uint64
		ledgerAfter  uint64
		wantMirrored bool
	}{
		"what is signed":                        {ledger: 100, to: 200, left: 100, ledgerAfter: 200},
		"all":                                   {ledger: 100, unpublished: true, to: 300, ledgerAfter: 200},
		"what the ledger covers":                {ledger: 300, to: 300, ledgerAfter: 300},
		"a mirror has nothing that is unsigned": {ledger: 100, unpublished: true, to: 200, left: 100, ledgerAfter: 200, wantMirrored: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := l.backup(t, 100), l.restored(t, c.ledger)
			src := fromStore(t, source)
			if c.wantMirrored {
				src = mirrorOf(t, source)
			}
			r, err := l.recoverTail(t, d, s, src, func(tail *recovery.Tail) { tail.Unpublished = c.unpublished })
			if err != nil || r.To != c.to || r.Left != c.left || r.Signed != 200 {
				t.Fatalf("%+v, %v", r, err)
			}
			if st := ledgerState(t, d); st.Size != c.ledgerAfter {
				t.Errorf("the ledger holds %d, want %d", st.Size, c.ledgerAfter)
			}
		})
	}
}

// TestErasedStaysErased brings back entries of which some have no payload any more.
func TestErasedStaysErased(t *testing.T) {
	l := live(t, 100, 200)
	if err := l.store.ErasePayloads(t.Context(), []uint64{110, 199}); err != nil {
		t.Fatal(err)
	}
	s, d := l.backup(t, 100), l.restored(t, 200)
	r, err := l.recoverTail(t, d, s, fromStore(t, l.store), nil)
	if err != nil || r.Erased != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if rep := logtest.Check(t, d, s); rep.Erased != 2 {
		t.Errorf("%d payloads are erased", rep.Erased)
	}
	logtest.Open(t, d, s)
}
