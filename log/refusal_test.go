package log_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// fill opens a log, appends the events from to (exclusive), and stops it.
func fill(t testing.TB, d *logtest.Dir, s storage.Store, from, to int) {
	t.Helper()
	l := logtest.Open(t, d, s)
	for i := from; i < to; i++ {
		l.Append1(t, logtest.Event(i, fmt.Sprint(i%3)))
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is a refusal to sign that says all of the words.
func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	refusal, ok := errors.AsType[*log.RefusalError](err)
	if !ok {
		t.Fatalf("got %v, want a *log.RefusalError", err)
	}
	if refusal.Reason == "" || refusal.Remedy == "" {
		t.Errorf("refusal without reason or remedy: %+v", refusal)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// refusesToOpen checks that the log is not opened, and that trying changes neither the
// ledger nor what is published.
func refusesToOpen(t testing.TB, d *logtest.Dir, s storage.Store, words ...string) {
	t.Helper()
	ledgerBefore, cellBefore := d.ReadLedger(t), cell(t, s)
	_, err := logtest.TryOpen(t, d, s)
	refused(t, err, words...)
	if !cmp.Equal(d.ReadLedger(t), ledgerBefore) || !cmp.Equal(cell(t, s), cellBefore) {
		t.Error("a refusal changed the ledger or the published checkpoint")
	}
}

func cell(t testing.TB, s storage.Store) []byte {
	t.Helper()
	note, err := s.Cell(t.Context(), log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return note
}

func TestRefusesStoreBehindLedger(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 0, 20)
	led, err := ledger.Open(d.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := led.Advance(ledger.State{Size: 23, Root: [32]byte{1}}); err != nil {
		t.Fatal(err)
	}
	led.Close()
	refusesToOpen(t, d, s, "tree of 23 entries", "holds only 20", "bring back the newer store")
}

func TestRefusesLedgerBehindCheckpoint(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 0, 12)
	old := d.ReadLedger(t)
	fill(t, d, s, 12, 20)
	refusesToOpen(t, d.WithLedger(t, old), s, "checkpoint of 20 entries", "knows only of 12", "keytrail ledger adopt")
	// A new ledger is no way around it.
	fresh := d.WithLedger(t, nil)
	if err := os.Remove(fresh.Ledger()); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Create(fresh.Ledger(), logtest.Origin); err != nil {
		t.Fatal(err)
	}
	refusesToOpen(t, fresh, s, "checkpoint of 20 entries", "knows only of 0", "keytrail ledger adopt")
	// Nor is the right one lost.
	fill(t, d, s, 20, 21)
}

func TestRefusesToOpenWithoutLedger(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 0, 12)
	if err := os.Remove(d.Ledger()); err != nil {
		t.Fatal(err)
	}
	_, err := logtest.TryOpen(t, d, s)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "signer's ledger") || !strings.Contains(err.Error(), "bring back the file") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(d.Ledger()); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a ledger was made")
	}
}

func TestRefusesLedgerOfAnotherLog(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 0, 12)
	if err := os.Remove(d.Ledger()); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Create(d.Ledger(), "log.test/other"); err != nil {
		t.Fatal(err)
	}
	if _, err := logtest.TryOpen(t, d, s); !errors.Is(err, ledger.ErrOrigin) {
		t.Errorf("got %v, want ledger.ErrOrigin", err)
	}
}

// TestRefusesCopiedOlderDirectory puts an old copy of the store back under the log, as
// restoring a backup does.
func TestRefusesCopiedOlderDirectory(t *testing.T) {
	d := logtest.NewDir(t)
	dir := filepath.Join(t.TempDir(), "store")
	backup := filepath.Join(t.TempDir(), "backup")
	s, err := pebblestore.Create(dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, d, s, 0, 30)
	next()
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if s, err = pebblestore.Open(dir, pebblestore.Options{}); err != nil {
		t.Fatal(err)
	}
	fill(t, d, s, 30, 37)
	next()

	if s, err = pebblestore.Open(backup, pebblestore.Options{}); err != nil {
		t.Fatal(err)
	}
	refusesToOpen(t, d, s, "tree of 37 entries", "holds only 30", "restoring a backup", "bring back the newer store")
	next()

	// The newer store is the way out.
	if s, err = pebblestore.Open(dir, pebblestore.Options{}); err != nil {
		t.Fatal(err)
	}
	fill(t, d, s, 37, 40)
	logtest.Check(t, d, s)
	next()
}

func TestRefusesOtherStoreOfSameSize(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	fill(t, d, s, 0, 20)
	// The same keys and another ledger over other events: as if the history were made anew.
	other, forged := &logtest.Dir{Path: t.TempDir(), Signers: d.Signers}, memstore.New()
	if err := ledger.Create(other.Ledger(), logtest.Origin); err != nil {
		t.Fatal(err)
	}
	fill(t, other, forged, 100, 120)
	refusesToOpen(t, d, forged, "for size 20", "tree of 20 entries", "bring back a copy")
	// Larger is no better.
	fill(t, other, forged, 120, 130)
	refusesToOpen(t, d, forged, "for size 20", "tree of 30 entries", "bring back a copy")
}

