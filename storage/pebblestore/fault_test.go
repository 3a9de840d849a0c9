package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// faulty is a file system in which one write operation fails.
type faulty struct {
	mem    *vfs.MemFS
	writes atomic.Int64
	failAt int64
	// fired is when the operation failed, as acknowledged batches; -1 before.
	fired atomic.Int64
	what  atomic.Value
	acked atomic.Int64
}

func (f *faulty) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || f.writes.Add(1) != f.failAt {
		return nil
	}
	f.fired.Store(f.acked.Load())
	f.what.Store(fmt.Sprintf("operation %d, kind %d on %s", f.failAt, op.Kind, op.Path))
	return errorfs.ErrInjected
}

func (f *faulty) String() string { return "one write fails" }

// outcome is how the workload ended.
type outcome struct {
	// first is the first error of a commit, nil if there was none.
	first error
	// late is set when a commit succeeded after another had failed.
	late bool
}

// run commits until a commit fails, and some more. The store runs in goroutines of its
// own: where OnFatal would end the process, they are left as they are.
func (f *faulty) run(t *testing.T, b *storagetest.Builder) (outcome, bool) {
	fatal := make(chan struct{}, 1)
	opts := small(errorfs.Wrap(f.mem, f))
	opts.MemTableBytes = 64 << 10
	opts.OnFatal = func(error) {
		if stack := string(debug.Stack()); !strings.Contains(stack, "rotateWAL") {
			for _, returns := range []string{"pebblestore.guard", "pebblestore.(*Store).apply"} {
				if strings.Contains(stack, returns) {
					return // The error comes back to Commit.
				}
			}
		}
		fatal <- struct{}{}
		select {}
	}
	done := make(chan outcome, 1)
	go func() { done <- f.work(t, b, opts) }()
	select {
	case o := <-done:
		return o, true
	case <-fatal:
		return outcome{}, false // The process would have ended.
	case <-time.After(20 * time.Second):
		t.Errorf("%v: the workload hangs", f.what.Load())
		return outcome{}, false
	}
}

func (f *faulty) work(t *testing.T, b *storagetest.Builder, opts pebblestore.Options) (o outcome) {
	ctx := context.Background()
	s, err := pebblestore.Open("store", opts)
	if err != nil {
		return outcome{first: err}
	}
	for i := range 14 {
		err := s.Commit(ctx, b.Batch(t, []int{1, 40, 230}[i%3]))
		switch {
		case err == nil:
			o.late = o.late || o.first != nil
			f.acked.Add(1)
		case o.first == nil:
			o.first = err
		}
	}
	if o.first == nil {
		if err := s.SwapCell(ctx, "cell", nil, []byte("x")); err != nil {
			o.first = err
		}
	}
	if err := s.Close(); err == nil && o.first != nil {
		t.Errorf("%v: closing after a failed write: no error", f.what.Load())
	}
	return o
}

// TestFailedWrites lets each write operation of the file system fail in turn. Either
// nobody sees it, because the background tries again, or the store refuses all further
// writes; what was acknowledged is there when it is opened again, after a power loss too.
func TestFailedWrites(t *testing.T) {
	t.Parallel()
	step := int64(5)
	if os.Getenv("KEYTRAIL_LONG") != "" {
		step = 1
	}
	refused, healed, ended := 0, 0, 0
	for failAt := int64(1); ; failAt += step {
		mem := vfs.NewCrashableMem()
		b := storagetest.NewBuilder()
		s := create(t, "store", small(mem))
		if err := s.Commit(context.Background(), b.Batch(t, 3)); err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		f := &faulty{mem: mem, failAt: failAt}
		f.fired.Store(-1)
		f.acked.Store(1)
		o, complete := f.run(t, b)
		if f.fired.Load() < 0 {
			break // The workload has fewer operations.
		}
		switch {
		case !complete:
			ended++
		case o.late:
			t.Errorf("%v: a commit succeeded after %v", f.what.Load(), o.first)
		case o.first != nil:
			refused++
			if errors.Is(o.first, storage.ErrConflict) {
				t.Errorf("%v: %v", f.what.Load(), o.first)
			}
		default:
			healed++
		}
		acked := int(f.acked.Load())
		for _, percent := range []int{0, 100} {
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng(failAt)})
			checkAcked(t, clone, b, acked, f.what.Load())
		}
	}
	t.Logf("refused %d, tried again %d, ended the process %d", refused, healed, ended)
	if ended == 0 || healed == 0 {
		t.Error("the faults did not reach what they should")
	}
}

