package fsck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// damaged is a store some of whose bytes have changed. Each function gets a copy of what
// is stored and returns what is read instead; nil functions change nothing.
type damaged struct {
	storage.Store
	leaf, payload func(i uint64, b []byte) ([]byte, error)
	tile          func(level uint8, index uint64, b []byte) []byte
	head          func(h storage.Head) storage.Head
	cell          func(b []byte) []byte
}

type entryFunc = func(uint64, []byte) error

func change(do func(uint64, []byte) ([]byte, error), fn entryFunc) entryFunc {
	return func(i uint64, b []byte) error {
		if do != nil {
			var err error
			if b, err = do(i, bytes.Clone(b)); err != nil {
				return err
			}
		}
		return fn(i, b)
	}
}

func (d *damaged) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return d.Store.Leaves(ctx, start, end, change(d.leaf, fn))
}

func (d *damaged) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return d.Store.Payloads(ctx, start, end, change(d.payload, fn))
}

func (d *damaged) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	b, err := d.Store.Tile(ctx, level, index, width)
	if d.tile != nil && err == nil {
		b = d.tile(level, index, b)
	}
	return b, err
}

func (d *damaged) Head(ctx context.Context) (storage.Head, error) {
	h, err := d.Store.Head(ctx)
	if d.head != nil {
		h = d.head(h)
	}
	return h, err
}

func (d *damaged) Cell(ctx context.Context, name string) ([]byte, error) {
	b, err := d.Store.Cell(ctx, name)
	if d.cell != nil && err == nil {
		b = d.cell(b)
	}
	return b, err
}

// at changes one entry.
func at(i uint64, do func(b []byte) ([]byte, error)) func(uint64, []byte) ([]byte, error) {
	return func(n uint64, b []byte) ([]byte, error) {
		if n != i {
			return b, nil
		}
		return do(b)
	}
}

// flip changes one bit of one entry.
func flip(i uint64, offset int) func(uint64, []byte) ([]byte, error) {
	return at(i, func(b []byte) ([]byte, error) {
		b[(offset+len(b))%len(b)] ^= 1
		return b, nil
	})
}

var errUnreadable = errors.New("bad sector")

func unreadable(i uint64) func(uint64, []byte) ([]byte, error) {
	return at(i, func([]byte) ([]byte, error) { return nil, errUnreadable })
}

// flipTile changes one bit of hash n of a tile.
func flipTile(level uint8, index uint64, n int) func(uint8, uint64, []byte) []byte {
	return func(l uint8, i uint64, b []byte) []byte {
		if l == level && i == index && len(b) > n*storage.HashSize {
			b[n*storage.HashSize+7] ^= 0x10
		}
		return b
	}
}