func TestRefusesTamperedCheckpoint(t *testing.T) {
	d, good := logtest.NewDir(t), memstore.New()
	fill(t, d, good, 0, 20)
	note := cell(t, good)
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(c checkpoint.Checkpoint, signers []*checkpoint.SignerKey) []byte {
		note, err := checkpoint.SignNote(c, time.Now(), signers...)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	smaller, forked, foreign := cp, cp, cp
	smaller.Size--
	forked.Root[3] ^= 1
	foreign.Origin = "log.test/other"
	for name, c := range map[string]struct {
		note  []byte
		words []string
	}{
		"cut":               {note[:len(note)-1], []string{"holds 20 entries", "has signed 20"}},
		"empty":             {[]byte{}, []string{"holds 20 entries"}},
		"size changed":      {checkpoint.AppendNote(nil, smaller, sigs), []string{"signature", "holds 20 entries"}},
		"root changed":      {checkpoint.AppendNote(nil, forked, sigs), []string{"signature", "holds 20 entries"}},
		"other origin":      {checkpoint.AppendNote(nil, foreign, sigs), []string{`"log.test/other"`}},
		"other keys":        {sign(cp, logtest.NewDir(t).Signers), []string{"not signed by any key of this log"}},
		"signed by us, too": {sign(forked, d.Signers), []string{"for size 20", "tree of 20 entries"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good.Reopen()
			if err := s.SwapCell(t.Context(), log.CheckpointCell, note, c.note); err != nil {
				t.Fatal(err)
			}
			refusesToOpen(t, d, s, c.words...)
			good = s
			if err := s.SwapCell(t.Context(), log.CheckpointCell, c.note, note); err != nil {
				t.Fatal(err)
			}
		})
	}
	fill(t, d, good, 20, 21)
}

// changing is a store whose tiles read differently once spoil is set.
type changing struct {
	storage.Store
	level uint8
	index uint64
	spoil atomic.Bool
}

func (c *changing) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	b, err := c.Store.Tile(ctx, level, index, width)
	if err == nil && c.spoil.Load() && level == c.level && index == c.index {
		b[3] ^= 1 // of the first hash
	}
	return b, err
}

// TestRefusesStoreThatChanged changes stored bytes under a running log.
func TestRefusesStoreThatChanged(t *testing.T) {
	for _, c := range []struct {
		name   string
		filled int
		level  uint8
		index  uint64
	}{
		{"leaf of the right edge", 21, 0, 0},
		{"leaf under a tile that is full", 301, 0, 1},
		{"node of level 1", 301, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := logtest.NewDir(t)
			s := &changing{Store: memstore.New(), level: c.level, index: c.index}
			fill(t, d, s, 0, c.filled)
			l := logtest.Open(t, d, s)
			note := l.AwaitPublished(t, uint64(c.filled)).Note
			ledgerBefore := d.ReadLedger(t)
			s.spoil.Store(true)
			// The event is durable before anybody looks at the old bytes.
			l.Append1(t, logtest.Event(c.filled, "k"))

			err := l.Wait(t)
			refused(t, err, fmt.Sprint(c.filled), fmt.Sprint(c.filled+1), "keytrail fsck")
			if _, err := l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(5000, ""))}); !errors.Is(err, log.ErrStopped) {
				t.Errorf("append after the refusal: %v, want ErrStopped", err)
			}
			if !cmp.Equal(l.Published().Note, note) || !cmp.Equal(cell(t, s), note) || !cmp.Equal(d.ReadLedger(t), ledgerBefore) {
				t.Error("something was signed or published")
			}
			// As long as the bytes are wrong it does not come back; when they are right, it does.
			if _, err := logtest.TryOpen(t, d, s); err == nil {
				t.Error("opened over changed bytes")
			}
			s.spoil.Store(false)
			fill(t, d, s, c.filled+1, c.filled+3)
			if r := logtest.Check(t, d, s); r.Published != uint64(c.filled+3) {
				t.Errorf("published %d", r.Published)
			}
		})
	}
}

// TestRefusesHeadThatWentBack lets the store's head go back under a running log.
func TestRefusesHeadThatWentBack(t *testing.T) {
	d, s := logtest.NewDir(t), &backward{Store: memstore.New()}
	l := logtest.Open(t, d, s)
	for i := range 20 {
		l.Append1(t, logtest.Event(i, "k"))
	}
	note := l.AwaitPublished(t, 20).Note
	s.by.Store(3)
	l.Append1(t, logtest.Event(20, "k"))
	refused(t, l.Wait(t), "18 entries", "20 have been signed", "keytrail fsck")
	if !cmp.Equal(cell(t, s), note) {
		t.Error("something was published")
	}
}

type backward struct {
	storage.Store
	by atomic.Uint64
}

func (b *backward) Head(ctx context.Context) (storage.Head, error) {
	h, err := b.Store.Head(ctx)
	h.Size -= b.by.Load()
	return h, err
}

func TestOpenRefusesKeysOfAnotherName(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	other := *d
	other.Signers = nil
	if _, err := logtest.TryOpen(t, &other, s); err == nil || !strings.Contains(err.Error(), "no signing key") {
		t.Errorf("no key: %v", err)
	}
	k, err := checkpoint.NewSignerKey("log.test/other", checkpoint.TypeEd25519, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	other.Signers = append(other.Signers, k)
	if _, err := logtest.TryOpen(t, &other, s); err == nil || !strings.Contains(err.Error(), `"log.test/other"`) {
		t.Errorf("key of another name: %v", err)
	}
}
