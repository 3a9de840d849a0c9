// Package view answers lists and key histories over published entries.
//
// A view is an index in a Pebble directory of its own, derived from the log alone: it
// tails what the log publishes, and deleting its directory while the log is stopped loses
// nothing. It keeps no events: it finds entries and reads them from the log.
//
// The log is cut into segments of 65,536 entries. For each term of an entry (tenant, key,
// actor, operation, outcome) and each segment there is one row with the offsets of the
// entries that have it, and for each segment the earliest and latest event time of every
// 256 entries. The rows of a segment are written once, in one batch with the size and root
// of the log up to there, when the segment is full; the postings of the newest segment are
// in memory and read anew from the log at start. So a crash leaves whole segments or
// nothing of them. A query intersects rows segment by segment and checks what it found on
// the entry itself, so that terms may be cut hashes and a wrong row cannot show an entry
// to somebody who did not ask for it.
//
// At start the root at the view's size must be the log's own; a view that is ahead of the
// log, belongs to another log, cannot be read or has another format is dropped and built
// anew, and the logger says so. The same happens when a query meets a damaged row.
//
// When a payload is erased the entry disappears from every answer at once; hashed terms of
// it stay in its segment's rows until the view is rebuilt.
//
// All methods may be called concurrently; Run once at a time. A view makes nothing durable
// that is not in the log. It is trusted to leave nothing out of an answer, and for no more
// than that: whoever must not trust it for completeness reads the log and checks the
// numbers in each key's history.
package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
)

// Source is the published log as a view reads it.
type Source interface {
	// FollowPublished returns the published size once it is greater than after, or ctx's
	// error.
	FollowPublished(ctx context.Context, after uint64) (uint64, error)
	// Payloads is storage.Store's: fn gets each payload from start (inclusive) to end
	// (exclusive), nil where it was erased.
	Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error
	// RootAt returns the RFC 6962 root of the first size entries; fs.ErrNotExist when
	// size is beyond what was published.
	RootAt(ctx context.Context, size uint64) ([storage.HashSize]byte, error)
}

// Errors to be matched with errors.Is. What a caller did wrong is an *ArgumentError.
var (
	// ErrNotFound means that a key has no events. It is an fs.ErrNotExist.
	ErrNotFound = fmt.Errorf("view: no such key: %w", fs.ErrNotExist)
	// ErrLocked means that another process has the view's directory open.
	ErrLocked = errors.New("view: directory is in use by another process")
	// ErrBehind means that the page token comes from a larger view: this one is being
	// rebuilt. Try again later.
	ErrBehind = errors.New("view: has not read as far as the page token yet; try again")
	// ErrDamaged means that a row of the view cannot be read. The view is being rebuilt.
	ErrDamaged = errors.New("view: damaged, is being rebuilt")
)

// ArgumentError is what is wrong with an argument of List or History.
type ArgumentError struct {
	// Field of the request, as in the service's messages: "page_token".
	Field  string
	Reason string
}

func (e *ArgumentError) Error() string { return e.Field + ": " + e.Reason }

// Options tune a view. The zero value is right.
type Options struct {
	// Logger, nil for none.
	Logger *slog.Logger
	// FS replaces the file system, for tests.
	FS vfs.FS
}

// View is an open view.
type View struct {
	dir    string
	src    Source
	logger *slog.Logger
	fs     vfs.FS
	lock   *pebble.Lock
	states stateCache
	// damaged tells Run that a query met a damaged row, wanted that somebody waits for entries.
	damaged, wanted chan struct{}
	gatherTime      time.Duration

	// dbMu is held for reading by every query and for writing while the database is
	// replaced or closed.
	dbMu sync.RWMutex
	db   *pebble.DB // nil once closed

	// mu guards what Run moves; the content of live too.
	mu        sync.RWMutex
	live      *segment
	published uint64
	counts    counts
	// grown is closed, and replaced, whenever the view has read more.
	grown chan struct{}

	filer filer // owned by Run
}

// counts are what metrics tell.
type counts struct {
	erased     uint64
	unreadable uint64
	rebuilds   uint64
}

// Open opens the view in dir, which it creates if need be. It reads nothing from the log
// but a root: see Run. ErrLocked means that another process has it open.
func Open(ctx context.Context, dir string, src Source, opts Options) (*View, error) {
	v := &View{
		dir:     dir,
		src:     src,
		logger:  opts.Logger,
		fs:      opts.FS,
		damaged: make(chan struct{}, 1),
		wanted:  make(chan struct{}, 1),

		gatherTime: gatherTime,
		grown:      make(chan struct{}),
	}
	if v.logger == nil {
		v.logger = slog.New(slog.DiscardHandler)
	}
	if v.fs == nil {
		v.fs = vfs.Default
	}
	if err := v.lockDir(); err != nil {
		return nil, err
	}
	if err := v.openDB(ctx); err != nil {
		return nil, errors.Join(err, v.lock.Close())
	}
	return v, nil
}

// Close ends the view once the queries under way have. Run must have returned.
func (v *View) Close() error {
	v.dbMu.Lock()
	defer v.dbMu.Unlock()
	if v.db == nil {
		return nil
	}
	err := errors.Join(v.db.Close(), v.lock.Close())
	v.db = nil
	if err != nil {
		return fmt.Errorf("closing the view: %w", err)
	}
	return nil
}

// Size is how many entries of the log the view has read.
func (v *View) Size() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.size()
}

// size needs mu.
func (v *View) size() uint64 { return v.live.first() + uint64(v.live.entries) }

// Wait returns when the view has read size entries, or with ctx's error.
func (v *View) Wait(ctx context.Context, size uint64) error {
	for {
		v.mu.RLock()
		have, grown := v.size(), v.grown
		v.mu.RUnlock()
		if have >= size {
			return nil
		}
		select {
		case v.wanted <- struct{}{}:
		default:
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Erased tells the view that payloads were erased, so that it forgets key states that it
// derived from them.
func (v *View) Erased() { v.states.clear() }
