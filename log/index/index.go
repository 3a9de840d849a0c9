// Package index is the writer's memory of what is in the log: at which index an event id
// stands, and which record is the last of each key.
//
// It is derived from the log, in a directory of its own: deleting it while the log is
// stopped loses nothing. New rows are kept in memory and written in rounds, sorted, each
// as files that are never changed, together with the size and root up to which they reach;
// files of about one size are merged in the background. After a crash the log reads on
// from there before it takes the first append. The index is trusted for promise 3 (the
// same event has one place) and promise 6 (key histories have no gap), which is why it is
// never used at a root that is not the log's own.
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
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// idSize is the size of ids: SHA-256 (event.ID, event.KeyID).
	idSize = 32
	// roundRecords is how many records are kept in memory before their rows are written.
	// Two rounds and what Apply has not had yet are what a crash takes: a second's reading.
	roundRecords = 1 << 16
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

// Entries is the log that the index is of. The index keeps half of each event id and
// asks the entry for the other half.
type Entries interface {
	// EventID returns the id of the event in an entry that was applied; known is false
	// when the entry's payload was erased.
	EventID(index uint64) (id [idSize]byte, known bool, err error)
}

// Options tune an index. The zero value is right.
type Options struct {
	// FS replaces the file system, for tests.
	FS vfs.FS
	// RoundRecords is how many records are kept in memory before their rows are written;
	// tests write earlier. 0 means 65,536.
	RoundRecords int
	// Logger, nil for none.
	Logger *slog.Logger

	smallestFilter, largestFilter uint64 // 0 means the constants
}

// Index is an open index.
type Index struct {
	dir     string
	fs      vfs.FS
	logger  *slog.Logger
	lock    *pebble.Lock
	cursor  Cursor
	applied atomic.Uint64
	damaged atomic.Bool
	filters filters

	// A row is first in young, then in frozen, which is being written, then in the files.
	size          int // records in a round
	mu            sync.RWMutex
	young, frozen *round
	spare         *round
	written       chan struct{} // closed when frozen is nil again; owned by who applies

	files files
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

var errNoted = errors.New("noted by the last process")

// damagedName is the file that asks the next Open to rebuild the index.
const damagedName = "keytrail.damaged"

func open(dir string, opts Options) (*Index, error) {
	x := &Index{dir: dir, fs: opts.FS, logger: opts.Logger, filters: filters{
		smallest: cmp.Or(opts.smallestFilter, smallestFilter), largest: cmp.Or(opts.largestFilter, largestFilter),
		quit: make(chan struct{}),
	}}
	x.size = cmp.Or(opts.RoundRecords, roundRecords)
	x.young, x.written = newRound(x.size), make(chan struct{})
	close(x.written)
	if err := x.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the index directory: %w", err)
	}
	lock, err := pebble.LockDirectory(dir, x.fs)
	if err != nil {
		return nil, fmt.Errorf("%w (%s): %w", ErrLocked, dir, err)
	}
	x.lock = lock
	if _, err := x.fs.Stat(x.fs.PathJoin(dir, damagedName)); !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("%w: %w", ErrDamaged, cmp.Or(err, errNoted))
	}
	if x.cursor, err = x.openFiles(); err != nil {
		lock.Close()
		return nil, err
	}
	x.applied.Store(x.cursor.Size)
	x.growFilter()
	return x, nil
}

// damage notes that the files are damaged, for this process and for the next.
func (x *Index) damage(cause error) {
	if x.damaged.Swap(true) {
		return
	}
	if x.logger != nil {
		x.logger.Error("index is damaged and is rebuilt at the next start", slog.Any("error", cause))
	}
	f, err := x.fs.Create(x.fs.PathJoin(x.dir, damagedName), vfs.WriteCategoryUnspecified)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), syncDir(x.fs, x.dir))
	}
	if err != nil && x.logger != nil {
		x.logger.Error("noting that the index is damaged; remove it by hand", slog.String("dir", x.dir), slog.Any("error", err))
	}
}

