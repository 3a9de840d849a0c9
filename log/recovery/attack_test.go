package recovery_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// spoilt is a source some of whose bytes are others; nil functions change nothing.
type spoilt struct {
	recovery.Entries
	leaf, payload func(i uint64, b []byte) []byte
}

func changed(do func(uint64, []byte) []byte, fn func(uint64, []byte) error) func(uint64, []byte) error {
	return func(i uint64, b []byte) error {
		if do != nil {
			b = do(i, bytes.Clone(b))
		}
		return fn(i, b)
	}
}

func (s *spoilt) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return s.Entries.Leaves(ctx, start, end, changed(s.leaf, fn))
}

func (s *spoilt) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return s.Entries.Payloads(ctx, start, end, changed(s.payload, fn))
}

func at(n uint64, do func(b []byte) []byte) func(uint64, []byte) []byte {
	return func(i uint64, b []byte) []byte {
		if i != n {
			return b
		}
		return do(b)
	}
}

func flip(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

// checkUntouched sees that a refused recovery has written nothing.
func (l *life) checkUntouched(t testing.TB, d *logtest.Dir, s storage.Store, size, ledgerOf uint64) {
	t.Helper()
	head, err := s.Head(t.Context())
	if err != nil || head.Size != size {
		t.Errorf("the store holds %v, want %d entries, %v", head, size, err)
	}
	if !bytes.Equal(d.ReadLedger(t), l.ledgers[ledgerOf]) {
		t.Error("the ledger has changed")
	}
	if !bytes.Equal(note(t, s), l.notes[size]) {
		t.Error("the published checkpoint has changed")
	}
}

func TestAttackSourceOfAnotherLog(t *testing.T) {
	l, other := live(t, 100, 200), live(t, 200) // of the same origin, with other keys
	s, d := l.backup(t, 100), l.restored(t, 200)
	if _, err := l.recoverTail(t, d, s, fromStore(t, other.store), nil); !errors.Is(err, recovery.ErrOtherLog) {
		t.Errorf("keys of another log: %v", err)
	}
	src := fromStore(t, l.store)
	src.Checkpoint = bytes.ReplaceAll(src.Checkpoint, []byte(logtest.Origin), []byte("log.test/other"))
	if _, err := l.recoverTail(t, d, s, src, nil); !errors.Is(err, recovery.ErrOtherLog) {
		t.Errorf("another origin: %v", err)
	}
	// The keys are the log's, the checkpoint is of another origin.
	signed, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: "log.test/other", Size: 200, Root: [32]byte{1}}, time.Now(), l.dir.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	src.Checkpoint = signed
	if _, err := l.recoverTail(t, d, s, src, nil); !errors.Is(err, recovery.ErrOtherLog) {
		t.Errorf("another origin, signed with this log's keys: %v", err)
	}
	src.Checkpoint = bytes.Replace(l.notes[200], []byte("\n200\n"), []byte("\n199\n"), 1)
	if _, err := l.recoverTail(t, d, s, src, nil); !errors.Is(err, recovery.ErrOtherLog) {
		t.Errorf("a forged size: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 200)
	src.Checkpoint, d = nil, l.restored(t, 100)
	if r, err := l.recoverTail(t, d, s, src, nil); err != nil || r.To != 100 || r.Left != 100 {
		t.Errorf("entries that nobody vouches for: %+v, %v", r, err)
	}
	l.checkUntouched(t, d, s, 100, 100)
}

func isShort(err error, need uint64) bool {
	e, ok := errors.AsType[*recovery.ShortError](err)
	return ok && e.Need == need
}

func TestAttackSourceForked(t *testing.T) {
	l := live(t, 100)
	// Both histories begin with the first 50 entries of the log and are signed with its
	// keys: one has gone on in the store that was restored, the other in the source.
	fork := &life{dir: l.restored(t, 100).WithLedger(t, emptyLedger(t)), store: copyStore(t, l.store, 50, nil), notes: map[uint64][]byte{}, ledgers: map[uint64][]byte{}}
	fork.grow(t, fork.dir, fork.store, 200)
	s, d := l.backup(t, 100), l.restored(t, 100)
	_, err := l.recoverTail(t, d, s, fromStore(t, fork.store), nil)
	if e, ok := errors.AsType[*recovery.ForkError](err); !ok || e.At != 50 {
		t.Errorf("recovering from a fork: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 100)

	// The store has nothing of its own, but the ledger has signed another tree.
	s, d = copyStore(t, l.store, 50, nil), l.restored(t, 100)
	if _, err := l.recoverTail(t, d, s, fromStore(t, fork.store), nil); !isDamage(err, "the signer's ledger") {
		t.Errorf("recovering what the ledger contradicts: %v", err)
	}
	if head, err := s.Head(t.Context()); err != nil || head.Size != 50 {
		t.Errorf("the store holds %v, %v", head, err)
	}
}

func isDamage(err error, what string) bool {
	_, ok := errors.AsType[*recovery.DamageError](err)
	return ok && strings.Contains(err.Error(), what)
}

func TestAttackSourceShort(t *testing.T) {
	l := live(t, 100, 200, 300)
	s, d := l.backup(t, 100), l.restored(t, 300)
	for name, src := range map[string]*recovery.Source{
		"a copy":                          fromStore(t, l.backup(t, 200)),
		"a mirror":                        mirrorOf(t, l.backup(t, 200)),
		"with an older checkpoint":        mirrorOf(t, l.storeWith(t, 250, 200)),
		"with less than what we have":     fromStore(t, l.storeWith(t, 50, 50)),
		"with entries nobody vouches for": fromStore(t, l.storeWith(t, 250, 200)),
	} {
		for _, unpublished := range []bool{false, true} {
			_, err := l.recoverTail(t, d, s, src, func(tail *recovery.Tail) { tail.Unpublished = unpublished })
			if !isShort(err, 300) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	src := fromStore(t, l.storeWith(t, 250, 300)) // says more than it has
	if _, err := l.recoverTail(t, d, s, src, nil); !isDamage(err, "holds 250 entries, its checkpoint states 300") {
		t.Errorf("less than its checkpoint: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 300)
}

func TestAttackSourceAltered(t *testing.T) {
	l := live(t, 100, 300)
	forged := forgeEvent(t, l.store, 250)
	for _, c := range []struct {
		name string
		src  spoilt
		what string
	}{
		{"record flipped", spoilt{payload: at(250, flip)}, "entry 250: record does not open its leaf"},
		{"leaf flipped", spoilt{leaf: at(250, flip)}, "entry 250: record does not open its leaf"},
		{"payload cut", spoilt{payload: at(250, func(b []byte) []byte { return b[:10] })}, "entry 250"},
		{"payload erased, leaf flipped", spoilt{leaf: at(250, flip), payload: at(250, func([]byte) []byte { return nil })}, "tree: has root"},
		{"another event with its own leaf", spoilt{
			payload: at(250, func([]byte) []byte { return forged }),
			leaf:    at(250, func([]byte) []byte { leaf := record.Leaf(forged); return leaf[:] }),
		}, "tree: has root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, d := l.backup(t, 100), l.restored(t, 100)
			src := mirrorOf(t, l.store)
			c.src.Entries = src.Entries
			src.Entries = &c.src
			if _, err := l.recoverTail(t, d, s, src, nil); !isDamage(err, c.what) {
				t.Errorf("%v, want %q", err, c.what)
			}
			l.checkUntouched(t, d, s, 100, 100)
		})
	}
}

// forgeEvent returns a payload like that of an entry, about another key.
func forgeEvent(t *testing.T, s storage.Store, index uint64) []byte {
	t.Helper()
	var out []byte
	read(t, s, index, index+1, func(_ uint64, _, payload []byte) {
		out = bytes.Replace(payload, []byte("key-"), []byte("kex-"), 1)
	})
	return out
}

// TestAttackSourceChanges has a source that is another one when it is read again.
func TestAttackSourceChanges(t *testing.T) {
	l := live(t, 100, 300)
	forged := forgeEvent(t, l.store, 250)
	leaf := record.Leaf(forged)
	checked := false
	later := func(b, other []byte) []byte {
		if checked {
			return other
		}
		return b
	}
	src := mirrorOf(t, l.store)
	src.Entries = &spoilt{
		Entries: src.Entries,
		leaf:    at(250, func(b []byte) []byte { return later(b, leaf[:]) }),
		payload: at(250, func(b []byte) []byte { return later(b, forged) }),
	}
	s, d := l.backup(t, 100), l.restored(t, 100)
	_, err := l.recoverTail(t, d, s, src, func(tail *recovery.Tail) {
		tail.Progress = func(stage string, done, total uint64) { checked = checked || done == total }
	})
	if !isDamage(err, "changed while it was read") {
		t.Errorf("what was not checked: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 100)
}

// TestAttackKeyChain has a log whose operator signed a record that takes a key's number
// again: the tree is right, the history of the key is not.
func TestAttackKeyChain(t *testing.T) {
	l := live(t, 100, 105)
	entries := batchOf(t, l.store, 105).Entries
	salt, rec, err := record.Open(entries[104].Payload)
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.Parse(rec)
	if err != nil {
		t.Fatal(err)
	}
	r.KeySequence--
	forged := record.AppendPayload(nil, &salt, &r)
	leaf := record.Leaf(forged)
	evil := memstore.New()
	entries[104] = storage.Entry{Leaf: leaf[:], Payload: forged}
	b := storagetest.NewBuilder().BatchOf(t, entries)
	b.New.Time = r.LoggedAt
	if err := evil.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	head, err := evil.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cp := checkpoint.Checkpoint{Origin: logtest.Origin, Size: head.Size, Root: head.Root}
	signed, err := checkpoint.SignNote(cp, time.Now(), l.dir.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := evil.SwapCell(t.Context(), log.CheckpointCell, nil, signed); err != nil {
		t.Fatal(err)
	}
	s, d := l.backup(t, 100), l.restored(t, 100)
	if _, err := l.recoverTail(t, d, s, fromStore(t, evil), nil); !isDamage(err, "entry 104: is number 14 of its key") {
		t.Errorf("a number that stands twice: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 100)
}