// expect checks that a problem at a place says something.
func expect(t *testing.T, s storage.Store, opts fsck.Options, where, what string) *fsck.Report {
	t.Helper()
	r, err := fsck.Check(t.Context(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		if p.Where == where && strings.Contains(p.What, what) {
			return r
		}
	}
	t.Errorf("no problem at %q that says %q among %q", where, what, r.Problems)
	return r
}

func TestDamageIsFoundAndPlaced(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 1300)
	opts := options(d)
	note, err := s.Cell(t.Context(), log.CheckpointCell)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(c checkpoint.Checkpoint) []byte {
		note, err := checkpoint.SignNote(c, time.Now(), d.Signers...)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	cp, _, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	larger, forked, foreign := cp, cp, cp
	larger.Size++
	forked.Size, forked.Root = 700, [32]byte{1}
	foreign.Origin = "log.test/other"
	replace := func(note []byte) func([]byte) []byte { return func([]byte) []byte { return note } }

	for _, c := range []struct {
		name        string
		store       damaged
		where, what string
	}{
		{"salt flipped", damaged{payload: flip(600, 3)}, "entry 600", "does not open its leaf"},
		{"record flipped", damaged{payload: flip(600, -1)}, "entry 600", "does not open its leaf"},
		{"record cut", damaged{payload: at(600, func(b []byte) ([]byte, error) { return b[:len(b)-1], nil })}, "entry 600", "parsing record"},
		{"payload cut to its salt", damaged{payload: at(600, func(b []byte) ([]byte, error) { return b[:20], nil })}, "entry 600", "does not open"},
		{"payload unreadable", damaged{payload: unreadable(600)}, "entry 600", "payload cannot be read: bad sector"},
		{"leaf flipped", damaged{leaf: flip(600, 20)}, "entry 600", "does not open its leaf"},
		{"leaf flipped, tile", damaged{leaf: flip(600, 20)}, "tile 0/2", "hash 88 is"},
		{"leaf flipped, node", damaged{leaf: flip(600, 20)}, "tile 1/0", "hash 2 is"},
		{"leaf flipped, head", damaged{leaf: flip(600, 20)}, "head", "the leaves give"},
		{"leaf unreadable", damaged{leaf: unreadable(600)}, "entry 600", "leaf cannot be read: bad sector"},
		{"leaf unreadable, tree", damaged{leaf: unreadable(600)}, "tree", "beyond entry 600"},
		{"hash flipped in a full tile", damaged{tile: flipTile(0, 2, 17)}, "tile 0/2", "hash 17 is"},
		{"hash flipped in the last tile", damaged{tile: flipTile(0, 5, 19)}, "tile 0/5", "hash 19 is"},
		{"node flipped", damaged{tile: flipTile(1, 0, 4)}, "tile 1/0", "hash 4 is"},
		{"tile cut", damaged{tile: func(_ uint8, _ uint64, b []byte) []byte { return b[:len(b)-1] }}, "tile 0/0", "bytes"},
		{"root in head", damaged{head: func(h storage.Head) storage.Head { h.Root[5] ^= 1; return h }}, "head", "the leaves give"},
		{"time in head", damaged{head: func(h storage.Head) storage.Head { h.Time = h.Time.Add(1); return h }}, "head", "was logged at"},
		{"checkpoint is no note", damaged{cell: replace([]byte("x"))}, "checkpoint", "malformed"},
		{"checkpoint cut", damaged{cell: replace(note[:len(note)-1])}, "checkpoint", "malformed"},
		{"checkpoint unsigned", damaged{cell: replace(checkpoint.AppendNote(nil, cp, nil))}, "checkpoint", ""},
		{"checkpoint signed by others", damaged{cell: func([]byte) []byte {
			note, err := checkpoint.SignNote(cp, time.Now(), logtest.NewDir(t).Signers...)
			if err != nil {
				t.Fatal(err)
			}
			return note
		}}, "checkpoint", "no good signature"},
		{"signature flipped", damaged{cell: flipSignature}, "checkpoint", "bad "},
		{"checkpoint of another log", damaged{cell: func([]byte) []byte {
			_, sigs, _ := checkpoint.ParseNote(note)
			return checkpoint.AppendNote(nil, foreign, sigs)
		}}, "checkpoint", `is of "log.test/other"`},
		{"checkpoint beyond the store", damaged{cell: replace(sign(larger))}, "checkpoint", "has 1301 entries, the store 1300"},
		{"checkpoint forks", damaged{cell: replace(sign(forked))}, "checkpoint", "for size 700, the leaves give"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.store.Store = s
			expect(t, &c.store, opts, c.where, c.what)
		})
	}
	logtest.Check(t, d, s) // without damage there is none of this
}

func TestStoreIsHeldAgainstTheLedger(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 300)
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opts := options(d)
	opts.Signed = &ledger.State{Size: 300, Root: head.Root}
	if r, err := fsck.Check(t.Context(), s, opts); err != nil || len(r.Problems) > 0 {
		t.Errorf("the ledger as it is: %+v, %v", r, err)
	}
	for _, c := range []struct {
		signed      ledger.State
		where, what string
	}{
		{ledger.State{Size: 301, Root: head.Root}, "head", "has 300 entries, 301 have been signed"},
		{ledger.State{Size: 300, Root: [32]byte{1}}, "signer's ledger", "for size 300, the leaves give"},
		{ledger.State{Size: 299, Root: head.Root}, "signer's ledger", "has 299 entries, 300 are published"},
		{ledger.State{Size: 299, Root: head.Root}, "signer's ledger", "for size 299, the leaves give"},
		{ledger.State{Root: head.Root}, "signer's ledger", "for size 0, the leaves give"},
	} {
		opts.Signed = &c.signed
		expect(t, s, opts, c.where, c.what)
	}
}

// flipSignature changes one letter in the last signature of a note.
func flipSignature(note []byte) []byte {
	at := len(note) - 50
	if note[at] == 'A' {
		note[at] = 'B'
	} else {
		note[at] = 'A'
	}
	return note
}

func TestManyProblemsAreCounted(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 700)
	all := func(_ uint64, b []byte) ([]byte, error) {
		b[0] ^= 1
		return b, nil
	}
	r := expect(t, &damaged{Store: s, payload: all}, options(d), "entry 0", "does not open")
	if len(r.Problems) != 100 || r.Unlisted != 600 {
		t.Errorf("%d listed, %d not", len(r.Problems), r.Unlisted)
	}
}

