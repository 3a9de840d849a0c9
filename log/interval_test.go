package log_test

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"sync"
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
	// A log that keeps the interval stays where it is however long this waits.
	if size, err := waitBriefly(t, l); err == nil {
		t.Errorf("published %d of %d within the interval", size, l.DurableSize())
	}
	checkUnpublished(t, l)
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

// TestLeisure has a log that publishes once an hour while more than one entry waits and nobody
// for them: one that comes alone is published, and two when somebody waits for them.
func TestLeisure(t *testing.T) {
	s := storagetest.NewFaults(memstore.New())
	var l *logtest.Log
	var once sync.Once
	two := make(chan struct{})
	// The publisher reads the head, then tiles: two entries come while it makes a checkpoint.
	s.Before(storagetest.OpTile, func(ctx context.Context) {
		once.Do(func() {
			defer close(two)
			events := []log.Event{logtest.Prepare(t, logtest.Event(100, "k")), logtest.Prepare(t, logtest.Event(101, "k"))}
			if _, err := l.Append(ctx, "", events); err != nil {
				t.Error(err)
			}
		})
	})
	d := logtest.NewDir(t)
	d.Opened = func(l *log.Log) { log.SetLeisure(l, time.Hour) }
	l = logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1) // in no hurry
	l.Append1(t, logtest.Event(1, "k"))
	<-two
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if size, err := l.FollowPublished(ctx, 3); err == nil {
		t.Errorf("published %d of %d, and nobody was in a hurry", size, l.DurableSize())
	}
	soon, cancelSoon := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancelSoon()
	if _, err := l.WaitPublished(soon, 3); err != nil {
		t.Error(err)
	}
	if err := l.Stop(); err != nil {
		t.Error(err)
	}
}

// TestBusyInterval has twenty entries come with every checkpoint, then a hundred, and then one
// with each that takes 3 ms to prove: two checkpoints are 5, 10 or 20 ms apart, however short
// the least interval is.
func TestBusyInterval(t *testing.T) {
	t.Run("nobody waits", func(t *testing.T) { testBusyInterval(t, 20, false, 0, 20*time.Millisecond) })
	t.Run("many entries", func(t *testing.T) { testBusyInterval(t, 20, true, 0, 5*time.Millisecond) })
	t.Run("very many", func(t *testing.T) { testBusyInterval(t, 100, true, 0, 10*time.Millisecond) })
	t.Run("slow machine", func(t *testing.T) { testBusyInterval(t, 1, true, 3*time.Millisecond, 5*time.Millisecond) })
}

func testBusyInterval(t *testing.T, entries int, hurry bool, slow, interval time.Duration) {
	const rounds = 20
	s := storagetest.NewFaults(memstore.New())
	l := logtest.Open(t, logtest.NewDir(t), s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	if hurry {
		waiting := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); <-waiting }()
		go func() {
			defer close(waiting)
			_, _ = l.WaitPublished(ctx, math.MaxUint64) // until the end
		}()
	}
	var begun []time.Time
	appended := true
	enough := make(chan struct{})
	// The publisher reads the head, then tiles; only it does either.
	s.Before(storagetest.OpHead, func(context.Context) {
		begun, appended = append(begun, time.Now()), false
		if len(begun) == rounds {
			close(enough)
		}
	})
	s.Before(storagetest.OpTile, func(ctx context.Context) {
		if appended || len(begun) >= rounds {
			return
		}
		appended = true
		time.Sleep(slow)
		var events []log.Event
		for i := range entries {
			events = append(events, logtest.Prepare(t, logtest.Event(len(begun)*entries+i+1, "k")))
		}
		if _, err := l.Append(ctx, "", events); err != nil {
			t.Error(err)
		}
	})
	l.Append1(t, logtest.Event(1, "k"))
	<-enough
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	// Some slack for the first, whose beginning is before its reading of the head.
	if d := begun[rounds-1].Sub(begun[0]); d < (rounds-1)*interval*9/10 {
		t.Errorf("%d checkpoints in %v", rounds, d)
	}
}

// waitBriefly waits for anything to be published.
func waitBriefly(t *testing.T, l *log.Log) (uint64, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	return l.WaitPublished(ctx, 0)
}

// checkUnpublished checks that entry 0, durable and not published, can be read in no way.
func checkUnpublished(t *testing.T, l *log.Log) {
	t.Helper()
	ctx := t.Context()
	nothing := func(uint64, []byte) error { return errors.New("was read") }
	_, receipt := l.Receipt(ctx, 0)
	_, _, _, _, inclusion := l.Inclusion(ctx, 0, 1)
	_, _, _, consistency := l.Consistency(ctx, 0, 1)
	_, tile := l.Tile(ctx, 0, 0, 1)
	for what, err := range map[string]error{
		"receipt": receipt, "inclusion": inclusion, "consistency": consistency, "tile": tile,
		"payload": l.Payloads(ctx, 0, 1, nothing), "leaf": l.Leaves(ctx, 0, 1, nothing),
	} {
		if !errors.Is(err, log.ErrUnpublished) {
			t.Errorf("%s of an unpublished entry: %v", what, err)
		}
	}
	if _, err := l.RootAt(ctx, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("root at an unpublished size: %v", err)
	}
}
