// Package index is the writer's memory of what is in the log: at which index an event id
// stands, and which record is the last of each key.
//
// It is derived from the log, in a Pebble directory of its own: deleting it while the log
// is stopped loses nothing. Rows reach the disk when they fill a memtable, together with
// the size and root up to which they reach; after a crash the log reads on from there
// before it takes the first append. It is trusted for promise 3 (the same event has one
// place) and promise 6 (key histories have no gap), which is why it is never used at a
// root that is not the log's own.
//
// Lookups may run concurrently with each other and with Apply; Apply and Reset are called
// by one goroutine at a time.
package index

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Rows. Ids are SHA-256 (event.ID, event.KeyID) and are stored whole: with less, somebody
// could look for two events that share an id and have one of them dropped.
const (
	rowCursor = 'c' // c → be64 size, 32 bytes root
	rowEvent  = 'e' // e | event id → be64 index
	rowKey    = 'k' // k | key id → be64 sequence, be64 index

	idSize      = 32
	formatValue = "keytrail index 1"
)

var (
	cursorKey = []byte{rowCursor}
	formatKey = []byte("format")
)

// Cursor is how far the index reaches: the tree of Size entries with that Root.
type Cursor struct {
	Size uint64
	Root [32]byte
}

// KeyHead is the last record of a key.
type KeyHead struct {
	// Sequence is the record's number in the key's history, from 1; 0 means no record.
	Sequence uint64
	// Index is the record's index.
	Index uint64
}

// Row is what one record adds.
type Row struct {
	Index uint64
	// Event is the event's id (event.ID).
	Event [idSize]byte
	// Key is the key's id (event.KeyID), meaningful when KeySequence is not 0.
	Key         [idSize]byte
	KeySequence uint64
	// Erased means that nothing but the index is known.
	Erased bool
}

// Options tune an index. The zero value is right.
type Options struct {
	// FS replaces the file system, for tests.
	FS vfs.FS
	// Logger, nil for none.
	Logger *slog.Logger

	smallestFilter uint64 // 0 means smallestFilter
}

// Index is an open index.
type Index struct {
	dir     string
	fs      vfs.FS
	logger  *slog.Logger
	db      *pebble.DB
	lock    *pebble.Lock
	cursor  Cursor
	applied atomic.Uint64
	damaged atomic.Bool
	filters filters
}

// Open opens the index in dir and makes an empty one where there is none. A directory
// that cannot be read, or that an older program wrote, is emptied: it can be rebuilt.
func Open(dir string, opts Options) (*Index, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	x, err := open(dir, opts)
	if err == nil {
		return x, nil
	}
	if errors.Is(err, ErrLocked) {
		return nil, err
	}
	if opts.Logger != nil {
		opts.Logger.Warn("index cannot be read and is rebuilt from the log", slog.Any("error", err))
	}
	if err := opts.FS.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("emptying the index: %w", err)
	}
	return open(dir, opts)
}

// Errors, to be matched with errors.Is.
var (
	// ErrLocked means that another process has the index open.
	ErrLocked = errors.New("index: in use by another process")
	// ErrDamaged means that the index's files are damaged: what it says can no longer be
	// relied on. It is rebuilt when it is opened next.
	ErrDamaged = errors.New("index: damaged; it is rebuilt from the log at the next start")
)

// damagedName is the file that asks the next Open to rebuild the index.
const damagedName = "keytrail.damaged"

func open(dir string, opts Options) (*Index, error) {
	x := &Index{dir: dir, fs: opts.FS, logger: opts.Logger, filters: filters{
		smallest: cmp.Or(opts.smallestFilter, smallestFilter), quit: make(chan struct{}),
	}}
	if err := x.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the index directory: %w", err)
	}
	lock, err := pebble.LockDirectory(dir, x.fs)
	if err != nil {
		return nil, fmt.Errorf("%w (%s): %w", ErrLocked, dir, err)
	}
	x.lock = lock
	if _, err := x.fs.Stat(x.fs.PathJoin(dir, damagedName)); err == nil {
		lock.Close()
		return nil, ErrDamaged
	}
	o, cache := x.options()
	defer cache.Unref() // the database holds a reference of its own
	if x.db, err = pebble.Open(dir, o); err != nil {
		lock.Close()
		return nil, fmt.Errorf("opening the index: %w", err)
	}
	if err := x.load(); err != nil {
		return nil, errors.Join(err, x.closeFiles())
	}
	x.growFilter()
	return x, nil
}

