package pebblestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/keytrail/keytrail/storage"
)

const (
	// DefaultCacheBytes is the size of the block cache. The log reads its right edge
	// and what was appended lately, so that a larger one would hold little more.
	DefaultCacheBytes = 16 << 20
	// DefaultMemTableBytes is the size of a memtable of the tree. Each becomes one table
	// of payloads and one of leaves, so that it decides how many files there are.
	DefaultMemTableBytes = 20 << 20
)

// maxCellsMemTable limits the memtable of the cells, in bytes: a second of checkpoints.
const maxCellsMemTable = 2 << 20

// memTables is how many memtables there may be, the one that is written to among them:
// writers wait when it is full before the one before it is flushed.
const memTables = 2

// recycledLogs is how many old logs Pebble keeps to write over: memTables+1.
const recycledLogs = memTables + 1

// treeOptions are chosen for keys that only grow: flushed tables do not overlap and are
// never merged, but for the few rows of head and nodes.
func (s *Store) treeOptions() *pebble.Options {
	o := s.pebbleOptions(s.tree)
	o.MemTableSize = cmp.Or(s.options.MemTableBytes, DefaultMemTableBytes)
	// A flush ends a table where the kind of rows changes, so that those of leaves and of
	// payloads each come after the ones before.
	o.Experimental.SpanPolicyFunc = func(start []byte) (pebble.SpanPolicy, []byte, error) {
		switch {
		case bytes.Compare(start, []byte{kindLeaves}) < 0:
			return pebble.SpanPolicy{}, []byte{kindLeaves}, nil
		case bytes.Compare(start, []byte{kindPayloads}) < 0:
			return pebble.SpanPolicy{}, []byte{kindPayloads}, nil
		}
		return pebble.SpanPolicy{}, nil, nil
	}
	// One table of each kind from a flush, however much of it.
	o.TargetFileSizes[0], o.TargetFileSizes[1] = 64<<20, 64<<20
	// One level below the flushed tables holds everything: no merge from level to level.
	o.LBaseMaxBytes = 1 << 60
	// The flushed tables are moved there before they are so many that they slow down Pebble.
	o.L0CompactionFileThreshold = 32
	for i := range o.Levels {
		// One row of payloads, or many small ones, which then compress against each other.
		o.Levels[i].BlockSize = 8 << 10
		o.Levels[i].IndexBlockSize = 64 << 10
	}
	return o
}

// cellsOptions are chosen for a few small rows that are written again and again.
func (s *Store) cellsOptions() *pebble.Options {
	o := s.pebbleOptions(s.cells)
	o.MemTableSize = min(cmp.Or(s.options.MemTableBytes, DefaultMemTableBytes), maxCellsMemTable)
	return o
}

// pebbleOptions are what both databases have in common.
func (s *Store) pebbleOptions(d *database) *pebble.Options {
	o := &pebble.Options{
		FS:       s.fs,
		ReadOnly: s.readOnly,
		Logger:   &logger{s},
		Cache:    s.cache,
		// The newest format has log records that tell a damaged middle from a torn end.
		FormatMajorVersion: pebble.FormatNewest,

		MemTableStopWritesThreshold: memTables,
		// An open table costs its index and a file descriptor; daemons get 1,024.
		MaxOpenFiles: 256,

		// Tables are handed to the disk in pieces, so that the sync at their end does not
		// hold up the log's. A commit syncs the log itself, and nothing else may.
		BytesPerSync:    1 << 20,
		WALBytesPerSync: 0,

		// Merging starts when a few flushes have come together, and writers wait only
		// when it is far behind: a burst is taken first and sorted later.
		L0CompactionThreshold: 4,
		L0StopWritesThreshold: 64,
		// A second merge only when the first falls behind: the log needs the processors. None
		// while the database is being opened (unless it is ten flushes behind): an opening that
		// fails takes away what a merge works with, and Pebble panics where nobody can recover.
		CompactionConcurrencyRange: func() (lower, upper int) {
			if !d.opened.Load() {
				return 0, 1
			}
			return 1, 2
		},
	}
	for i := range o.Levels {
		// MinLZ where it is assembler, else Snappy: see ../DESIGN.md for what others cost.
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
		// No bloom filters: what is asked for exists.
		o.Levels[i].FilterPolicy = pebble.NoFilterPolicy
	}
	o.EventListener = s.listener()
	return o
}

// listener hears of what Pebble does in the background.
func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			// Not the error itself, which prints its stack.
			s.log.Error("the store's background work was interrupted and will be tried again", slog.String("dir", s.dir), slog.String("err", err.Error()))
			if !pebble.IsCorruptionError(err) { // of a merge, see DataCorruption
				s.flushes.interrupted(err, s.fail)
			}
		},
		FlushEnd: func(info pebble.FlushInfo) {
			if info.Err == nil {
				s.flushes.done()
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.refuse(fmt.Errorf("%w: %s: %w", storage.ErrCorrupt, info.Path, info.Details))
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			s.log.Warn("the disk is slow", slog.String("dir", s.dir), slog.String("what", info.String()))
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			s.log.Warn("writes wait for the store's background work", slog.String("dir", s.dir), slog.String("why", info.Reason))
		},
	}
}

// logger takes Pebble's messages.
type logger struct{ s *Store }

func (l *logger) Infof(format string, args ...any) {
	if l.s.log.Enabled(context.Background(), slog.LevelDebug) {
		l.s.log.Debug("pebble", slog.String("text", fmt.Sprintf(format, args...)))
	}
}

func (l *logger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble", slog.String("text", fmt.Sprintf(format, args...)))
}

// Fatalf must not return: Pebble calls it where it cannot go on. In a call of ours the
// panic ends in guard; in the background it ends the process.
func (l *logger) Fatalf(format string, args ...any) {
	err := &fatalError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err.cause = cause
		}
	}
	l.s.fail(err)
	panic(err)
}

// fatalError is what Fatalf panics with.
type fatalError struct {
	text  string
	cause error // May be nil.
}

func (e *fatalError) Error() string { return e.text }

func (e *fatalError) Unwrap() error { return e.cause }

// panicError is another panic of Pebble.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("pebble panics: %v", e.value) }

func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

// guard calls fn, which calls Pebble, and turns a panic in it into an error: Pebble panics
// when a write to its log fails, and on bytes that it takes for impossible.
func guard(fn func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *fatalError:
			err = r
		default:
			err = &panicError{r}
		}
	}()
	return fn()
}

// corrupt marks an error of Pebble that says that stored bytes are damaged. A panic while
// reading means the same: Pebble takes for impossible what its own checksums let pass.
func corrupt(err error) error {
	if err == nil || errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	_, panicked := errors.AsType[*panicError](err)
	_, fatal := errors.AsType[*fatalError](err)
	if panicked || fatal || pebble.IsCorruptionError(err) {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return err
}

// notExist makes an error of the file system match fs.ErrNotExist if it means that.
func notExist(err error) error {
	if os.IsNotExist(err) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}
