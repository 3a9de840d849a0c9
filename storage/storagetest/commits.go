package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/keytrail/keytrail/storage"
)

func testEmpty(t *testing.T, open Open) {
	s, reopen := open(t)
	for range 2 {
		head, err := s.Head(context.Background())
		if err != nil || !head.Equal(storage.EmptyHead()) {
			t.Errorf("head %v, %v; want %v", head, err, storage.EmptyHead())
		}
		if !head.Time.IsZero() {
			t.Errorf("head of an empty store has time %v, want zero", head.Time)
		}
		Check(t, s, NewBuilder(), nil)
		s = reopen()
	}
}

// testCommits crosses the borders of bundles and tiles in every way, reopening between.
func testCommits(t *testing.T, open Open) {
	s, reopen := open(t)
	b := NewBuilder()
	for i, n := range []int{1, 1, 2, 251, 1, 1, 255, 256, 257, 1, 511, 512, 513, 1000, 64, 1} {
		commit(t, s, b, n)
		Check(t, s, b, nil)
		if i%3 == 2 {
			s = reopen()
			Check(t, s, b, nil)
		}
	}
}

func testEverySize(t *testing.T, open Open) {
	s, _ := open(t)
	b := NewBuilder()
	for size := 1; size <= 600; size++ {
		commit(t, s, b, 1)
		for level := uint8(0); level <= 2; level++ {
			checkLevel(t, s, b, level)
		}
		if _, err := storage.Frontier(context.Background(), s, b.Head); err != nil {
			t.Fatal(err)
		}
	}
	for index := range uint64(3) {
		for width := 1; width <= storage.TileWidth && index*storage.TileWidth+uint64(width) <= 600; width++ {
			checkTile(t, s, b, 0, index, width)
		}
	}
	for _, width := range []int{-1, 0, 257} {
		if _, err := s.Tile(context.Background(), 0, 0, width); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("tile of width %d: %v, want ErrInvalid", width, err)
		}
	}
	for _, index := range []uint64{3, 1 << 40, 1<<56 - 1, 1 << 56, 1<<64 - 1} {
		for level := range 255 {
			if _, err := s.Tile(context.Background(), uint8(level), index, 1); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("tile %d/%d: %v, want fs.ErrNotExist", level, index, err)
			}
		}
	}
}