// damage notes that the files are damaged, for this process and for the next.
func (x *Index) damage(info pebble.DataCorruptionInfo) {
	if x.damaged.Swap(true) {
		return
	}
	if x.logger != nil {
		x.logger.Error("index is damaged and is rebuilt at the next start", slog.String("path", info.Path), slog.Any("error", info.Details))
	}
	f, err := x.fs.Create(x.fs.PathJoin(x.dir, damagedName), vfs.WriteCategoryUnspecified)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil && x.logger != nil {
		x.logger.Error("noting that the index is damaged; remove it by hand", slog.String("dir", x.dir), slog.Any("error", err))
	}
}

func (x *Index) load() error {
	format, err := x.get(formatKey)
	if err != nil {
		return fmt.Errorf("reading the index's format: %w", err)
	}
	if format != nil && string(format) != formatValue {
		return fmt.Errorf("index has format %q, this program writes %q", format, formatValue)
	}
	b, err := x.get(cursorKey)
	if err != nil {
		return fmt.Errorf("reading the index's cursor: %w", err)
	}
	if b == nil {
		return x.db.Set(formatKey, []byte(formatValue), pebble.NoSync)
	}
	if len(b) != 8+32 {
		return fmt.Errorf("index's cursor has %d bytes", len(b))
	}
	x.cursor.Size = binary.BigEndian.Uint64(b)
	copy(x.cursor.Root[:], b[8:])
	x.applied.Store(x.cursor.Size)
	return nil
}

// Sizes, in bytes. A lookup of an id that is not there goes through the memtable, whose
// skip list is fast while it fits the processor's caches, and then through the filters,
// which the block cache should hold: 10 bits an event.
const (
	memTableBytes = 4 << 20
	cacheBytes    = 48 << 20
)

func (x *Index) options() (*pebble.Options, *pebble.Cache) {
	cache := pebble.NewCache(cacheBytes)
	o := &pebble.Options{
		FS:   x.fs,
		Lock: x.lock,
		// Rows that a crash takes are read from the log again, so they need no log of
		// their own. A memtable reaches the disk whole or not at all, and the cursor
		// with the rows that it speaks of: both are in one batch.
		DisableWAL:         true,
		Cache:              cache,
		MemTableSize:       memTableBytes,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             quiet{x.logger},
		// Pebble's own answer to damage is to end the process, again at every start.
		EventListener: &pebble.EventListener{DataCorruption: x.damage},
	}
	// Nearly every lookup of an event id is for one that is not there; the filter
	// answers it without reading a block.
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = pebble.TableFilter
	}
	return o, cache
}

// Cursor returns how far the index reaches.
func (x *Index) Cursor() Cursor { return x.cursor }

// Applied returns how many records the index has taken; lookups that begin after it has
// returned n see all records below n. Safe for concurrent use.
func (x *Index) Applied() uint64 { return x.applied.Load() }

