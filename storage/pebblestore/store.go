// Package pebblestore is the default storage engine: one log in one directory, kept by
// the embedded key-value store Pebble.
//
// A Store may be used concurrently; commits wait for each other, and so do swaps of cells,
// which are kept beside the tree. A commit is one write-ahead-log record and is synced
// before it is acknowledged, and so are the swaps that come together; a failed sync makes the
// Store refuse every further write, because nobody knows what the disk holds then, and
// the process should end (see Options.OnFatal). One process has the directory at a time.
//
// It is trusted with what storage.Store says: keeping what it acknowledged. What is read
// from the disk is checked against checksums, and the right edge of the tree against the
// head when the store is opened. See ../DESIGN.md.
package pebblestore

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
)

// Options are how a store is opened. The zero value is what a server wants.
type Options struct {
	// FS is the file system, nil for the operating system's.
	FS vfs.FS
	// Logger takes what happens in the background; nil discards it.
	Logger *slog.Logger
	// ReadOnly opens the store without writing anything but the lock. Nobody else may
	// have it open.
	ReadOnly bool
	// OnFatal is called once, when a sync failed or a write has an unknown outcome. From
	// then on every write is refused with the same error, and the process should end at
	// once: the caller's OnFatal says why and exits. It may be called in a goroutine of
	// Pebble. If it returns or is nil, a failure in the background panics.
	OnFatal func(error)
	// CacheBytes is the size of the block cache, 0 for DefaultCacheBytes.
	CacheBytes int64
	// MemTableBytes is the size of a memtable, 0 for DefaultMemTableBytes. Up to three
	// of them are in memory; those of the cells are smaller.
	MemTableBytes uint64
}

// Store implements storage.Store. It must be made with Create or Open.
type Store struct {
	// tree keeps head, leaves, nodes and payloads; cells the cells.
	tree, cells *database

	dir     string
	fs      *storeFS
	lock    io.Closer
	log     *slog.Logger
	options Options
	// refused is set when writes are refused for good; failed when that is because a
	// write failed, so that Pebble may hold locks and the disk be anything.
	refused  atomic.Pointer[refusal]
	failed   atomic.Bool
	onFatal  sync.Once
	readOnly bool
	// flushes ends what waits for tables that cannot be written.
	flushes flushes

	// head is what the last commit that is known durable has made.
	head atomic.Pointer[storage.Head]

	// cache is shared by tree and cells; nil while they are closed.
	cache *pebble.Cache

	// straight reads many payloads at once; nil when they are read as all others.
	straight *straight

	// erasing is held by ErasePayloads, which changes rows; commits only add some.
	erasing sync.Mutex

	// flushed are the revisions of tree and cells that tables are known to hold; it
	// belongs to whoever opens, closes, or holds erasing.
	flushed [2]uint64

	// swapping guards swaps: those that wait for the next write to cells. It is taken for
	// moments only, also by who holds cells.write.
	swapping sync.Mutex
	swaps    []*swap

	// chunks are kept from reading to reading.
	chunks sync.Pool

	// calls counts the calls under way, for Close to wait for.
	calls sync.WaitGroup
	// mu guards closed.
	mu     sync.Mutex
	closed bool
}

// refusal is why a store takes no further writes.
type refusal struct{ err error }

// enter begins a call; the caller calls s.calls.Done at its end.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("using the store in %s: %w", s.dir, fs.ErrClosed)
	}
	s.calls.Add(1)
	return nil
}

// writable says why the store takes no writes, nil when it does.
func (s *Store) writable() error {
	if s.readOnly {
		return fmt.Errorf("%w (%s)", storage.ErrReadOnly, s.dir)
	}
	if r := s.refused.Load(); r != nil {
		return fmt.Errorf("the store in %s takes no further writes: %w", s.dir, r.err)
	}
	return nil
}

// refuse makes the store refuse all further writes because of err.
func (s *Store) refuse(err error) {
	if s.refused.CompareAndSwap(nil, &refusal{err}) {
		s.log.Error("the store takes no further writes", slog.String("dir", s.dir), slog.Any("err", err))
	}
}

// fail is refuse for a write whose outcome is unknown.
func (s *Store) fail(err error) {
	s.failed.Store(true)
	s.refuse(err)
	s.onFatal.Do(func() {
		if s.options.OnFatal != nil {
			s.options.OnFatal(err)
		}
	})
}

// Head implements storage.Store.
func (s *Store) Head(ctx context.Context) (storage.Head, error) {
	if err := s.enter(ctx); err != nil {
		return storage.Head{}, err
	}
	defer s.calls.Done()
	return *s.head.Load(), nil
}

// Close implements storage.Store. What was committed is moved from the write-ahead log
// to tables first, so that nothing depends on the log of a store that was closed well.
//
// After a write of unknown outcome Close leaves Pebble as it is and the directory locked
// until the process ends: what failed may hold locks, and more writing would not help.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	if again {
		return nil
	}
	if err := s.close(); err != nil {
		return fmt.Errorf("closing the store in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) close() error {
	if s.refused.Load() == nil && !s.readOnly {
		if err := s.settle(); err != nil {
			return s.release(err)
		}
	}
	if s.failed.Load() {
		return s.refused.Load().err
	}
	return s.release(nil)
}

func (s *Store) databases() [2]*database { return [...]*database{s.tree, s.cells} }

// settle moves everything to tables, gives the space of old logs back, and notes how far
// the store has come.
func (s *Store) settle() error {
	for i, d := range s.databases() {
		var err error
		if s.flushed[i], err = d.dropLogs(); err != nil {
			return err
		}
	}
	return s.writeMark()
}
