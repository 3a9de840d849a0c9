package pebblestore_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// noRoom lets no table be written while it is full, as a disk whose last room the logs took.
type noRoom struct{ full atomic.Bool }

func (n *noRoom) MaybeError(op errorfs.Op) error {
	if n.full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, ".sst") &&
		(op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFileWrite) {
		return syscall.ENOSPC
	}
	return nil
}

func (n *noRoom) String() string { return "no room for tables" }

// lines counts what is logged.
type lines struct{ n atomic.Int64 }

func (l *lines) Write(b []byte) (int, error) {
	l.n.Add(1)
	return len(b), nil
}

// TestNoRoomForTables: while tables cannot be written, commits go on into the log and what
// is said is little; what waits for tables, which is closing and opening, ends and says why
// instead of waiting for ever; and with room again everything is there.
func TestNoRoomForTables(t *testing.T) {
	mem := vfs.NewCrashableMem()
	room, said := &noRoom{}, &lines{}
	opts := small(errorfs.Wrap(mem, room))
	opts.Logger = slog.New(slog.NewTextHandler(said, nil))
	var fatal atomic.Int64
	opts.OnFatal = func(error) { fatal.Add(1) }
	b := storagetest.NewBuilder()
	s := create(t, "store", opts)
	commit := func(n int) {
		t.Helper()
		for range n {
			if err := s.Commit(context.Background(), b.Batch(t, 200)); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit(1)
	room.full.Store(true)
	commit(4) // some 500 KiB, more than a memtable
	begin := time.Now()
	time.Sleep(300 * time.Millisecond)
	if n := said.n.Load(); n == 0 || n > 200 {
		t.Errorf("%d lines were logged in %v", n, time.Since(begin))
	}
	if fatal.Load() != 0 {
		t.Error("commits had room and were ended")
	}
	if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closing: %v, want ENOSPC", err)
	}
	if fatal.Load() != 1 {
		t.Errorf("OnFatal was called %d times", fatal.Load())
	}

	// The process ends; another one opens what it has left.
	killed := mem.CrashClone(vfs.CrashCloneCfg{})
	opts.FS = errorfs.Wrap(killed, room)
	if _, err := pebblestore.Open("store", opts); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("opening: %v, want ENOSPC", err)
	}
	s = open(t, "store", small(mem.CrashClone(vfs.CrashCloneCfg{})))
	storagetest.Check(t, s, b, nil)
	closeStore(t, s)
}
