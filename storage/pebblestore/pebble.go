package pebblestore

import (
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

func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.fs,
		ReadOnly:                    s.readOnly,
		Logger:                      &logger{s},
		CacheSize:                   s.options.CacheBytes,
		MemTableSize:                s.options.MemTableBytes,
		MemTableStopWritesThreshold: memTables,
		FormatMajorVersion:          pebble.FormatNewest,
		MaxOpenFiles:                512,
	}
	if o.CacheSize == 0 {
		o.CacheSize = DefaultCacheBytes
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = DefaultMemTableBytes
	}
	o.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
	for i := range o.Levels {
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	}
	o.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			s.log.Error("the store's background work was interrupted and will be tried again", "dir", s.dir, "err", err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.refuse(fmt.Errorf("%w: %s: %w", storage.ErrCorrupt, info.Path, info.Details))
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			s.log.Warn("the disk is slow", "dir", s.dir, "what", info.String())
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			s.log.Warn("writes wait for the store's background work", "dir", s.dir, "why", info.Reason)
		},
	}
	return o
}

// logger takes Pebble's messages.
type logger struct{ s *Store }

func (l *logger) Infof(format string, args ...any) {
	if l.s.log.Enabled(context.Background(), slog.LevelDebug) {
		l.s.log.Debug("pebble", "msg", fmt.Sprintf(format, args...))
	}
}

func (l *logger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble", "msg", fmt.Sprintf(format, args...))
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
