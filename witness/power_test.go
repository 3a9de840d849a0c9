package witness_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
	"github.com/keytrail/keytrail/witness"
)

// powerMoment is what is left of a witness when the power goes at that moment.
type powerMoment struct {
	fsys    *vfs.MemFS
	counter []byte
	// answered is the size of each log that somebody had a cosignature over.
	answered map[string]uint64
}

// TestPowerLoss cuts the power before and after every sync of a witness's life: what
// anybody holds a cosignature over is known when it opens again, without help, and another
// history of that log is refused.
func TestPowerLoss(t *testing.T) {
	logs := []*testLog{newLog(t, testOrigin, testOrigin), newLog(t, "log.test/two", "log.test/two")}
	options := pebblestore.Options{CacheBytes: 1 << 20, MemTableBytes: 64 << 10}
	moments := witnessLife(t, options, logs)
	last := uint64(0)
	for i, m := range moments {
		last = max(last, m.answered[testOrigin])
		checkPowerMoment(t, i, &m, options, logs)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d moments, up to size %d", len(moments), last)
	if len(moments) < 50 || last < 50 {
		t.Errorf("%d moments, size %d: the test does not test", len(moments), last)
	}
}

func witnessLife(t *testing.T, options pebblestore.Options, logs []*testLog) []powerMoment {
	fsys := storagetest.NewSyncFS()
	options.FS = fsys
	s, err := pebblestore.Create("store", options)
	if err != nil {
		t.Fatal(err)
	}
	w := newWitness(t, s, logs...)
	rng := rand.New(rand.NewPCG(9, 4))
	crashes := rand.New(rand.NewPCG(4, 9)) // used by one sync at a time
	var mu sync.Mutex
	answered := make(map[string]uint64)
	var moments []powerMoment
	fsys.Around(func() {
		cfg := vfs.CrashCloneCfg{}
		if crashes.IntN(3) == 0 {
			cfg = vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: crashes}
		}
		m := powerMoment{answered: make(map[string]uint64)}
		mu.Lock()
		for origin, size := range answered {
			m.answered[origin] = size
		}
		mu.Unlock()
		var err error
		if m.counter, err = os.ReadFile(w.counter()); err != nil {
			t.Error(err)
		}
		m.fsys = fsys.CrashClone(cfg)
		moments = append(moments, m)
	})
	sizes := make(map[string]uint64)
	requests := 25
	if os.Getenv("KEYTRAIL_LONG") != "" {
		requests = 400
	}
	for range requests {
		l := logs[rng.IntN(len(logs))]
		old := sizes[l.origin]
		size := old + 1 + rng.Uint64N(8)
		w.add(t, l.request(t, old, size))
		sizes[l.origin] = size
		mu.Lock()
		answered[l.origin] = size
		mu.Unlock()
	}
	fsys.Around(func() {})
	return moments
}

func checkPowerMoment(t *testing.T, i int, m *powerMoment, options pebblestore.Options, logs []*testLog) {
	t.Helper()
	options.FS = m.fsys
	s, err := pebblestore.Open("store", options)
	if err != nil {
		t.Fatalf("moment %d: %v", i, err)
	}
	w := &testWitness{dir: t.TempDir(), store: s}
	if err := os.WriteFile(w.counter(), m.counter, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.tryOpen(t); err != nil {
		t.Fatalf("moment %d: %v", i, errors.Join(err, s.Close()))
	}
	defer func() {
		if err := errors.Join(w.Close(), s.Close()); err != nil {
			t.Errorf("moment %d: %v", i, err)
		}
	}()
	states := make(map[string]witness.Status)
	for _, st := range w.Logs() {
		states[st.Origin] = st
	}
	for _, l := range logs {
		st := states[l.origin]
		if st.Size < m.answered[l.origin] {
			t.Errorf("moment %d: %s was cosigned at size %d, the witness remembers %d", i, l.origin, m.answered[l.origin], st.Size)
		}
		if st.Size > 0 && st.Root != l.at(st.Size).Root {
			t.Errorf("moment %d: another tree of size %d is remembered", i, st.Size)
		}
		// The other history at the same size, and the way on.
		if st.Size > 0 {
			_, err := w.AddCheckpoint(context.Background(), l.forked("other").request(t, st.Size, st.Size))
			if e, ok := errors.AsType[*witness.RefusalError](err); !ok || e.Status != http.StatusUnprocessableEntity {
				t.Errorf("moment %d: another history was answered with %v", i, err)
			}
		}
		verifyLines(t, w.add(t, l.request(t, st.Size, st.Size+1)), l.at(st.Size+1))
	}
}