// judge notes damage if that is what err, of reading a run, means.
func (x *Index) judge(err error) error {
	if errors.Is(err, errPage) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		x.damage(err)
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// Cursor returns how far the index reaches.
func (x *Index) Cursor() Cursor { return x.cursor }

// Applied returns how many records the index has taken; lookups that begin after it has
// returned n see all records below n. Safe for concurrent use.
func (x *Index) Applied() uint64 { return x.applied.Load() }

// surelyNew says whether an id is that of no event and of no key.
func (x *Index) surelyNew(id *[idSize]byte) bool {
	f := x.filters.ready.Load()
	return f != nil && !f.has(id) && !x.damaged.Load()
}

// Event returns the index of the event with an id.
func (x *Index) Event(id *[idSize]byte, in Entries) (index uint64, ok bool, err error) {
	if x.surelyNew(id) {
		return 0, false, nil
	}
	same := func(index uint64) (bool, error) {
		whole, known, err := in.EventID(index)
		return err == nil && (!known || whole == *id), err
	}
	index, ok, err = x.event(id, same)
	if x.damaged.Load() { // Nothing is said from damaged files, nor the absence of a row.
		return 0, false, ErrDamaged
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking up an event id: %w", err)
	}
	return index, ok, nil
}

func (x *Index) event(id *[idSize]byte, same func(index uint64) (bool, error)) (index uint64, ok bool, err error) {
	x.mu.RLock()
	indexes := x.young.find(id, nil)
	if x.frozen != nil {
		indexes = x.frozen.find(id, indexes)
	}
	x.mu.RUnlock()
	for _, at := range indexes {
		if ok, err := same(at); ok || err != nil {
			return at, ok, err
		}
	}
	v := x.files.acquire()
	defer x.release(v)
	sieves := v.sifting(id[:])
	for _, r := range slices.Backward(v.events) {
		perhaps, err := sieves.perhaps(r)
		x.warn(withoutSieve, err)
		if !perhaps {
			continue
		}
		err = r.find(id[:], func(row []byte) (bool, error) {
			index = getIndex(row[eventKind.id:])
			var err error
			ok, err = same(index)
			return !ok, err
		})
		if ok || err != nil {
			return index, ok, x.judge(err)
		}
	}
	return 0, false, nil
}

// Key returns the last record of a key, the zero KeyHead when there is none.
func (x *Index) Key(id *[idSize]byte) (KeyHead, error) {
	if x.surelyNew(id) {
		return KeyHead{}, nil
	}
	h, err := x.key(id)
	if x.damaged.Load() {
		return KeyHead{}, ErrDamaged
	}
	if err != nil {
		return KeyHead{}, fmt.Errorf("looking up a key: %w", err)
	}
	return h, nil
}

func (x *Index) key(id *[idSize]byte) (h KeyHead, err error) {
	x.mu.RLock()
	h, ok := x.young.keys[*id]
	if !ok && x.frozen != nil {
		h, ok = x.frozen.keys[*id]
	}
	x.mu.RUnlock()
	if ok {
		return h, nil
	}
	v := x.files.acquire()
	defer x.release(v)
	for _, r := range slices.Backward(v.keys) { // the newest that has it has the last record
		err := r.find(id[:], func(row []byte) (bool, error) {
			ok, h = true, KeyHead{binary.BigEndian.Uint64(row[idSize:]), getIndex(row[idSize+8:])}
			return false, nil
		})
		if ok || err != nil {
			return h, x.judge(err)
		}
	}
	return KeyHead{}, nil
}

// Apply adds the rows of consecutive records, which end at c. It waits when the rounds
// before are not written yet.
func (x *Index) Apply(rows []Row, c Cursor) error {
	if c.Size > maxIndex {
		return fmt.Errorf("indexing %d records: the log has more than %d entries", len(rows), uint64(maxIndex))
	}
	x.addToFilters(rows)
	if err := x.makeRoom(len(rows)); err != nil {
		return fmt.Errorf("indexing %d records: %w", len(rows), err)
	}
	x.mu.Lock()
	x.young.grow(len(rows))
	for i := range rows {
		if !rows[i].Erased {
			x.young.add(&rows[i])
		}
	}
	x.young.records += len(rows)
	x.young.cursor = c
	x.mu.Unlock()
	x.cursor = c
	x.applied.Store(c.Size)
	x.growFilter()
	return nil
}

// Reset empties the index, all or nothing: a cursor whose rows are gone would let an event
// in twice as soon as it fits the log again.
func (x *Index) Reset() error {
	<-x.written
	if err := x.emptyFiles(); err != nil {
		return fmt.Errorf("emptying the index: %w", err)
	}
	x.mu.Lock()
	x.young.reset()
	x.mu.Unlock()
	x.cursor = Cursor{}
	x.applied.Store(0)
	return nil
}

// Close makes the rows durable and closes the index.
func (x *Index) Close() error {
	x.filters.stop()
	<-x.written
	err := x.files.failure()
	if err == nil && x.young.records > 0 {
		err = x.writeRound(x.young)
	}
	x.files.stop()
	if err := errors.Join(err, x.files.current.close(), x.lock.Close()); err != nil {
		return fmt.Errorf("closing the index: %w", err)
	}
	return nil
}
