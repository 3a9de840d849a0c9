package log_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

// flipping is a store of which one bit is read wrong while it is on, as from bad memory:
// of every tile, or of the root in the head.
type flipping struct {
	storage.Store
	tiles, head atomic.Bool
	chance      func(n int) int
}

func (f *flipping) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	b, err := f.Store.Tile(ctx, level, index, width)
	if err == nil && len(b) > 0 && f.tiles.Load() {
		bit := f.chance(8 * len(b))
		b[bit/8] ^= 1 << (bit % 8)
	}
	return b, err
}

func (f *flipping) Head(ctx context.Context) (storage.Head, error) {
	h, err := f.Store.Head(ctx)
	if err == nil && f.head.Load() {
		bit := f.chance(8 * len(h.Root))
		h.Root[bit/8] ^= 1 << (bit % 8)
	}
	return h, err
}

// TestBitFlipsInMemory flips a bit of what the publisher reads before it signs: whatever is
// published afterwards is the true tree, or the log refuses and stops; and with good memory
// the log is whole again.
func TestBitFlipsInMemory(t *testing.T) {
	published, refused := 0, 0
	for round := range 20 {
		d, h := logtest.NewDir(t), logtest.NewHistory()
		f := &flipping{Store: memstore.New(), chance: rand.New(rand.NewPCG(1, uint64(round))).IntN}
		l := logtest.Open(t, d, h.Watch(t, f))
		size := 1 + round*17
		for i := range size {
			l.Append1(t, logtest.Event(i, ""))
		}
		l.AwaitPublished(t, uint64(size))
		f.tiles.Store(round%2 == 0)
		f.head.Store(round%2 == 1)
		_, _ = l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(size, ""))})
		err := l.Stop()
		f.tiles.Store(false)
		f.head.Store(false)
		if _, refusal := errors.AsType[*log.RefusalError](err); refusal {
			refused++
		} else if err != nil {
			t.Errorf("round %d: Run returned %v, want a refusal", round, err)
		} else {
			published++
		}
		l = logtest.Open(t, d, h.Watch(t, f))
		l.Append1(t, logtest.Event(size, ""))
		l.AwaitPublished(t, uint64(size)+1)
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
		logtest.Check(t, d, f)
		h.Check(t, f)
	}
	t.Logf("%d flips refused, %d did not matter", refused, published)
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
