package storagetest_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestFaultsOfCommit(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		ctx := context.Background()
		f := storagetest.NewFaults(memstore.New())
		b := storagetest.NewBuilder()
		if err := f.Commit(ctx, b.Batch(t, 3)); err != nil {
			t.Fatal(err)
		}
		first := b.Head
		f.FailAt(storagetest.OpCommit, 2, persisted)
		if err := f.Commit(ctx, b.Batch(t, 3)); err != nil {
			t.Fatalf("the commit before the fault: %v", err)
		}
		second := b.Head
		batch := b.Batch(t, 3)
		if err := f.Commit(ctx, batch); !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("persisted %v: commit: %v, want ErrInjected", persisted, err)
		}
		if err := f.SwapCell(ctx, "cell", nil, []byte("x")); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("persisted %v: swap after the fault: %v, want ErrInjected", persisted, err)
		}
		want := second
		if persisted {
			want = b.Head
		}
		if got, err := f.Head(ctx); err != nil || !got.Equal(want) {
			t.Errorf("persisted %v: head %v, %v; want %v (was %v)", persisted, got, err, want, first)
		}
		if n := f.Calls(storagetest.OpCommit); n != 3 {
			t.Errorf("persisted %v: %d calls of Commit, want 3", persisted, n)
		}

		f = f.Reopen()
		err := f.Commit(ctx, batch)
		if persisted && !errors.Is(err, storage.ErrConflict) || !persisted && err != nil {
			t.Errorf("persisted %v: commit after reopening: %v", persisted, err)
		}
	}
}

func TestFaultsOfReads(t *testing.T) {
	ctx := context.Background()
	f := storagetest.NewFaults(memstore.New())
	b := storagetest.NewBuilder()
	if err := f.Commit(ctx, b.Batch(t, 3)); err != nil {
		t.Fatal(err)
	}
	nothing := func(uint64, []byte) error { return nil }
	for op, call := range map[storagetest.Op]func() error{
		storagetest.OpHead:     func() error { _, err := f.Head(ctx); return err },
		storagetest.OpTile:     func() error { _, err := f.Tile(ctx, 0, 0, 1); return err },
		storagetest.OpLeaves:   func() error { return f.Leaves(ctx, 0, 1, nothing) },
		storagetest.OpPayloads: func() error { return f.Payloads(ctx, 0, 1, nothing) },
	} {
		f.FailNext(op, true)
		if err := call(); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("%s: %v, want ErrInjected", op, err)
		}
		if err := call(); err != nil {
			t.Errorf("%s after the fault: %v", op, err)
		}
	}
	f.FailNext(storagetest.OpCell, false)
	if _, err := f.Cell(ctx, "cell"); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Cell: %v, want ErrInjected", err)
	}
	if _, err := f.Cell(ctx, "cell"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Cell after the fault: %v, want fs.ErrNotExist", err)
	}
	if f.Failed() {
		t.Error("failed reads stop the writes")
	}
	called := false
	f.Before(storagetest.OpCommit, func(context.Context) { called = true })
	if err := f.Commit(ctx, b.Batch(t, 1)); err != nil || !called {
		t.Errorf("commit with a hook: %v, called %v", err, called)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(ctx, b.Batch(t, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("commit after Close: %v, want fs.ErrClosed", err)
	}
}