// TestFailedSync lets the sync of a commit fail, with an OnFatal that returns and without.
func TestFailedSync(t *testing.T) {
	ctx := context.Background()
	for _, told := range []bool{false, true} {
		mem := vfs.NewCrashableMem()
		var fail atomic.Bool
		opts := small(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if fail.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
				return errorfs.ErrInjected
			}
			return nil
		})))
		var fatal []error
		if told {
			opts.OnFatal = func(err error) { fatal = append(fatal, err) }
		}
		s := create(t, "store", opts)
		b := storagetest.NewBuilder()
		if err := s.Commit(ctx, b.Batch(t, 3)); err != nil {
			t.Fatal(err)
		}
		fail.Store(true)
		err := s.Commit(ctx, b.Batch(t, 3))
		if !errors.Is(err, errorfs.ErrInjected) || !strings.Contains(err.Error(), "outcome is unknown") {
			t.Errorf("a commit that could not be synced: %v", err)
		}
		fail.Store(false)
		for name, err := range map[string]error{
			"Commit":        s.Commit(ctx, b.Batch(t, 1)),
			"SwapCell":      s.SwapCell(ctx, "cell", nil, nil),
			"ErasePayloads": s.ErasePayloads(ctx, []uint64{0}),
			"Close":         s.Close(),
		} {
			if !errors.Is(err, errorfs.ErrInjected) {
				t.Errorf("%s after a failed sync: %v, want the first error", name, err)
			}
		}
		if told && len(fatal) != 1 {
			t.Errorf("OnFatal was called with %v, want one error", fatal)
		}
		for _, percent := range []int{0, 100} {
			checkAcked(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng(1)}), b, 1, "failed sync")
		}
	}
}

// checkAcked opens a store and finds the first acked batches in it, or one more.
func checkAcked(t *testing.T, mem *vfs.MemFS, b *storagetest.Builder, acked int, what any) {
	t.Helper()
	s, err := pebblestore.Open("store", small(mem))
	if err != nil {
		t.Errorf("%v: %v", what, err)
		return
	}
	defer closeStore(t, s)
	head, err := s.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	heads := b.Heads()
	if !head.Equal(heads[acked]) {
		acked++
	}
	if acked == len(heads) || !head.Equal(heads[acked]) {
		t.Errorf("%v: head %v is neither the old nor the new one", what, head)
		return
	}
	storagetest.Check(t, s, b.At(acked), nil)
}

// TestBitFlips flips one bit of one file of a closed store. It is found, or it does not
// matter: no flip changes what is read or makes the store forget.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", small(mem))
	for i := range 6 {
		if err := s.Commit(context.Background(), b.Batch(t, 10+60*(i%2))); err != nil {
			t.Fatal(err)
		}
		if err := s.SwapCell(context.Background(), fmt.Sprint(i), nil, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			closeStore(t, s)
			s = open(t, "store", small(mem))
		}
	}
	closeStore(t, s)
	perFile := 60
	if os.Getenv("KEYTRAIL_LONG") != "" {
		perFile = 1000
	}
	r := rng(1)
	found, harmless := 0, 0
	for _, name := range files(t, mem, "store") {
		size := len(readFile(t, mem, name))
		for range min(perFile, 8*size) {
			bit := r.IntN(8 * size)
			if size > 64 && r.IntN(4) == 0 {
				bit = 8*size - 1 - r.IntN(8*64) // The end is what could be taken for cut short.
			}
			flipped := cloneMem(t, mem)
			readFile(t, flipped, name)[bit/8] ^= 1 << (bit % 8)
			if flipFound(t, flipped, b, fmt.Sprintf("bit %d of %s (%d bytes)", bit, name, size)) {
				found++
			} else {
				harmless++
			}
		}
	}
	t.Logf("%d flips found, %d harmless", found, harmless)
	if found == 0 {
		t.Error("no flip was found")
	}
}

// flipFound says whether opening or reading a store shows that it is damaged.
func flipFound(t *testing.T, mem *vfs.MemFS, b *storagetest.Builder, what string) bool {
	t.Helper()
	ctx := context.Background()
	s, err := pebblestore.Open("store", small(mem))
	if err != nil {
		if errors.Is(err, storage.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: opening: %v, which is not so", what, err)
		}
		// The directory is free again.
		if _, again := pebblestore.Open("store", small(mem)); errors.Is(again, storage.ErrLocked) {
			t.Errorf("%s: opening again after %v: %v", what, err, again)
		}
		return true
	}
	defer func() { _ = s.Close() }()
	next := uint64(0)
	for _, read := range []func(context.Context, uint64, uint64, func(uint64, []byte) error) error{s.Leaves, s.Payloads} {
		if err := read(ctx, 0, b.Head.Size, func(uint64, []byte) error { next++; return nil }); err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("%s: %v, want ErrCorrupt", what, err)
			}
			return true
		}
	}
	for i := range 6 {
		if got, err := s.Cell(ctx, fmt.Sprint(i)); errors.Is(err, storage.ErrCorrupt) {
			return true
		} else if err != nil || string(got) != "x" {
			t.Errorf("%s: cell %d holds %q, %v", what, i, got, err)
		}
	}
	storagetest.Check(t, s, b, nil)
	return false
}

// cloneMem copies a file system.
func cloneMem(t *testing.T, mem *vfs.MemFS) *vfs.MemFS {
	t.Helper()
	clone := vfs.NewMem()
	if _, err := vfs.Clone(mem, clone, "store", "store"); err != nil {
		t.Fatal(err)
	}
	return clone
}
