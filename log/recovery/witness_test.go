package recovery_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness/feed"
)

// TestWitnessesAreAsked has witnesses that know more than the source's checkpoint.
func TestWitnessesAreAsked(t *testing.T) {
	l := live(t, 100, 200, 300)
	asking := func(w *recovery.Witnessed, err error) func(*recovery.Tail) {
		return func(tail *recovery.Tail) {
			tail.Ask = func(_ context.Context, cp checkpoint.Checkpoint, note []byte) (*recovery.Witnessed, error) {
				if got, _, err := checkpoint.ParseNote(note); err != nil || got != cp || cp.Size != 200 {
					t.Errorf("asked about %+v with %q", cp, note)
				}
				return w, err
			}
		}
	}
	source := copyStore(t, l.store, 250, l.notes[200])
	// A witness has cosigned more than the source has.
	s, d := l.backup(t, 100), l.restored(t, 100)
	_, err := l.recoverTail(t, d, s, fromStore(t, source), asking(&recovery.Witnessed{Witness: "w1", Size: 300, Note: l.notes[300]}, nil))
	if e, ok := errors.AsType[*recovery.ShortError](err); !ok || e.Need != 300 || e.Who != "the witness w1" {
		t.Errorf("a witness is ahead: %v", err)
	}
	// A witness shows that more is signed than the source's checkpoint says; the source has it.
	r, err := l.recoverTail(t, d, s, fromStore(t, l.storeWith(t, 300, 200)), asking(&recovery.Witnessed{Witness: "w1", Size: 300, Note: l.notes[300]}, nil))
	if err != nil || r.To != 300 || r.Signed != 300 {
		t.Errorf("a witness shows more: %+v, %v", r, err)
	}
	// Too few answer: said, and the log asks again when it starts.
	s, d = l.backup(t, 100), l.restored(t, 100)
	r, err = l.recoverTail(t, d, s, fromStore(t, source), asking(nil, &feed.QuorumError{Missing: []string{"w1: nobody is there"}}))
	if err != nil || r.To != 200 || r.Unasked == nil {
		t.Errorf("nobody answers: %+v, %v", r, err)
	}
	// A contradiction ends it.
	s, d = l.backup(t, 100), l.restored(t, 100)
	conflict := &feed.ConflictError{}
	if _, err = l.recoverTail(t, d, s, fromStore(t, source), asking(nil, conflict)); !errors.Is(err, conflict) {
		t.Errorf("two histories: %v", err)
	}
	l.checkUntouched(t, d, s, 100, 100)
}

// TestRealWitnesses has the log's witnesses remember what store and ledger forgot.
func TestRealWitnesses(t *testing.T) {
	d := logtest.NewDir(t)
	w := logtest.NewWitness(t, d, "witness.test/w1")
	p := logtest.Policy(t, d, 1, w)
	d.WithPolicy(p)
	l := &life{dir: d, store: memstore.New(), notes: make(map[uint64][]byte), ledgers: make(map[uint64][]byte)}
	for _, size := range []uint64{10, 20, 30} {
		l.grow(t, d, l.store, size)
		l.notes[size], l.ledgers[size] = note(t, l.store), d.ReadLedger(t)
	}
	s, restored := l.backup(t, 10), l.restored(t, 10)
	restored.WithPolicy(p)
	if _, err := logtest.TryOpen(t, restored, s); err == nil {
		t.Fatal("the log opens although its witness knows a larger tree")
	}
	with := func(tail *recovery.Tail) {
		tail.Policy, tail.Ask = p, recovery.Witnesses(feed.Config{Origin: logtest.Origin, Policy: p})
	}
	if _, err := l.recoverTail(t, restored, s, fromStore(t, l.backup(t, 20)), with); !isShort(err, 30) {
		t.Errorf("a source that the witness is ahead of: %v", err)
	}
	r, err := l.recoverTail(t, restored, s, fromStore(t, l.storeWith(t, 30, 20)), with)
	if err != nil || r.To != 30 || r.Signed != 30 || r.Unasked != nil {
		t.Errorf("a source that has what the witness shows: %+v, %v", r, err)
	}
	l.checkWhole(t, restored, s, 30)
}

// storeWith is a copy of the log with an older checkpoint.
func (l *life) storeWith(t testing.TB, size, checkpointOf uint64) storage.Store {
	return copyStore(t, l.store, size, l.notes[checkpointOf])
}
