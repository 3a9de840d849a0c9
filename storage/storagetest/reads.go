package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/keytrail/keytrail/storage"
)

// reader is Leaves or Payloads.
type reader func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error

func testRanges(t *testing.T, open Open) {
	ctx := context.Background()
	s, _ := open(t)
	b := NewBuilder()
	for _, n := range []int{200, 100, 400} {
		commit(t, s, b, n)
	}
	size := b.Head.Size
	for name, read := range map[string]reader{"leaves": s.Leaves, "payloads": s.Payloads} {
		for _, r := range [][2]uint64{{0, 0}, {0, 1}, {0, 256}, {255, 257}, {256, 512}, {1, 699}, {511, 513}, {699, 700}, {700, 700}, {0, 700}} {
			next := r[0]
			err := read(ctx, r[0], r[1], func(i uint64, _ []byte) error {
				if i != next {
					return fmt.Errorf("entry %d stands where entry %d should", i, next)
				}
				next++
				return nil
			})
			if err != nil || next != r[1] {
				t.Errorf("%s %d to %d: %v, ends at %d", name, r[0], r[1], err, next)
			}
		}
		for _, r := range [][2]uint64{{0, size + 1}, {size, size + 1}, {size + 1, size + 1}, {0, 1<<64 - 1}} {
			called := false
			err := read(ctx, r[0], r[1], func(uint64, []byte) error { called = true; return nil })
			if !errors.Is(err, fs.ErrNotExist) || called {
				t.Errorf("%s %d to %d of %d: %v, called %v; want fs.ErrNotExist", name, r[0], r[1], size, err, called)
			}
		}
		if err := read(ctx, 2, 1, func(uint64, []byte) error { return nil }); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%s 2 to 1: %v, want ErrInvalid", name, err)
		}
		stop := errors.New("stop")
		n := 0
		err := read(ctx, 0, size, func(uint64, []byte) error {
			if n++; n == 300 {
				return stop
			}
			return nil
		})
		if err != stop || n != 300 { //nolint:errorlint // The contract: as it is.
			t.Errorf("%s ended by fn: %v after %d, want its own error after 300", name, err, n)
		}
		// fn may use the store.
		err = read(ctx, 0, 3, func(i uint64, _ []byte) error {
			_, err := s.Tile(ctx, 0, 0, int(i)+1)
			return err
		})
		if err != nil {
			t.Errorf("%s with a reading fn: %v", name, err)
		}
	}
}

