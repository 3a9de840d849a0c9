package log_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

// otherPayload shows one payload with a bit flipped, as a damaged disk could.
type otherPayload struct {
	storage.Store
	at uint64
}

func (o otherPayload) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return o.Store.Payloads(ctx, start, end, func(i uint64, p []byte) error {
		if i == o.at {
			p[40] ^= 1
		}
		return fn(i, p)
	})
}

func TestOpenChecksTheLastEntries(t *testing.T) {
	s := memstore.New()
	d := logtest.NewDir(t)
	l := logtest.Open(t, d, s)
	for i := range 10 {
		l.Append1(t, logtest.Event(i, "k"))
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []uint64{0, 9} {
		if _, err := logtest.TryOpen(t, d, otherPayload{s, at}); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("opening with entry %d changed: %v", at, err)
		}
	}
	if err := logtest.Open(t, d, s).Stop(); err != nil {
		t.Errorf("opening unchanged: %v", err)
	}
}
