package view

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// indexDir is the directory below the view's own that holds the database and that the
// view may remove with all its content.
const indexDir = "index"

// lockDir makes the directory and locks it, for as long as the view is open and also
// while the database in it is removed and made anew.
func (v *View) lockDir() error {
	if err := v.fs.MkdirAll(v.dir, 0o700); err != nil {
		return fmt.Errorf("making the view's directory: %w", err)
	}
	lock, err := pebble.LockDirectory(v.dir, v.fs)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("locking the view's directory: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrLocked, v.dir, err)
	}
	v.lock = lock
	return nil
}

// openDB opens the database if it is one of this log, else an empty one.
func (v *View) openDB(ctx context.Context) error {
	db, cur, err := v.openExisting()
	if err == nil {
		err = v.belongs(ctx, cur)
		if _, unusable := errors.AsType[*unusableError](err); err != nil && !unusable {
			return errors.Join(err, db.Close())
		}
	}
	if err != nil {
		v.logger.WarnContext(ctx, "view cannot be used and is rebuilt from the log",
			slog.String("dir", v.dir), slog.Any("reason", err))
		if db != nil {
			err = db.Close() // The reason is logged; what counts now is that it closes.
			if err != nil {
				v.logger.WarnContext(ctx, "closing the unusable view", slog.Any("error", err))
			}
		}
		v.counts.rebuilds++
		if db, err = v.openEmpty(); err != nil {
			return err
		}
		cur = cursor{}
	}
	v.db = db
	v.live = newSegment(uint32(cur.size >> segmentBits))
	v.counts.erased, v.counts.unreadable = cur.erased, cur.unreadable
	return nil
}

// unusableError says why a view must be built anew.
type unusableError struct{ reason string }

func (e *unusableError) Error() string { return e.reason }

// openExisting opens the database and reads its cursor. Whatever error it returns, the
// database is closed and building it anew is the way out.
func (v *View) openExisting() (*pebble.DB, cursor, error) {
	db, err := v.openPebble(v.fs.PathJoin(v.dir, indexDir))
	if err != nil {
		return nil, cursor{}, err
	}
	cur, err := readCursor(db)
	if err == nil {
		err = checkFormat(db, cur)
	}
	if err != nil {
		return nil, cursor{}, errors.Join(err, db.Close())
	}
	return db, cur, nil
}

// openPebble opens or makes Pebble's directory. Nothing is merged while it is being opened: an
// opening that fails takes away what a merge works with, and Pebble panics where nobody can
// recover.
func (v *View) openPebble(dir string) (*pebble.DB, error) {
	var opened atomic.Bool
	o := v.options()
	o.CompactionConcurrencyRange = func() (lower, upper int) {
		if !opened.Load() {
			return 0, 1
		}
		return 1, 1
	}
	db, err := pebble.Open(dir, o)
	opened.Store(err == nil)
	return db, err
}

// openEmpty removes the database and makes an empty one.
func (v *View) openEmpty() (*pebble.DB, error) {
	dir := v.fs.PathJoin(v.dir, indexDir)
	if err := v.fs.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("removing the old view: %w", err)
	}
	v.forgetDamage()
	db, err := v.openPebble(dir)
	if err != nil {
		return nil, fmt.Errorf("making an empty view: %w", err)
	}
	if err := checkFormat(db, cursor{}); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// checkFormat refuses the rows of another version, and marks an empty database with ours.
func checkFormat(db *pebble.DB, cur cursor) error {
	b, err := get(db, []byte{rowFormat})
	switch {
	case err != nil:
		return fmt.Errorf("reading the view's format: %w", err)
	case b == nil && cur.size == 0:
		return db.Set([]byte{rowFormat}, []byte(format), pebble.NoSync)
	case string(b) != format:
		return &unusableError{fmt.Sprintf("its format is %q, this program writes %q", b, format)}
	}
	return nil
}

// belongs checks that the cursor is a state of this log. An *unusableError says that it
// is not; any other error is the source's.
func (v *View) belongs(ctx context.Context, cur cursor) error {
	if cur.size == 0 {
		return nil
	}
	root, err := v.src.RootAt(ctx, cur.size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &unusableError{fmt.Sprintf("it has read %d entries and the log has published fewer", cur.size)}
	case err != nil:
		return fmt.Errorf("reading the log's root at size %d: %w", cur.size, err)
	case root != cur.root:
		return &unusableError{fmt.Sprintf("its root at size %d is not the log's: it was built from another log", cur.size)}
	}
	return nil
}

// cursor is how far the rows reach: whole segments.
type cursor struct {
	size       uint64
	root       [storage.HashSize]byte
	erased     uint64
	unreadable uint64
}

const cursorSize = 8 + storage.HashSize + 8 + 8

func (c *cursor) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, c.size)
	b = append(b, c.root[:]...)
	b = binary.BigEndian.AppendUint64(b, c.erased)
	return binary.BigEndian.AppendUint64(b, c.unreadable)
}

func readCursor(db *pebble.DB) (cursor, error) {
	b, err := get(db, []byte{rowCursor})
	if err != nil || b == nil {
		return cursor{}, err
	}
	if len(b) != cursorSize {
		return cursor{}, &unusableError{fmt.Sprintf("its cursor has %d bytes", len(b))}
	}
	c := cursor{
		size:       binary.BigEndian.Uint64(b),
		root:       [storage.HashSize]byte(b[8:]),
		erased:     binary.BigEndian.Uint64(b[8+storage.HashSize:]),
		unreadable: binary.BigEndian.Uint64(b[16+storage.HashSize:]),
	}
	if c.size%segmentSize != 0 {
		return cursor{}, &unusableError{fmt.Sprintf("its cursor stands at %d, within a segment", c.size)}
	}
	return c, nil
}

// get returns a copy of a row, nil when there is none.
func get(db *pebble.DB, key []byte) ([]byte, error) {
	b, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b = append([]byte{}, b...)
	return b, closer.Close()
}

func (v *View) options() *pebble.Options {
	return &pebble.Options{
		FS:                 v.fs,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       16 << 20,
		CacheSize:          32 << 20,
		// Rows come in the order of segments, so every table overlaps every other. Merging
		// twice as many at once as Pebble would merges each row a third less often; a query
		// looks into that many more.
		L0CompactionThreshold: 8,
		L0StopWritesThreshold: 24,
		Logger:                pebbleLogger{v.logger},
		// Pebble's own reaction to damage is to end the process.
		EventListener: &pebble.EventListener{DataCorruption: func(info pebble.DataCorruptionInfo) {
			v.logger.Warn("damage in the view", slog.String("path", info.Path), slog.Any("error", info.Details))
			v.reportDamage()
		}},
	}
}

// reportDamage makes Run rebuild the view.
func (v *View) reportDamage() {
	select {
	case v.damaged <- struct{}{}:
	default:
	}
}

// forgetDamage is called when the damaged rows are gone.
func (v *View) forgetDamage() {
	select {
	case <-v.damaged:
	default:
	}
}

// pebbleLogger hands Pebble's log on: its news at debug level.
type pebbleLogger struct{ *slog.Logger }

func (l pebbleLogger) Infof(format string, args ...any)  { l.Debug(fmt.Sprintf(format, args...)) }
func (l pebbleLogger) Errorf(format string, args ...any) { l.Warn(fmt.Sprintf(format, args...)) }

// Fatalf is called when Pebble cannot go on; it must not return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	panic("view: " + fmt.Sprintf(format, args...))
}