// testOwnership changes what it gave and what it got, and finds the store unchanged.
func testOwnership(t *testing.T, open Open) {
	ctx := context.Background()
	s, _ := open(t)
	b := NewBuilder()
	for range 3 {
		batch := b.Batch(t, 150)
		for i := range batch.Entries {
			e := &b.entries[batch.Old.Size+uint64(i)]
			e.Leaf, e.Payload = bytes.Clone(e.Leaf), bytes.Clone(e.Payload)
		}
		if err := s.Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
		for i := range batch.Entries {
			scratch(batch.Entries[i].Leaf)
			scratch(batch.Entries[i].Payload)
		}
		for i := range batch.Nodes {
			scratch(batch.Nodes[i].Hash[:])
		}
		batch.New.Root = [storage.HashSize]byte{}
		Check(t, s, b, nil)
	}
	for _, level := range []uint8{0, 1} {
		tile, err := s.Tile(ctx, level, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		scratch(tile)
	}
	for _, read := range []reader{s.Leaves, s.Payloads} {
		err := read(ctx, 0, b.Head.Size, func(_ uint64, got []byte) error {
			scratch(got[:cap(got)])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	Check(t, s, b, nil)

	content := []byte("content")
	if err := s.SwapCell(ctx, "cell", nil, content); err != nil {
		t.Fatal(err)
	}
	scratch(content)
	got, err := s.Cell(ctx, "cell")
	if err != nil {
		t.Fatal(err)
	}
	scratch(got)
	if got, err := s.Cell(ctx, "cell"); err != nil || string(got) != "content" {
		t.Errorf("the cell holds %q, %v", got, err)
	}
}

// scratch overwrites bytes.
func scratch(b []byte) {
	for i := range b {
		b[i] ^= 0xff
	}
}

func testErase(t *testing.T, open Open) {
	ctx := context.Background()
	s, reopen := open(t)
	b := NewBuilder()
	commit(t, s, b, 700)
	// An empty payload is not an erased one.
	if err := s.Commit(ctx, b.BatchOf(t, []storage.Entry{{Leaf: []byte("a")}, {Leaf: []byte("b"), Payload: []byte{}}})); err != nil {
		t.Fatal(err)
	}
	for i := 700; i < 702; i++ {
		b.entries[i].Payload = []byte{}
	}
	gone := make(map[uint64]bool)
	erased := func(i uint64) bool { return gone[i] }
	Check(t, s, b, erased)
	if err := s.ErasePayloads(ctx, []uint64{1, b.Head.Size}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("erasing beyond the tree: %v, want fs.ErrNotExist", err)
	}
	Check(t, s, b, erased)
	all := make([]uint64, 200)
	for i := range all {
		all[i] = 300 + uint64(i)
	}
	for _, indexes := range [][]uint64{{}, {0}, {701, 5, 0, 5}, all, {700, 699}} {
		if err := s.ErasePayloads(ctx, indexes); err != nil {
			t.Fatalf("erasing %v: %v", indexes, err)
		}
		for _, i := range indexes {
			gone[i] = true
		}
		Check(t, s, b, erased)
		commit(t, s, b, 1)
	}
	s = reopen()
	Check(t, s, b, erased)
}

func testCancelled(t *testing.T, open Open) {
	s, _ := open(t)
	b := NewBuilder()
	commit(t, s, b, 300)
	ctx, cancel := context.WithCancel(context.Background())
	for name, read := range map[string]reader{"leaves": s.Leaves, "payloads": s.Payloads} {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		err := read(ctx, 0, b.Head.Size, func(uint64, []byte) error {
			n++
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || n == int(b.Head.Size) {
			t.Errorf("%s cancelled while reading: %v after %d of %d", name, err, n, b.Head.Size)
		}
	}
	cancel()
	nothing := func(uint64, []byte) error { return nil }
	head := b.Head
	for name, call := range calls(ctx, s, b.Batch(t, 1), nothing) {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
	b.entries, b.Head = b.entries[:300], head
	Check(t, s, b, nil)
	if _, err := s.Cell(context.Background(), "cell"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cancelled swap has written: %v", err)
	}
}

func testClosed(t *testing.T, open Open) {
	s, _ := open(t)
	b := NewBuilder()
	commit(t, s, b, 3)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, call := range calls(context.Background(), s, b.Batch(t, 1), func(uint64, []byte) error { return nil }) {
		if err := call(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v, want fs.ErrClosed", name, err)
		}
	}
}

// calls are one call of each method.
func calls(ctx context.Context, s storage.Store, batch *storage.Batch, fn func(uint64, []byte) error) map[string]func() error {
	return map[string]func() error{
		"Head":          func() error { _, err := s.Head(ctx); return err },
		"Commit":        func() error { return s.Commit(ctx, batch) },
		"Tile":          func() error { _, err := s.Tile(ctx, 0, 0, 1); return err },
		"Leaves":        func() error { return s.Leaves(ctx, 0, 1, fn) },
		"Payloads":      func() error { return s.Payloads(ctx, 0, 1, fn) },
		"ErasePayloads": func() error { return s.ErasePayloads(ctx, []uint64{0}) },
		"Cell":          func() error { _, err := s.Cell(ctx, "cell"); return err },
		"SwapCell":      func() error { return s.SwapCell(ctx, "cell", nil, []byte("x")) },
	}
}
