package log_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// TestMinInterval runs a log that may publish once an hour: the first checkpoint comes at
// once, what is appended after it is durable and waits, and the stop publishes it.
func TestMinInterval(t *testing.T) {
	d := logtest.NewDir(t)
	s := storagetest.NewFaults(memstore.New())
	x, err := index.Open(d.Index(), index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	led, err := ledger.Open(d.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	l, err := log.Open(t.Context(), log.Config{
		Origin: logtest.Origin, Signers: d.Signers, Store: s, Index: x, Ledger: led, MinInterval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{}, 1)
	s.Before(storagetest.OpCommit, func(context.Context) {
		<-first // nothing is committed before the first checkpoint is out
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); l.Published().Note == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no first checkpoint")
		}
	}
	close(first)
	for i := range 3 {
		if _, err := l.Append(t.Context(), "", []log.Event{logtest.Prepare(t, logtest.Event(i, "k"))}); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Published().Size; got != 0 || l.DurableSize() != 3 {
		t.Errorf("published %d of %d within the interval, want 0 of 3", got, l.DurableSize())
	}
	cancel()
	if err := errors.Join(<-ended, x.Close(), led.Close()); err != nil {
		t.Fatal(err)
	}
	if got := l.Published().Size; got != 3 {
		t.Errorf("published %d at the stop, want 3", got)
	}
	if n := s.Calls(storagetest.OpSwap); n != 2 {
		t.Errorf("%d checkpoints were stored, want 2", n)
	}
}