// Event returns the index of the event with an id.
func (x *Index) Event(id *[idSize]byte) (index uint64, ok bool, err error) {
	if f := x.filters.ready.Load(); f != nil && !f.has(id) && !x.damaged.Load() {
		return 0, false, nil
	}
	var key [1 + idSize]byte
	key[0] = rowEvent
	copy(key[1:], id[:])
	v, closer, err := x.lookUp(key[:])
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking up an event id: %w", err)
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, false, fmt.Errorf("looking up an event id: row has %d bytes", len(v))
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// Key returns the last record of a key, the zero KeyHead when there is none.
func (x *Index) Key(id *[idSize]byte) (KeyHead, error) {
	var key [1 + idSize]byte
	key[0] = rowKey
	copy(key[1:], id[:])
	v, closer, err := x.lookUp(key[:])
	if errors.Is(err, pebble.ErrNotFound) {
		return KeyHead{}, nil
	}
	if err != nil {
		return KeyHead{}, fmt.Errorf("looking up a key: %w", err)
	}
	defer closer.Close()
	if len(v) != 16 {
		return KeyHead{}, fmt.Errorf("looking up a key: row has %d bytes", len(v))
	}
	return KeyHead{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}, nil
}

// lookUp reads a row. Nothing is said from damaged files, nor the absence of a row.
func (x *Index) lookUp(key []byte) ([]byte, io.Closer, error) {
	v, closer, err := x.db.Get(key)
	if !x.damaged.Load() {
		return v, closer, err
	}
	if err == nil {
		_ = closer.Close() // What it read does not count.
	}
	return nil, nil, ErrDamaged
}

// Apply adds the rows of consecutive records, which end at c.
func (x *Index) Apply(rows []Row, c Cursor) error {
	x.addToFilters(rows)
	b := x.db.NewBatchWithSize(len(rows) * 96)
	defer b.Close()
	var buf [16]byte
	var key [1 + idSize]byte
	for i := range rows {
		r := &rows[i]
		if r.Erased {
			continue
		}
		key[0] = rowEvent
		copy(key[1:], r.Event[:])
		binary.BigEndian.PutUint64(buf[:], r.Index)
		if err := b.Set(key[:], buf[:8], nil); err != nil {
			return fmt.Errorf("indexing %d records: %w", len(rows), err)
		}
		if r.KeySequence == 0 {
			continue
		}
		key[0] = rowKey
		copy(key[1:], r.Key[:])
		binary.BigEndian.PutUint64(buf[:], r.KeySequence)
		binary.BigEndian.PutUint64(buf[8:], r.Index)
		if err := b.Set(key[:], buf[:16], nil); err != nil {
			return fmt.Errorf("indexing %d records: %w", len(rows), err)
		}
	}
	var cur [8 + 32]byte
	binary.BigEndian.PutUint64(cur[:], c.Size)
	copy(cur[8:], c.Root[:])
	if err := b.Set(cursorKey, cur[:], nil); err != nil {
		return fmt.Errorf("indexing %d records: %w", len(rows), err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("indexing %d records: %w", len(rows), err)
	}
	x.cursor = c
	x.applied.Store(c.Size)
	x.growFilter()
	return nil
}

// Reset empties the index, all or nothing: a cursor whose rows are gone would let an event
// in twice as soon as it fits the log again.
func (x *Index) Reset() error {
	b := x.db.NewBatch()
	defer b.Close()
	err := b.Delete(cursorKey, nil)
	for _, prefix := range []byte{rowEvent, rowKey} {
		if err == nil {
			err = b.DeleteRange([]byte{prefix}, []byte{prefix + 1}, nil)
		}
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err == nil {
		err = x.db.Flush()
	}
	if err != nil {
		return fmt.Errorf("emptying the index: %w", err)
	}
	x.cursor = Cursor{}
	x.applied.Store(0)
	return nil
}

// Close makes the rows durable and closes the index.
func (x *Index) Close() error {
	x.filters.stop()
	err := x.db.Flush()
	if err := errors.Join(err, x.closeFiles()); err != nil {
		return fmt.Errorf("closing the index: %w", err)
	}
	return nil
}

func (x *Index) closeFiles() error { return errors.Join(x.db.Close(), x.lock.Close()) }

// get returns a copy of a row, nil when there is none.
func (x *Index) get(key []byte) ([]byte, error) {
	v, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

// quiet hands Pebble's log on at debug level; the index reports its errors itself.
type quiet struct{ l *slog.Logger }

func (q quiet) Infof(format string, args ...any) {
	if q.l != nil {
		q.l.Debug(fmt.Sprintf(format, args...))
	}
}

func (q quiet) Errorf(format string, args ...any) {
	if q.l != nil {
		q.l.Warn(fmt.Sprintf(format, args...))
	}
}

// Fatalf is called by Pebble when it cannot go on, and must not return.
func (q quiet) Fatalf(format string, args ...any) { panic("index: " + fmt.Sprintf(format, args...)) }
