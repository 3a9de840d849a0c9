package log_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// sent is an event as the model knows it: a number, which is its id, and a variant, which
// is its content. Its key follows from the number.
type sent struct{ number, variant int }

func (s sent) key() string { return []string{"", "a", "b", "c", "d"}[s.number%5] }

func (s sent) event() *keytrailv1.KeyEvent {
	ev := logtest.Event(s.number, s.key())
	if s.variant > 0 {
		ev.Outcome = keytrailv1.Outcome_OUTCOME_DENIED
	}
	return ev
}

// ending is how a run of the log ends.
type ending int

const (
	cleanStop ending = iota
	cleanStopIndexLost
	crash
	crashIndexLost
	crashLedgerTorn
)

// round is what happens to a log between two starts.
type round struct {
	calls    [][]sent // one after the other, waited for
	inFlight [][]sent // submitted, not waited for, when the end comes
	delay    time.Duration
	end      ending
	unsynced int // percent of what is not synced that survives a crash
}

func drawRound(t *rapid.T) round {
	event := rapid.Custom(func(t *rapid.T) sent {
		return sent{rapid.IntRange(0, 400).Draw(t, "number"), max(0, rapid.IntRange(-5, 1).Draw(t, "variant"))}
	})
	calls := func(n int, label string) [][]sent {
		return rapid.SliceOfN(rapid.SliceOfN(event, 1, 12), 0, n).Draw(t, label)
	}
	return round{
		calls:    calls(4, "calls"),
		inFlight: calls(4, "in flight"),
		delay:    time.Duration(rapid.IntRange(0, 400).Draw(t, "delay")) * time.Microsecond,
		end:      ending(rapid.IntRange(int(cleanStop), int(crashLedgerTorn)).Draw(t, "end")),
		unsynced: rapid.SampledFrom([]int{0, 0, 50, 100}).Draw(t, "unsynced"),
	}
}

// model runs a log and compares it with a slice.
type model struct {
	t       *rapid.T
	tb      testing.TB
	rng     *rand.Rand
	fsys    *storagetest.SyncFS
	dir     *logtest.Dir
	store   *pebblestore.Store
	watched *logtest.Watched
	log     *logtest.Log
	history *logtest.History

	// entries is the log as it must be; acked how many of them are acknowledged.
	entries []sent
	acked   int
	byID    map[int]int
	keys    map[string][]int

	restarts, refusals int
}

func newModel(tb testing.TB, t *rapid.T, dir *logtest.Dir) *model {
	m := &model{
		t: t, tb: tb, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
		fsys: storagetest.NewSyncFS(), dir: dir, history: logtest.NewHistory(),
		byID: make(map[int]int), keys: make(map[string][]int),
	}
	s, err := pebblestore.Create("store", m.options())
	m.must(err)
	m.must(s.Close())
	m.dir.IndexFS = m.fsys
	m.dir.IndexRound = rapid.SampledFrom([]int{0, 3, 20}).Draw(t, "index round")
	m.open()
	return m
}

func (m *model) options() pebblestore.Options {
	return pebblestore.Options{FS: m.fsys, CacheBytes: 1 << 20, MemTableBytes: 128 << 10}
}

func (m *model) must(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatal(err)
	}
}

// add puts an entry at the end of the model.
func (m *model) add(s sent) {
	m.byID[s.number] = len(m.entries)
	if s.key() != "" {
		m.keys[s.key()] = append(m.keys[s.key()], len(m.entries))
	}
	m.entries = append(m.entries, s)
}

// place is the number in its key's history and the entry before it, of an entry.
func (m *model) place(index int) (sequence, previous uint64) {
	history := m.keys[m.entries[index].key()]
	for i, at := range history {
		if at == index {
			if i > 0 {
				previous = uint64(history[i-1])
			}
			return uint64(i + 1), previous
		}
	}
	return 0, 0
}

func (m *model) events(call []sent) []log.Event {
	events := make([]log.Event, len(call))
	for i, s := range call {
		events[i] = logtest.Prepare(m.tb, s.event())
	}
	return events
}