// testLevels builds a tree with nodes of level 2.
func testLevels(t *testing.T, open Open) {
	s, reopen := open(t)
	b := NewBuilder()
	small := func(n int) []storage.Entry {
		entries := make([]storage.Entry, n)
		for i := range entries {
			entries[i] = storage.Entry{Leaf: fmt.Appendf(nil, "%d", len(b.entries)+i)}
		}
		return entries
	}
	for _, n := range []int{65_000, 535, 1, 255, 1, 66_000} {
		if err := s.Commit(context.Background(), b.BatchOf(t, small(n))); err != nil {
			t.Fatal(err)
		}
		for level := uint8(1); level <= 3; level++ {
			checkLevel(t, s, b, level)
		}
		if err := storage.Verify(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen()
	Check(t, s, b, nil)
}

func testLeafSizes(t *testing.T, open Open) {
	s, reopen := open(t)
	b := NewBuilder()
	var entries []storage.Entry
	for i, n := range []int{1, storage.MaxLeafSize, 2, 255, 256, 257, 65280, 33} {
		entries = append(entries, storage.Entry{
			Leaf:    bytes.Repeat([]byte{byte(i)}, n),
			Payload: bytes.Repeat([]byte{byte(i)}, i*30_000),
		})
	}
	if err := s.Commit(context.Background(), b.BatchOf(t, entries)); err != nil {
		t.Fatal(err)
	}
	Check(t, s, b, nil)
	commit(t, s, b, 300)
	Check(t, reopen(), b, nil)
}

func testConflicts(t *testing.T, open Open) {
	ctx := context.Background()
	s, reopen := open(t)
	b := NewBuilder()
	stale := b.Batch(t, 4)
	if err := s.Commit(ctx, stale); err != nil {
		t.Fatal(err)
	}
	next := b.Batch(t, 4)
	b.entries, b.Head = b.entries[:4], stale.New

	refused := func(what string, batch storage.Batch) {
		t.Helper()
		if err := s.Commit(ctx, &batch); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", what, err)
		}
		Check(t, s, b, nil)
	}
	refused("the same batch again", *stale)
	wrong := *next
	wrong.Old.Root[0] ^= 1
	refused("another root of the same size", wrong)
	wrong = *next
	wrong.Old.Time = wrong.Old.Time.Add(1)
	refused("another time of the same size", wrong)
	wrong = *next
	wrong.Old.Size, wrong.New.Size = wrong.Old.Size+1, wrong.New.Size+1
	refused("a batch ahead of the store", wrong)

	s = reopen()
	refused("the same batch after reopening", *stale)
	// None of this was in the way of the right batch.
	if err := s.Commit(ctx, next); err != nil {
		t.Fatal(err)
	}
	b.entries, b.Head = append(b.entries, next.Entries...), next.New
	Check(t, s, b, nil)
}

func testInvalidBatches(t *testing.T, open Open) {
	s, _ := open(t)
	b := NewBuilder()
	commit(t, s, b, 250)
	good := b.Batch(t, 300) // Completes nodes 1/0 and 1/1.
	b.entries, b.Head = b.entries[:250], good.Old
	for what, change := range map[string]func(bad *storage.Batch){
		"no entries":         func(bad *storage.Batch) { bad.Entries, bad.Nodes, bad.New.Size = nil, nil, 250 },
		"size too large":     func(bad *storage.Batch) { bad.New.Size++ },
		"size too small":     func(bad *storage.Batch) { bad.New.Size-- },
		"size wraps around":  func(bad *storage.Batch) { bad.Old.Size = 1<<64 - 300; bad.New.Size = 0 },
		"empty leaf":         func(bad *storage.Batch) { bad.Entries[7].Leaf = nil },
		"leaf too long":      func(bad *storage.Batch) { bad.Entries[7].Leaf = make([]byte, storage.MaxLeafSize+1) },
		"node missing":       func(bad *storage.Batch) { bad.Nodes = bad.Nodes[:1] },
		"no nodes":           func(bad *storage.Batch) { bad.Nodes = nil },
		"node twice":         func(bad *storage.Batch) { bad.Nodes[1] = bad.Nodes[0] },
		"node not complete":  func(bad *storage.Batch) { bad.Nodes[1].Index = 2 },
		"node of level 0":    func(bad *storage.Batch) { bad.Nodes[1].Level = 0 },
		"node of level 8":    func(bad *storage.Batch) { bad.Nodes[1].Level = 8 },
		"node of level 2":    func(bad *storage.Batch) { bad.Nodes[1].Level, bad.Nodes[1].Index = 2, 0 },
		"node in the middle": func(bad *storage.Batch) { bad.Nodes[0], bad.Nodes[1] = bad.Nodes[1], bad.Nodes[0] },
		"one node too many": func(bad *storage.Batch) {
			bad.Nodes = append(bad.Nodes, storage.Node{Level: 1, Index: 2})
		},
	} {
		bad := *good
		bad.Entries = append([]storage.Entry(nil), good.Entries...)
		bad.Nodes = append([]storage.Node(nil), good.Nodes...)
		change(&bad)
		if err := s.Commit(context.Background(), &bad); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
		Check(t, s, b, nil)
	}
	if err := s.Commit(context.Background(), good); err != nil {
		t.Fatal(err)
	}
	b.entries, b.Head = append(b.entries, good.Entries...), good.New
	Check(t, s, b, nil)
}

// testRacingCommits lets writers extend the same head at the same time: one wins.
func testRacingCommits(t *testing.T, open Open) {
	const writers = 4
	s, _ := open(t)
	b := NewBuilder()
	for range 20 {
		var wg sync.WaitGroup
		errs := make([]error, writers)
		batch := b.Batch(t, 3)
		for w := range writers {
			wg.Go(func() { errs[w] = s.Commit(context.Background(), batch) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, storage.ErrConflict):
				t.Fatalf("losing the race: %v, want ErrConflict", err)
			}
		}
		if won != 1 {
			t.Fatalf("%d of %d writers won, want 1", won, writers)
		}
	}
	Check(t, s, b, nil)
}

// testReadWhileCommitting reads the right edge of whatever head there is while it moves.
func testReadWhileCommitting(t *testing.T, open Open) {
	s, _ := open(t)
	b := NewBuilder()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				if err := storage.Verify(context.Background(), s); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 150 {
		commit(t, s, b, i%40+1)
	}
	close(done)
	wg.Wait()
	Check(t, s, b, nil)
}
