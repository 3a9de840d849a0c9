package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/keytrail/keytrail/storage"
)

func testCells(t *testing.T, open Open) {
	ctx := context.Background()
	s, reopen := open(t)
	want := make(map[string]string)
	check := func() {
		t.Helper()
		for name, content := range want {
			if got, err := s.Cell(ctx, name); err != nil || got == nil || string(got) != content {
				t.Errorf("cell %.20q holds %.20q, %v; want %.20q", name, got, err, content)
			}
		}
	}
	swap := func(name string, old, new []byte, wantErr error) {
		t.Helper()
		err := s.SwapCell(ctx, name, old, new)
		if !errors.Is(err, wantErr) {
			t.Errorf("swapping %.20q from %.20q to %.20q: %v, want %v", name, old, new, err, wantErr)
		}
		if err == nil {
			want[name] = string(new)
		}
		check()
	}
	if _, err := s.Cell(ctx, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cell that was never set: %v, want fs.ErrNotExist", err)
	}
	swap("a", []byte{}, []byte("1"), storage.ErrConflict)
	swap("a", []byte("0"), []byte("1"), storage.ErrConflict)
	swap("a", nil, []byte("1"), nil)
	swap("a", nil, []byte("2"), storage.ErrConflict)
	swap("a", []byte("2"), []byte("3"), storage.ErrConflict)
	swap("a", []byte("1"), []byte("2"), nil)
	swap("a", []byte("2"), []byte("2"), nil)
	// Names that begin alike, and odd ones.
	swap("ab", nil, []byte("x"), nil)
	swap("\x00\xff/é", nil, []byte("y"), nil)
	swap(strings.Repeat("n", storage.MaxCellName), nil, []byte(strings.Repeat("z", 100_000)), nil)
	// An empty content is a content.
	swap("empty", nil, nil, nil)
	swap("empty", nil, []byte("1"), storage.ErrConflict)
	swap("empty", []byte{}, []byte("1"), nil)
	swap("empty", []byte("1"), []byte{}, nil)
	for _, name := range []string{"", strings.Repeat("n", storage.MaxCellName+1)} {
		swap(name, nil, []byte("1"), storage.ErrInvalid)
		if _, err := s.Cell(ctx, name); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("a cell with a name of %d bytes: %v, want ErrInvalid", len(name), err)
		}
	}
	// Cells and commits leave each other alone.
	b := NewBuilder()
	commit(t, s, b, 300)
	check()
	swap("a", []byte("2"), []byte("4"), nil)
	s = reopen()
	check()
	Check(t, s, b, nil)
	swap("a", []byte("4"), []byte("5"), nil)
}

// testRacingSwaps lets goroutines count in one cell, each trying again when it lost: no
// count is lost, and each swap of a round is won by one.
func testRacingSwaps(t *testing.T, open Open) {
	const racers, rounds = 4, 25
	ctx := context.Background()
	s, _ := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := 0
	for r := range racers {
		wg.Go(func() {
			if err := s.SwapCell(ctx, "created", nil, fmt.Appendf(nil, "%d", r)); err == nil {
				mu.Lock()
				created++
				mu.Unlock()
			} else if !errors.Is(err, storage.ErrConflict) {
				t.Error(err)
			}
			for range rounds {
				if err := increment(ctx, s, "count"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if created != 1 {
		t.Errorf("%d racers created the cell, want 1", created)
	}
	if got, err := s.Cell(ctx, "count"); err != nil || len(got) != racers*rounds {
		t.Errorf("the cell counts %d, %v; want %d", len(got), err, racers*rounds)
	}
}

// increment makes a cell one byte longer.
func increment(ctx context.Context, s storage.Store, name string) error {
	for {
		old, err := s.Cell(ctx, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err = s.SwapCell(ctx, name, old, append(old[:len(old):len(old)], '.'))
		if !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}