// expect holds the results of a call against the model, which it extends.
func (m *model) expect(call []sent, results []log.Result) {
	for i, s := range call {
		at, known := m.byID[s.number]
		if !known {
			m.add(s)
			at = len(m.entries) - 1
		}
		r := results[i]
		conflict, refused := errors.AsType[*log.ConflictError](r.Err)
		if m.entries[at] != s {
			if !refused || conflict.Index != uint64(at) || r.Index != uint64(at) {
				m.t.Fatalf("%+v, where %+v is at %d: %+v", s, m.entries[at], at, r)
			}
			continue
		}
		sequence, previous := m.place(at)
		if r.Err != nil || r.Index != uint64(at) || r.Duplicate != known || r.KeySequence != sequence || r.PreviousIndex != previous {
			m.t.Fatalf("%+v at %d, number %d of its key after %d, known %v: %+v", s, at, sequence, previous, known, r)
		}
	}
	m.acked = len(m.entries)
}

// run lives through one round.
func (m *model) run(r round) {
	for _, call := range r.calls {
		results, err := m.log.Append(context.Background(), "model", m.events(call))
		m.must(err)
		m.expect(call, results)
	}
	var inFlight []*log.Call
	for _, call := range r.inFlight {
		c, err := m.log.Submit(context.Background(), "model", m.events(call))
		m.must(err)
		inFlight = append(inFlight, c)
	}
	time.Sleep(r.delay)
	// What is done by now must survive; what is not may.
	over, cancel := context.WithCancel(context.Background())
	cancel()
	unknown := r.inFlight
	for i, c := range inFlight {
		results, err := c.Wait(over)
		if errors.Is(err, context.Canceled) {
			break
		}
		m.must(err)
		m.expect(r.inFlight[i], results)
		unknown = r.inFlight[i+1:]
	}
	if r.end == cleanStop || r.end == cleanStopIndexLost {
		m.stop(r)
	} else {
		m.crash(r)
	}
	m.open()
	m.compare(unknown)
	m.restarts++
}

func (m *model) stop(r round) {
	m.must(m.log.Stop())
	if pub, durable := m.log.Published().Size, m.log.DurableSize(); pub != durable {
		m.t.Fatalf("stopped with %d of %d entries published", pub, durable)
	}
	m.must(m.store.Close())
	if r.end == cleanStopIndexLost {
		m.dir.DropIndex(m.tb)
	}
}

func (m *model) crash(r round) {
	var led []byte
	var fsys *vfs.MemFS
	m.watched.Crash(func() {
		fsys = m.fsys.Snapshot(vfs.CrashCloneCfg{UnsyncedDataPercent: r.unsynced, RNG: m.rng})
		led = m.dir.ReadLedger(m.tb)
	})
	m.must(m.log.Stop())
	m.must(m.store.Close())
	m.fsys = storagetest.OverMem(fsys)
	m.dir.IndexFS = m.fsys
	if r.end == crashIndexLost {
		m.dir.DropIndex(m.tb)
	}
	if r.end == crashLedgerTorn {
		m.writeLedger(m.tear(led))
		if m.published() > m.ledgerSize() {
			// The torn slot had been written long ago: no crash does that, and it must show.
			m.openRefused()
			m.writeLedger(led)
		}
		return
	}
	m.writeLedger(led)
}

func (m *model) writeLedger(b []byte) {
	m.must(os.WriteFile(m.dir.Ledger(), b, 0o600))
}

// tear damages the newer of the ledger's slots of 512 bytes, which count their writes at
// offset 16.
func (m *model) tear(b []byte) []byte {
	torn := append([]byte(nil), b...)
	slot := torn[:512]
	if binary.BigEndian.Uint64(torn[512+16:]) > binary.BigEndian.Uint64(slot[16:]) {
		slot = torn[512:]
	}
	from := m.rng.IntN(480)
	for i := from; i < len(slot); i++ {
		slot[i] = byte(m.rng.Uint32())
	}
	return torn
}

func (m *model) ledgerSize() uint64 {
	l, err := ledger.Open(m.dir.Ledger(), logtest.Origin)
	m.must(err)
	defer l.Close()
	return l.State().Size
}

// published is the size of the published checkpoint in the store, which is closed.
func (m *model) published() uint64 {
	s, err := pebblestore.Open("store", m.options())
	m.must(err)
	defer s.Close()
	note, err := s.Cell(context.Background(), log.CheckpointCell)
	if err != nil {
		return 0
	}
	cp, _, err := checkpoint.ParseNote(note)
	m.must(err)
	return cp.Size
}

