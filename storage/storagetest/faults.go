package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/keytrail/keytrail/storage"
)

// ErrInjected is what an operation of a Faults store fails with.
var ErrInjected = errors.New("storagetest: injected fault")

// Op is an operation of a store.
type Op string

// The operations that can fail. Leaves and Payloads fail before the first entry.
const (
	OpHead     Op = "Head"
	OpCommit   Op = "Commit"
	OpTile     Op = "Tile"
	OpLeaves   Op = "Leaves"
	OpPayloads Op = "Payloads"
	OpErase    Op = "ErasePayloads"
	OpCell     Op = "Cell"
	OpSwap     Op = "SwapCell"
)

// writes says whether an operation changes the store.
func (o Op) writes() bool { return o == OpCommit || o == OpErase || o == OpSwap }

// Faults is a store whose operations fail when a test wants them to, in both ways that a
// caller cannot tell apart: nothing was written, or all of it was. As the contract says,
// after a failed write it refuses every further one; Reopen makes it a new store with
// what the other has written, as a new process would find it.
//
// Faults does not own the store that it wraps: Close closes only the wrapper. It may be
// used concurrently.
type Faults struct {
	inner storage.Store

	mu     sync.Mutex
	calls  map[Op]int
	plan   map[Op]map[int]bool // number of a call -> whether it is persisted
	before map[Op]func(ctx context.Context)
	failed error
	closed bool
}

// NewFaults returns a store that is inner until faults are asked for.
func NewFaults(inner storage.Store) *Faults {
	return &Faults{
		inner:  inner,
		calls:  make(map[Op]int),
		plan:   make(map[Op]map[int]bool),
		before: make(map[Op]func(context.Context)),
	}
}

// FailNext lets the next call of op fail with ErrInjected. A write is done nevertheless
// when persisted; a read fails in any case.
func (f *Faults) FailNext(op Op, persisted bool) { f.FailAt(op, 1, persisted) }

// FailAt is FailNext for the n-th call from now; 1 is the next.
func (f *Faults) FailAt(op Op, n int, persisted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan[op] == nil {
		f.plan[op] = make(map[int]bool)
	}
	f.plan[op][f.calls[op]+n] = persisted
}

// Before lets fn run at the beginning of every call of op, in the caller's goroutine; nil
// takes it away. It may block, as a slow disk does.
func (f *Faults) Before(op Op, fn func(ctx context.Context)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[op] = fn
}

// Calls returns how often op was called, failed calls included.
func (f *Faults) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Failed says whether a write has failed, so that the store refuses further ones.
func (f *Faults) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed != nil
}

// Reopen closes f and returns a store with the same content, no faults and no calls.
func (f *Faults) Reopen() *Faults {
	_ = f.Close() // Cannot fail.
	return NewFaults(f.inner)
}

// begin counts a call and says whether it fails, and if so whether it is done before.
func (f *Faults) begin(ctx context.Context, op Op) (persisted bool, err error) {
	f.mu.Lock()
	before := f.before[op]
	f.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	n := f.calls[op]
	if f.closed {
		return false, fs.ErrClosed
	}
	if op.writes() && f.failed != nil {
		return false, fmt.Errorf("%s %d after a failed write: %w", op, n, f.failed)
	}
	persisted, fails := f.plan[op][n]
	if !fails {
		return false, nil
	}
	err = fmt.Errorf("%s %d: %w", op, n, ErrInjected)
	if op.writes() {
		f.failed = err
	}
	return persisted, err
}

// write does a write through do, or lets it fail.
func (f *Faults) write(ctx context.Context, op Op, do func() error) error {
	persisted, err := f.begin(ctx, op)
	if err == nil {
		return do()
	}
	if persisted {
		if doErr := do(); doErr != nil {
			return doErr // What would not have been written cannot fail half-way.
		}
	}
	return err
}

// Head implements storage.Store.
func (f *Faults) Head(ctx context.Context) (storage.Head, error) {
	if _, err := f.begin(ctx, OpHead); err != nil {
		return storage.Head{}, err
	}
	return f.inner.Head(ctx)
}

// Commit implements storage.Store.
func (f *Faults) Commit(ctx context.Context, b *storage.Batch) error {
	return f.write(ctx, OpCommit, func() error { return f.inner.Commit(ctx, b) })
}

// Tile implements storage.Store.
func (f *Faults) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	if _, err := f.begin(ctx, OpTile); err != nil {
		return nil, err
	}
	return f.inner.Tile(ctx, level, index, width)
}

// Leaves implements storage.Store.
func (f *Faults) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	if _, err := f.begin(ctx, OpLeaves); err != nil {
		return err
	}
	return f.inner.Leaves(ctx, start, end, fn)
}

// Payloads implements storage.Store.
func (f *Faults) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	if _, err := f.begin(ctx, OpPayloads); err != nil {
		return err
	}
	return f.inner.Payloads(ctx, start, end, fn)
}

// ErasePayloads implements storage.Store.
func (f *Faults) ErasePayloads(ctx context.Context, indexes []uint64) error {
	return f.write(ctx, OpErase, func() error { return f.inner.ErasePayloads(ctx, indexes) })
}

// Cell implements storage.Store.
func (f *Faults) Cell(ctx context.Context, name string) ([]byte, error) {
	if _, err := f.begin(ctx, OpCell); err != nil {
		return nil, err
	}
	return f.inner.Cell(ctx, name)
}

// SwapCell implements storage.Store.
func (f *Faults) SwapCell(ctx context.Context, name string, old, new []byte) error {
	return f.write(ctx, OpSwap, func() error { return f.inner.SwapCell(ctx, name, old, new) })
}

// Close implements storage.Store for the wrapper alone.
func (f *Faults) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

var _ storage.Store = (*Faults)(nil)
