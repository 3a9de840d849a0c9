package witness_test

import (
	"bytes"
	"errors"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// TestRestart keeps a state on disk over restarts.
func TestRestart(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	dir := filepath.Join(t.TempDir(), "store")
	s, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWitness(t, s, l)
	var old uint64
	for size := uint64(3); size < 40; size += 13 {
		w.add(t, l.request(t, old, size))
		before, _ := w.Checkpoint(hash(l.origin))
		if err := errors.Join(w.Close(), w.store.Close()); err != nil {
			t.Fatal(err)
		}
		if w.store, err = pebblestore.Open(dir, pebblestore.Options{}); err != nil {
			t.Fatal(err)
		}
		w.open(t)
		if e := w.wantRefused(t, l.request(t, old, size), http.StatusConflict); e.Size != size {
			t.Errorf("after a restart the size is %d, want %d", e.Size, size)
		}
		after, _ := w.Checkpoint(hash(l.origin))
		wantSame(t, before, after)
		old = size
	}
}

// wantSame compares what the witness serves before and after a restart: the text, the log's
// lines and the Ed25519 line are the same bytes, the ML-DSA-44 line says the same.
func wantSame(t *testing.T, before, after []byte) {
	t.Helper()
	c, was, err := checkpoint.ParseNote(before)
	if err != nil {
		t.Fatal(err)
	}
	d, is, err := checkpoint.ParseNote(after)
	if err != nil || c != d || len(was) != 4 || len(is) != 4 {
		t.Fatalf("it serves\n%s\nand after a restart\n%s", before, after)
	}
	last := signers(t)[1].VerifierKey()
	at, err := last.Verify(c, was[3])
	again, errAgain := last.Verify(c, is[3])
	if !reflect.DeepEqual(was[:3], is[:3]) || err != nil || errAgain != nil || at != again {
		t.Errorf("after a restart the signatures are others: time %d, %v, then %d, %v", at, err, again, errAgain)
	}
}

// TestRotation opens a witness with its old key, with both and with the new one alone: the
// state goes over from key to key, with no checkpoint cosigned in between.
func TestRotation(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 5))
	at := w.Logs()[0].Time
	const name = "witness.test/w1"
	ed := []*checkpoint.SignerKey{key(t, name, checkpoint.TypeEd25519Cosignature, 0), key(t, name, checkpoint.TypeEd25519Cosignature, 1)}
	pq := []*checkpoint.SignerKey{key(t, name, checkpoint.TypeMLDSA44, 0), key(t, name, checkpoint.TypeMLDSA44, 1)}
	for _, keys := range [][]*checkpoint.SignerKey{
		{ed[0], ed[1], pq[0], pq[1]}, {ed[1], pq[1]}, {ed[1], pq[0]}, {ed[1]}, {ed[1], pq[0]},
	} {
		w.signers = keys
		w.reopen(t)
		note, _ := w.Checkpoint(hash(l.origin))
		c, sigs, err := checkpoint.ParseNote(note)
		if err != nil || c != l.at(5) {
			t.Fatalf("with %d keys it serves %+v, %v", len(keys), c, err)
		}
		for _, k := range keys {
			v := k.VerifierKey()
			i := slices.IndexFunc(sigs, v.Made)
			if i < 0 {
				t.Errorf("there is no cosignature of %v", k)
				continue
			}
			if got, err := v.Verify(c, sigs[i]); err != nil || got != at {
				t.Errorf("%v states time %d, %v; want %d", k, got, err, at)
			}
		}
	}
	// A key that never cosigned the state cannot take it over alone.
	w.signers = []*checkpoint.SignerKey{key(t, name, checkpoint.TypeEd25519Cosignature, 2)}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.tryOpen(t); err == nil {
		t.Error("a state without a cosignature of any key is taken")
	}
	w.signers = []*checkpoint.SignerKey{ed[1]}
	w.open(t)
}

// TestOnlySlowKey has a witness whose one key is of the kind that signs while the store
// writes, when there are others.
func TestOnlySlowKey(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t)
	w.signers = signers(t)[1:]
	w.reopen(t)
	if err := w.Enroll(t.Context(), l.enrolment()); err != nil {
		t.Fatal(err)
	}
	lines := w.add(t, l.request(t, 0, 5))
	w.reopen(t)
	if note, _ := w.Checkpoint(hash(l.origin)); !bytes.HasSuffix(note, lines) {
		t.Errorf("after a restart it serves\n%s", note)
	}
}