// TestFindingsAreInOrder: parts are checked side by side, and reported as if one after the
// other: what cannot be read, what is wrong with entries, with chains, with tiles.
func TestFindingsAreInOrder(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 2600)
	store := &damaged{Store: s,
		leaf: flip(2100, 5),
		payload: func(i uint64, b []byte) ([]byte, error) {
			switch i {
			case 1500, 2590:
				return nil, errUnreadable
			case 1030, 3, 2050:
				b[3] ^= 1
			}
			return b, nil
		},
		tile: func(level uint8, index uint64, b []byte) []byte {
			if level == 0 && (index == 1 || index == 6) {
				b[0] ^= 1
			}
			return b
		},
	}
	var got []string
	r, err := fsck.Check(t.Context(), store, options(d))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		got = append(got, p.Where)
	}
	want := []string{"entry 3", "tile 0/1", "entry 1500", "entry 1030", "tile 0/6", "entry 2590", "entry 2050", "entry 2100", "checkpoint",
		"tile 0/8", "tile 1/0", "head"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTreeOnly(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 1300)
	opts := options(d)
	opts.TreeOnly = true
	all := func(uint64, []byte) ([]byte, error) { return nil, errUnreadable }
	r, err := fsck.Check(t.Context(), &damaged{Store: s, payload: all}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 || r.Entries != 1300 || r.Signatures != 2 || r.Keys != 0 || r.Erased != 0 {
		t.Errorf("payloads were read: %+v", r)
	}
	expect(t, &damaged{Store: s, leaf: flip(600, 20)}, opts, "tile 0/2", "hash 88 is")
	expect(t, &damaged{Store: s, leaf: flip(1290, 20)}, opts, "checkpoint", "for size 1300, the leaves give")
	expect(t, &damaged{Store: s, tile: flipTile(1, 0, 4)}, opts, "tile 1/0", "hash 4 is")
}

func TestUnreadableRecordGivesOneProblem(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 700)
	r := expect(t, &damaged{Store: s, payload: unreadable(600)}, options(d), "entry 600", "cannot be read")
	if len(r.Problems) != 1 {
		t.Errorf("the entries after it in its key's history are reported too: %q", r.Problems)
	}
}

// build makes a store of n hand-made records, two on key "a", one on key "b", and so on;
// do may spoil a record before it is committed to.
func build(t testing.TB, n int, do func(i int, r *record.Record)) storage.Store {
	t.Helper()
	logged := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	entries := make([]storage.Entry, n)
	last := make(map[string]record.Record)
	for i := range entries {
		key := "aab"[i%3 : i%3+1]
		ev, err := event.Append(nil, logtest.Event(i, key))
		if err != nil {
			t.Fatal(err)
		}
		r := record.Record{
			Index: uint64(i), LoggedAt: logged.Add(time.Duration(i)), Producer: "tester", KeyEvent: ev,
			KeySequence: last[key].KeySequence + 1, PreviousIndex: last[key].Index,
		}
		last[key] = r
		if do != nil {
			do(i, &r)
		}
		salt := [record.SaltSize]byte{byte(i), byte(i >> 8)}
		payload := record.AppendPayload(nil, &salt, &r)
		leaf := record.Leaf(payload)
		entries[i] = storage.Entry{Leaf: leaf[:], Payload: payload}
	}
	batch := storagetest.NewBuilder().BatchOf(t, entries)
	batch.New.Time = logged.Add(time.Duration(n - 1))
	s := memstore.New()
	if err := s.Commit(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRecordsThatContradictEachOther gives the check logs whose tree is right over records
// that are not.
func TestRecordsThatContradictEachOther(t *testing.T) {
	const i = 30 // on key "a": number 21, after 28
	eventOf := func(key string) []byte {
		b, err := event.Append(nil, logtest.Event(i, key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		spoil func(r *record.Record)
		what  string
	}{
		{"nothing", nil, ""},
		{"index", func(r *record.Record) { r.Index++ }, "says that it is entry 31"},
		{"number skipped", func(r *record.Record) { r.KeySequence++ }, "is number 22 of its key after entry 28; the entries before it make it number 21 after entry 28"},
		{"number repeated", func(r *record.Record) { r.KeySequence-- }, "is number 20 of its key"},
		{"other entry before", func(r *record.Record) { r.PreviousIndex-- }, "after entry 27; the entries before it make it number 21 after entry 28"},
		{"begins again", func(r *record.Record) { r.KeySequence, r.PreviousIndex = 1, 0 }, "is number 1 of its key after entry 0"},
		{"other key", func(r *record.Record) { r.KeyEvent = eventOf("b") }, "is number 21 of its key"},
		{"new key", func(r *record.Record) { r.KeyEvent = eventOf("c") }, "make it number 1 after entry 0"},
		{"number without a key", func(r *record.Record) { r.KeyEvent = eventOf("") }, `key sequence 21 for an event with key ""`},
		{"key without a number", func(r *record.Record) { r.KeySequence, r.PreviousIndex = 0, 0 }, `key sequence 0 for an event with key "a"`},
		{"time goes back", func(r *record.Record) { r.LoggedAt = r.LoggedAt.Add(-2) }, "was logged at"},
		{"event is none", func(r *record.Record) { r.KeyEvent = []byte{0xff} }, "event"},
		{"producer is not UTF-8", func(r *record.Record) { r.Producer = "\xff" }, "not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := build(t, 60, func(n int, r *record.Record) {
				if n == i && c.spoil != nil {
					c.spoil(r)
				}
			})
			if c.spoil != nil {
				expect(t, s, fsck.Options{}, fmt.Sprintf("entry %d", i), c.what)
				return
			}
			if r, err := fsck.Check(t.Context(), s, fsck.Options{}); err != nil || len(r.Problems) > 0 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}
