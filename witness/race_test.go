package witness_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness"
)

// onDisk makes a witness whose store is on disk.
func onDisk(t testing.TB, logs ...*testLog) *testWitness {
	t.Helper()
	s, err := pebblestore.Create(filepath.Join(t.TempDir(), "store"), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return newWitness(t, s, logs...)
}

// TestRaceOfForks lets a thousand histories of one log come at once: one is cosigned, the
// others are told its size or that they are another tree.
func TestRaceOfForks(t *testing.T) {
	const forks = 1000
	l := newLog(t, testOrigin, testOrigin)
	w := onDisk(t, l)
	histories := make([]*testLog, forks)
	first := make([][]byte, forks)
	second := make([][]byte, forks)
	for i := range forks {
		f := l.forked(strconv.Itoa(i))
		f.grow(20)
		histories[i] = f
		size := uint64(5 + i%7)
		first[i] = f.bundle(t, 0, size, f.sign(t, f.at(size), f.keys[0]))
		second[i] = f.bundle(t, size, 20, f.sign(t, f.at(20), f.keys[0]))
	}
	winner := race(t, w, first)
	if got := w.Logs()[0]; got.Root != histories[winner].at(got.Size).Root {
		t.Errorf("the state is not what was cosigned: %+v", got)
	}
	// Every history goes on from the size that was cosigned of it, were it the one.
	if again := race(t, w, second); again != winner {
		t.Errorf("history %d was cosigned after history %d", again, winner)
	}
	if got := w.Logs()[0]; got.Size != 20 || got.Root != histories[winner].at(20).Root {
		t.Errorf("the state is not what was cosigned: %+v", got)
	}
}

// race sends all requests at once, and returns which of them was cosigned: one.
func race(t *testing.T, w *testWitness, requests [][]byte) int {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var winners []int
	start := make(chan struct{})
	for i, body := range requests {
		wg.Go(func() {
			<-start
			_, err := w.AddCheckpoint(context.Background(), body)
			e, refused := errors.AsType[*witness.RefusalError](err)
			switch {
			case err == nil:
				mu.Lock()
				winners = append(winners, i)
				mu.Unlock()
			case !refused || (e.Status != http.StatusConflict && e.Status != http.StatusUnprocessableEntity):
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if len(winners) != 1 {
		t.Fatalf("%d of %d conflicting requests were cosigned, want 1", len(winners), len(requests))
	}
	return winners[0]
}

// TestRaceOfSizes lets a log race with itself: what is cosigned only grows, and each answer
// is of the largest tree so far.
func TestRaceOfSizes(t *testing.T) {
	const racers, top = 8, 60
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	requests := make(map[[2]uint64][]byte)
	for old := uint64(0); old < top; old++ {
		for size := old; size <= min(old+3, top); size++ {
			requests[[2]uint64{old, size}] = l.bundle(t, old, size, l.sign(t, l.at(size), l.keys[0]))
		}
	}
	var wg sync.WaitGroup
	for r := range uint64(racers) {
		wg.Go(func() {
			var old uint64
			for step := r; old < top; step++ {
				size := min(old+step%4, top)
				_, err := w.AddCheckpoint(context.Background(), requests[[2]uint64{old, size}])
				e, refused := errors.AsType[*witness.RefusalError](err)
				switch {
				case err == nil:
					old = size
				case refused && e.Status == http.StatusConflict && e.Size >= old:
					old = e.Size
				default:
					t.Errorf("from %d to %d: %v", old, size, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := w.Logs()[0]; got.Size != top || got.Root != l.at(top).Root {
		t.Errorf("the state is %+v", got)
	}
}

// TestRaceOfLogs cosigns many logs at once: each has its own history.
func TestRaceOfLogs(t *testing.T) {
	var logs []*testLog
	for i := range 32 {
		name := "log.test/" + strconv.Itoa(i)
		logs = append(logs, newLog(t, name, name))
	}
	w := onDisk(t, logs...)
	var wg sync.WaitGroup
	for i, l := range logs {
		size := uint64(i + 1)
		first, second := l.request(t, 0, size), l.request(t, size, 2*size)
		want := l.at(2 * size)
		wg.Go(func() {
			for _, body := range [][]byte{first, second} {
				if _, err := w.AddCheckpoint(context.Background(), body); err != nil {
					t.Errorf("%s: %v", l.origin, err)
				}
			}
			note, _ := w.Checkpoint(hash(l.origin))
			if c, _, err := checkpoint.ParseNote(note); err != nil || c != want {
				t.Errorf("%s: it serves %+v, %v", l.origin, c, err)
			}
		})
	}
	wg.Wait()
}

// TestRaceWithRemoval removes a log while it is cosigned: once that is done, nothing more is.
func TestRaceWithRemoval(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := onDisk(t, l)
	w.add(t, l.request(t, 0, 9))
	again := l.request(t, 9, 9)
	for range 10 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if _, err := w.AddCheckpoint(context.Background(), again); err != nil {
						e, _ := errors.AsType[*witness.RefusalError](err)
						if e == nil || e.Status != http.StatusNotFound {
							t.Errorf("of a log that was removed: %v", err)
						}
						return
					}
				}
			})
		}
		if err := w.Remove(t.Context(), l.origin); err != nil {
			t.Fatal(err)
		}
		before, _ := w.Checkpoint(hash(l.origin))
		wg.Wait()
		if after, _ := w.Checkpoint(hash(l.origin)); string(after) != string(before) {
			t.Error("it was cosigned after its removal")
		}
		if err := w.Enroll(t.Context(), l.enrolment()); err != nil {
			t.Fatal(err)
		}
	}
}
