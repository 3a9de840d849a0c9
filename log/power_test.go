package log_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// moment is what is left when the power goes at that moment.
type moment struct {
	fsys   *vfs.MemFS
	ledger []byte
	acked  []log.Result // of the events 0, 1, …
	seen   uint64       // what the world had seen published
}

// powerRun lets a log live on a crashable disk and records the moments around each sync.
func powerRun(t *testing.T, d *logtest.Dir, events int, rng *rand.Rand) []moment {
	t.Helper()
	fsys := storagetest.NewSyncFS()
	s, err := pebblestore.Create("store", pebblestore.Options{FS: fsys, CacheBytes: 1 << 20, MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	d.IndexFS, d.IndexRound = fsys, 20
	l := logtest.Open(t, d, s)
	crashes := rand.New(rand.NewPCG(rng.Uint64(), 0)) // used by one sync at a time
	var mu sync.Mutex
	var acked []log.Result
	var moments []moment
	around := func() {
		mu.Lock()
		m := moment{acked: acked[:len(acked):len(acked)]}
		mu.Unlock()
		m.seen = l.Published().Size
		cfg := vfs.CrashCloneCfg{}
		if crashes.IntN(3) == 0 {
			cfg = vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: crashes}
		}
		m.fsys = fsys.CrashClone(cfg)
		m.ledger = d.ReadLedger(t)
		moments = append(moments, m)
	}
	fsys.Around(around)
	for len(acked) < events {
		// Calls of one to nine events; a large one now and then moves tables about.
		n := 1 + rng.IntN(9)
		var call []log.Event
		for i := range n {
			ev := logtest.Event(len(acked)+i, fmt.Sprint(i%4))
			if rng.IntN(10) == 0 {
				ev.SourceSignature = &keytrailv1.SourceSignature{Algorithm: "a", KeyId: "k", Signature: noise(rng, 2000)}
			}
			call = append(call, logtest.Prepare(t, ev))
		}
		results, err := l.Append(t.Context(), "power", call)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		acked = append(acked, results...)
		mu.Unlock()
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return moments
}

// noise is what no table compresses.
func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestPowerLoss cuts the power before and after every sync of a log's life: it opens
// again without help, holds what it acknowledged, and has not gone back behind what it
// published.
func TestPowerLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	d := logtest.NewDir(t)
	moments := powerRun(t, d, 300, rng)
	last := 0
	for i, m := range moments {
		last = max(last, len(m.acked))
		checkMoment(t, i, d, &m)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d moments, up to %d events acknowledged", len(moments), last)
	if len(moments) < 100 || last < 250 {
		t.Errorf("%d moments, %d events: the test does not test", len(moments), last)
	}
}

func checkMoment(t *testing.T, i int, d *logtest.Dir, m *moment) {
	t.Helper()
	s, err := pebblestore.Open("store", pebblestore.Options{FS: m.fsys, CacheBytes: 1 << 20, MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatalf("moment %d: %v", i, err)
	}
	defer s.Close()
	again := d.WithLedger(t, m.ledger)
	again.IndexFS = m.fsys
	l, err := logtest.TryOpen(t, again, s)
	if err != nil {
		t.Fatalf("moment %d: %v", i, err)
	}
	if pub := l.Published(); pub.Size < m.seen {
		t.Errorf("moment %d: size %d had been published, %d is", i, m.seen, pub.Size)
	}
	if n := l.DurableSize(); n < uint64(len(m.acked)) {
		t.Errorf("moment %d: %d entries of %d acknowledged", i, n, len(m.acked))
	}
	for n, want := range m.acked {
		err := s.Payloads(t.Context(), want.Index, want.Index+1, func(_ uint64, payload []byte) error {
			got, _, err := parseSent(payload)
			if err == nil && got.number != n {
				t.Errorf("moment %d: event %d stands where event %d was acknowledged", i, got.number, n)
			}
			return err
		})
		if err != nil {
			t.Errorf("moment %d: event %d: %v", i, n, err)
		}
	}
	// The log goes on, also with what is there already.
	if n := len(m.acked); n > 0 {
		other := logtest.Event(n-1, "other key")
		if r := l.Append1(t, other); r.Err == nil || r.Index != m.acked[n-1].Index {
			t.Errorf("moment %d: event %d again: %+v", i, n-1, r)
		}
	}
	l.Append1(t, logtest.Event(100_000, "1"))
	if err := l.Stop(); err != nil {
		t.Fatalf("moment %d: %v", i, err)
	}
	logtest.Check(t, again, s)
}
