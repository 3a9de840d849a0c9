package index_test

import (
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/index"
)

// applyTo applies rows one batch at a time until the index holds size records.
func applyTo(t *testing.T, x *index.Index, size, step uint64) {
	t.Helper()
	for at := x.Cursor().Size; at < size; {
		var rows []index.Row
		for end := min(at+step, size); at < end; at++ {
			rows = append(rows, index.Row{Index: at, Event: eventID(at)})
		}
		if err := x.Apply(rows, index.Cursor{Size: at}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkAll looks up every event below size and as many that are not there.
func checkAll(t *testing.T, x *index.Index, size uint64) {
	t.Helper()
	for n := range 2 * size {
		id := eventID(n)
		at, ok, err := x.Event(&id, entries{})
		if err != nil || ok != (n < size) || (ok && at != n) {
			t.Fatalf("event %d of %d: %d, %v, %v", n, size, at, ok, err)
		}
	}
}

func waitFilter(t *testing.T, x *index.Index, atLeast uint64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, ok := x.FilterReady(); ok && n >= atLeast {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the filter was never ready")
		}
	}
}

// TestFilterGrows lets the filter become full again and again while events are looked up,
// and after a restart, when it is filled from the rows.
func TestFilterGrows(t *testing.T) {
	dir := t.TempDir()
	opts := index.Options{RoundRecords: 2000}.WithSmallFilter(64)
	x, err := index.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				seen := x.Applied()
				if seen == 0 {
					continue
				}
				id := eventID(n % seen)
				if at, ok, err := x.Event(&id, entries{}); !ok || at != n%seen || err != nil {
					t.Errorf("event %d, of %d applied: %d, %v, %v", n%seen, seen, at, ok, err)
					return
				}
			}
		})
	}
	for _, size := range []uint64{1, 63, 64, 65, 500, 5_000, 20_000} {
		applyTo(t, x, size, 97)
		checkAll(t, x, size)
	}
	close(stop)
	readers.Wait()
	// One that became full while its successor was filled is followed by the next batch.
	applyTo(t, x, 20_001, 1)
	waitFilter(t, x, 16_384)
	checkAll(t, x, 20_001)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err = index.Open(dir, opts); err != nil {
		t.Fatal(err)
	}
	checkAll(t, x, 20_001)
	waitFilter(t, x, 20_001)
	checkAll(t, x, 20_001)
	if err := x.Reset(); err != nil {
		t.Fatal(err)
	}
	checkAll(t, x, 0)
	applyTo(t, x, 3_000, 500)
	checkAll(t, x, 3_000)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFilterHasALargestSize: a filter that has taken twenty times what it was made for is
// neither replaced by a larger one nor wrong, also after a restart.
func TestFilterHasALargestSize(t *testing.T) {
	dir := t.TempDir()
	opts := index.Options{RoundRecords: 500}.WithFilterOf(1024)
	x := open(t, dir, opts)
	applyTo(t, x, 20_480, 97)
	checkAll(t, x, 20_480)
	closeIndex(t, x)
	x = open(t, dir, opts)
	waitFilter(t, x, 1024)
	applyTo(t, x, 20_481, 1)
	checkAll(t, x, 20_481)
	waitFilter(t, x, 1024)
	if n, _ := x.FilterReady(); n != 1024 {
		t.Errorf("the filter takes %d ids", n)
	}
	closeIndex(t, x)
}

// TestFilterAnswers checks that the filter spares most lookups: it would be of no use if
// it said "perhaps" of everything.
func TestFilterAnswers(t *testing.T) {
	const size = 1 << 14
	perhaps := index.PerhapsInFull(size, size)
	if perhaps > size/20 {
		t.Errorf("a full filter says perhaps of %d among %d new ids", perhaps, size)
	}
}

func BenchmarkEventNew(b *testing.B) {
	x, err := index.Open(b.TempDir(), index.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	const size = 200_000
	rows := make([]index.Row, 0, 1000)
	for at := uint64(0); at < size; {
		rows = rows[:0]
		for range 1000 {
			rows = append(rows, index.Row{Index: at, Event: eventID(at)})
			at++
		}
		if err := x.Apply(rows, index.Cursor{Size: at}); err != nil {
			b.Fatal(err)
		}
	}
	n := uint64(size)
	for b.Loop() {
		id := eventID(n)
		if _, ok, err := x.Event(&id, entries{}); ok || err != nil {
			b.Fatal(ok, err)
		}
		n++
	}
}