func (m *model) openRefused() {
	s, err := pebblestore.Open("store", m.options())
	m.must(err)
	defer s.Close()
	_, err = logtest.TryOpen(m.tb, m.dir, s)
	if _, ok := errors.AsType[*log.RefusalError](err); !ok {
		m.t.Fatalf("opened with a ledger behind the published checkpoint: %v", err)
	}
	m.refusals++
}

func (m *model) open() {
	s, err := pebblestore.Open("store", m.options())
	m.must(err)
	m.store, m.watched = s, m.history.Watch(m.tb, s)
	l, err := logtest.TryOpen(m.tb, m.dir, m.watched)
	m.must(err)
	m.log = l
}

// compare holds the whole store against the model. Beyond what was acknowledged it may
// hold the beginning of what was in flight.
func (m *model) compare(unknown [][]sent) {
	maybe := make(map[sent]bool)
	for _, call := range unknown {
		for _, s := range call {
			maybe[s] = true
		}
	}
	head, err := m.store.Head(context.Background())
	m.must(err)
	if head.Size < uint64(m.acked) {
		m.t.Fatalf("%d entries are left of %d acknowledged", head.Size, m.acked)
	}
	err = m.store.Payloads(context.Background(), 0, head.Size, func(i uint64, payload []byte) error {
		s, r, err := parseSent(payload)
		m.must(err)
		if i >= uint64(len(m.entries)) {
			if _, twice := m.byID[s.number]; twice || !maybe[s] {
				m.t.Fatalf("entry %d is %+v: twice %v, in flight %v", i, s, twice, maybe[s])
			}
			m.add(s)
		}
		sequence, previous := m.place(int(i))
		if m.entries[i] != s || r.Index != i || r.KeySequence != sequence || r.PreviousIndex != previous {
			m.t.Fatalf("entry %d is %+v, %+v; want %+v, number %d of its key after %d", i, s, r, m.entries[i], sequence, previous)
		}
		return nil
	})
	m.must(err)
	m.acked = len(m.entries)
}

// parseSent reads what was sent out of a payload.
func parseSent(payload []byte) (s sent, r record.Record, err error) {
	_, b, err := record.Open(payload)
	if err != nil {
		return s, r, err
	}
	if r, err = record.Parse(b); err != nil {
		return s, r, err
	}
	ev, err := event.Parse(r.KeyEvent)
	if err != nil {
		return s, r, err
	}
	if ev.GetOutcome() == keytrailv1.Outcome_OUTCOME_DENIED {
		s.variant = 1
	}
	_, err = fmt.Sscanf(ev.GetEventId(), "event-%d", &s.number)
	return s, r, err
}

func (m *model) finish() {
	m.stop(round{})
	s, err := pebblestore.Open("store", m.options())
	m.must(err)
	logtest.Check(m.tb, m.dir, s)
	m.history.Check(m.tb, s)
	m.must(s.Close())
}

// TestModelCrash lets a log be appended to, stopped, crashed and restarted at random, and
// compares it with a slice: every acknowledged event is at its index, no event has two,
// no size two roots. KEYTRAIL_LONG=1 makes the logs live four times as long.
func TestModelCrash(t *testing.T) {
	rounds := 11
	if os.Getenv("KEYTRAIL_LONG") != "" {
		rounds *= 4
	}
	signers := logtest.NewDir(t).Signers // making keys takes longer than a round
	restarts, refusals, entries := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		dir := &logtest.Dir{Path: tempDir(rt), Signers: signers}
		if err := ledger.Create(dir.Ledger(), logtest.Origin); err != nil {
			rt.Fatal(err)
		}
		m := newModel(t, rt, dir)
		for range rounds {
			m.run(drawRound(rt))
		}
		m.finish()
		restarts, refusals, entries = restarts+m.restarts, refusals+m.refusals, entries+len(m.entries)
	})
	t.Logf("%d restarts, %d refusals, %d entries", restarts, refusals, entries)
}

// tempDir makes a directory that is gone when the check ends.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "keytrail-model")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
