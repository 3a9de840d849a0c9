package tiles_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
)

// check checks a log of size entries, whose leaves are those of the history "main".
func check(t *testing.T, log *tilestest.Log, size int) (*tiles.Report, error) {
	t.Helper()
	next := uint64(0)
	report, err := open(t, log).Check(t.Context(), uint64(size), log.Root(size), tiles.CheckOptions{
		Leaf: func(i uint64, leaf []byte) error {
			if i != next || leaf != nil && !bytes.Equal(leaf, tilestest.Leaf("main", int(i))) {
				return fmt.Errorf("leaf %d is wrong, or comes in place of %d", i, next)
			}
			next++
			return nil
		},
	})
	if err == nil && next != uint64(size) {
		t.Errorf("%d leaves of %d", next, size)
	}
	return report, err
}

func TestCheck(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	for _, c := range []struct{ size, tiles int }{
		{0, 0}, {1, 1}, {255, 1}, {256, 2}, {257, 3}, {600, 4}, {65535, 257}, {65536, 258}, {65537, 259}, {66000, 261},
	} {
		if c.size > 60000 && testing.Short() {
			break
		}
		log.Grow(c.size)
		report, err := check(t, log, c.size)
		if err != nil {
			t.Fatal(err)
		}
		if report.Entries != uint64(c.size) || report.Tiles != uint64(c.tiles) || len(report.Problems)+len(report.Unread) > 0 {
			t.Errorf("size %d: %+v, want %d tiles", c.size, report, c.tiles)
		}
	}
}

// TestCheckFindsEveryLie flips a byte of every file in turn. The report names that place,
// and no other.
func TestCheckFindsEveryLie(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	for _, c := range []struct {
		size  int
		lies  map[string]string
		bytes []int
	}{
		{size: 700, bytes: []int{2, 100, -1}, lies: map[string]string{
			"tile/0/000": "tile 0/0", "tile/0/001": "tile 0/1", "tile/0/002.p/188": "tile 0/2", "tile/1/000.p/2": "tile 1/0",
			"tile/entries/000": "entry ", "tile/entries/001": "entry ", "tile/entries/002.p/188": "entry ",
		}},
		{size: 66000, bytes: []int{5}, lies: map[string]string{
			"tile/0/000": "tile 0/0", "tile/0/256": "tile 0/256", "tile/1/000": "tile 1/0", "tile/1/001.p/1": "tile 1/1", "tile/2/000.p/1": "tile 2/0",
			"tile/entries/000": "entry 0", "tile/entries/255": "entry 65280", "tile/entries/257.p/208": "entry 65792",
		}},
	} {
		if c.size > 60000 && testing.Short() {
			break
		}
		log.Grow(c.size)
		for path, where := range c.lies {
			for _, offset := range c.bytes {
				log.Flip(path, offset)
				report, err := check(t, log, c.size)
				if err != nil || len(report.Problems) != 1 || !strings.HasPrefix(report.Problems[0].Where, where) || len(report.Unread) > 0 {
					t.Errorf("%s, byte %d: %+v, %v; want a problem at %s", path, offset, report, err, where)
				}
			}
		}
		log.Lie(nil)
	}
}

// TestCheckOfManyLies lists the first of them and counts the rest.
func TestCheckOfManyLies(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(700)
	log.Lie(func(path string, b []byte) []byte {
		if strings.HasPrefix(path, "tile/entries/") {
			for i := 0; i < len(b); i += 35 {
				b[i+4] ^= 1
			}
		}
		return b
	})
	report, err := check(t, log, 700)
	if err != nil || len(report.Problems) != 100 || report.Unlisted != 600 || report.Problems[99].Where != "entry 99" {
		t.Errorf("%d problems and %d more, %v", len(report.Problems), report.Unlisted, err)
	}
}

// TestCheckOfAnotherTree has a checkpoint that does not fit the leaves: the root is named,
// and where the right edge is the checkpoint's, the entry.
func TestCheckOfAnotherTree(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(700)
	fork := log.Fork(300)
	fork.GrowAs("fork", 700)
	report, err := open(t, log).Check(t.Context(), 700, fork.Root(700), tiles.CheckOptions{})
	if err != nil || len(report.Problems) != 1 || report.Problems[0].Where != "checkpoint" {
		t.Errorf("%+v, %v", report, err)
	}
	// Leaves of one history with tiles of another.
	mixed := log.Fork(700)
	mixed.Lie(func(path string, b []byte) []byte {
		if strings.HasPrefix(path, "tile/entries/") {
			return fork.Bytes(path)
		}
		return b
	})
	report, err = open(t, mixed).Check(t.Context(), 700, log.Root(700), tiles.CheckOptions{})
	if err != nil || len(report.Problems) != 100 || report.Problems[0].Where != "entry 300" {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestCheckOfWhatIsMissing tells what cannot be read from what is wrong.
func TestCheckOfWhatIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(66000)
	for _, short := range []bool{false, true} {
		// miss takes a file away, or cuts it short.
		miss := func(missing string) {
			log.Lie(func(path string, b []byte) []byte {
				switch {
				case path != missing:
					return b
				case short:
					return b[:len(b)-1]
				}
				return nil
			})
		}
		for path, where := range map[string]string{"tile/0/001": "tile 0/1", "tile/1/000": "tile 1/0"} {
			miss(path)
			report, err := check(t, log, 66000)
			if err != nil || len(report.Problems) != 0 || len(report.Unread) != 1 || report.Unread[0].Where != where {
				t.Errorf("%s: %+v, %v", path, report, err)
			}
		}
		for _, path := range []string{"tile/entries/001", "tile/0/257.p/208", "tile/2/000.p/1"} {
			miss(path)
			report, err := check(t, log, 66000)
			if err == nil || len(report.Problems) != 0 {
				t.Errorf("%s: %+v, %v", path, report, err)
			}
			if _, lies := errors.AsType[*tiles.ContradictionError](err); lies {
				t.Errorf("%s: a lie: %v", path, err)
			}
		}
	}
}

func TestCheckStops(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(5000)
	stop := errors.New("enough")
	n := 0
	_, err := open(t, log).Check(t.Context(), 5000, log.Root(5000), tiles.CheckOptions{Leaf: func(uint64, []byte) error {
		if n++; n == 700 {
			return stop
		}
		return nil
	}})
	if !errors.Is(err, stop) || n != 700 {
		t.Errorf("%v after %d leaves", err, n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	report, err := open(t, log).Check(ctx, 5000, log.Root(5000), tiles.CheckOptions{Progress: func(done, _ uint64) {
		if done >= 1000 {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) || len(report.Unread) > 0 {
		t.Errorf("%v, %+v", err, report)
	}
}
