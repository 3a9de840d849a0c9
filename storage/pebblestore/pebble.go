package pebblestore

import (
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
	DefaultCacheBytes = 32 << 20
	// DefaultMemTableBytes is the size of a memtable. A large one makes fewer and
	// larger tables, which are merged less often.
	DefaultMemTableBytes = 32 << 20
)

// memTables is how many memtables may wait to be flushed before writers wait.
const memTables = 3

// recycledLogs is how many old logs Pebble keeps to write over: memTables+1.
const recycledLogs = memTables + 1

// pebbleOptions are chosen for a log: keys of each kind arrive in order, are read mostly
// near the end, and are never changed but for the head, the last bundle and erasures.
func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:       s.fs,
		ReadOnly: s.readOnly,
		Logger:   &logger{s},
		// The newest format has log records that tell a damaged middle from a torn end.
		FormatMajorVersion: pebble.FormatNewest,

		// Memory: cache, and memTables memtables at most.
		CacheSize:                   cmp.Or(s.options.CacheBytes, DefaultCacheBytes),
		MemTableSize:                cmp.Or(s.options.MemTableBytes, DefaultMemTableBytes),
		MemTableStopWritesThreshold: memTables,
		// An open table costs its index and a file descriptor; daemons get 1,024.
		MaxOpenFiles: 512,

		// Tables are handed to the disk in pieces, so that the sync at their end does not
		// hold up the log's. A commit syncs the log itself, and nothing else may.
		BytesPerSync:    1 << 20,
		WALBytesPerSync: 0,

		// Merging starts when a few flushes have come together, and writers wait only
		// when it is far behind: a burst is taken first and sorted later.
		L0CompactionThreshold:     4,
		L0CompactionFileThreshold: 500,
		L0StopWritesThreshold:     64,
		// A second merge only when the first falls behind: the log needs the processors.
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, 2 },
	}
	for i := range o.Levels {
		// Payloads of some 500 bytes compress against each other: 32 KiB hold sixty.
		// A point read unpacks one block.
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].IndexBlockSize = 64 << 10
		// Fast enough to be invisible beside the sync. Stronger ones cost more time
		// than they save in bytes: see ../DESIGN.md.
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
		// No bloom filters: what is asked for exists.
		o.Levels[i].FilterPolicy = pebble.NoFilterPolicy
	}
	// Fewer and larger tables. Those of payloads are moved down, not written again.
	o.TargetFileSizes[0] = 8 << 20
	o.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			s.log.Error("the store's background work was interrupted and will be tried again", slog.String("dir", s.dir), slog.Any("err", err))
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
	return o
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
