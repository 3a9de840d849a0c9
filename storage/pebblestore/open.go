package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
)

// The directory of a store holds:
const (
	// lockName is locked by whoever has the store open.
	lockName = "LOCK"
	// markName: see mark.go.
	markName = "mark"
	// dbName is Pebble's directory.
	dbName = "db"
	// newName is Pebble's directory before the store is complete. It is renamed at the
	// end, so that an interrupted creation leaves no half of a store.
	newName = "db.new"
)

// Create makes an empty store in dir, which it makes too if need be, and opens it. A
// directory that holds a store already is fs.ErrExist. A creation that was interrupted
// before Create returned can be repeated, unless it was complete.
func Create(dir string, opts Options) (*Store, error) {
	s := newStore(dir, opts)
	if err := s.create(); err != nil {
		return nil, fmt.Errorf("creating a store in %s: %w", dir, err)
	}
	return s, nil
}

// Open opens the store in dir and verifies it with storage.Verify. A directory without a
// store is fs.ErrNotExist, one that is in use storage.ErrLocked, and one whose content
// contradicts itself storage.ErrCorrupt.
func Open(dir string, opts Options) (*Store, error) {
	s := newStore(dir, opts)
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	return s, nil
}

func newStore(dir string, opts Options) *Store {
	if opts.FS == nil {
		// The lock tells stores apart by name: one directory must have one.
		opts.FS = vfs.Default
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		dir:      dir,
		fs:       &storeFS{FS: opts.FS},
		log:      opts.Logger,
		options:  opts,
		readOnly: opts.ReadOnly,
	}
	s.fs.failed = s.fail
	head := storage.EmptyHead()
	s.head.Store(&head)
	return s
}

// path returns the path of a name in the store's directory.
func (s *Store) path(name string) string { return s.fs.PathJoin(s.dir, name) }

// exists says whether there is a file of that name.
func (s *Store) exists(name string) (bool, error) {
	_, err := s.fs.Stat(s.path(name))
	if errors.Is(notExist(err), fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) create() error {
	if s.readOnly {
		return storage.ErrReadOnly
	}
	if err := makeDirectory(s.fs, s.dir); err != nil {
		return err
	}
	if err := s.acquire(); err != nil {
		return err
	}
	if err := s.fill(); err != nil {
		return s.release(err)
	}
	return s.load()
}

// fill makes the files of a new store.
func (s *Store) fill() error {
	switch ok, err := s.exists(dbName); {
	case err != nil:
		return err
	case ok:
		return fmt.Errorf("there is one: %w", fs.ErrExist)
	}
	if err := s.fs.RemoveAll(s.path(newName)); err != nil {
		return err
	}
	if err := s.openPebble(newName); err != nil {
		return err
	}
	w := s.newBatch(2 * headSize)
	_ = w.Set([]byte{kindVersion}, []byte(format), nil)
	if err := s.apply(w, storage.EmptyHead()); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	err := guard(s.db.Close)
	s.db = nil
	if err != nil {
		return err
	}
	if err := s.fs.Rename(s.path(newName), s.path(dbName)); err != nil {
		return err
	}
	return syncDirectory(s.fs, s.dir)
}

func (s *Store) open() error {
	if _, err := s.fs.Stat(s.dir); err != nil {
		return notExist(err)
	}
	switch ok, err := s.exists(dbName); {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("there is none: %w", fs.ErrNotExist)
	}
	if err := s.acquire(); err != nil {
		return err
	}
	return s.load()
}

// acquire locks the directory for this process.
func (s *Store) acquire() error {
	lock, err := s.fs.Lock(s.path(lockName))
	if err == nil {
		s.lock = lock
		return nil
	}
	// When the lock file could not be made, nobody holds it.
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("locking: %w", notExist(err))
	}
	return fmt.Errorf("%w: %w", storage.ErrLocked, err)
}

// release closes Pebble, if it is open, and unlocks the directory; err is why. After a
// failed write both stay as they are; see Close.
func (s *Store) release(err error) error {
	if s.failed.Load() {
		return err
	}
	if s.db != nil {
		err = errors.Join(err, guard(s.db.Close))
	}
	return errors.Join(err, s.lock.Close())
}

func (s *Store) openPebble(name string) error {
	err := guard(func() (err error) {
		s.db, err = pebble.Open(s.path(name), s.pebbleOptions())
		return err
	})
	if err = corrupt(err); errors.Is(notExist(err), fs.ErrNotExist) {
		// The caller asks for ErrNotExist where there is no store.
		return fmt.Errorf("%w: %s", storage.ErrCorrupt, err.Error())
	}
	return err
}

// load opens Pebble, reads what is kept in memory, and verifies. When it fails, nothing
// stays open.
func (s *Store) load() error {
	if err := s.openPebble(dbName); err != nil {
		return s.release(err)
	}
	for _, step := range []func() error{s.readHead, s.checkMark, s.verify} {
		if err := step(); err != nil {
			return s.release(err)
		}
	}
	return nil
}

// readHead reads version, head and incomplete bundle.
func (s *Store) readHead() error {
	version, err := s.get([]byte{kindVersion})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no version", storage.ErrCorrupt)
	case err != nil:
		return fmt.Errorf("reading the version: %w", err)
	case string(version) != format:
		return fmt.Errorf("its format is %q, this program reads %q: %w", version, format, errors.ErrUnsupported)
	}
	row, err := s.get([]byte{kindHead})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no head", storage.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("reading the head: %w", err)
	}
	revision, head, err := parseHead(row)
	if err != nil {
		return err
	}
	s.revision = revision
	s.head.Store(&head)
	n := int(head.Size % storage.TileWidth)
	if n == 0 {
		return nil
	}
	if s.tail, err = s.bundle(head.Size / storage.TileWidth); err != nil {
		return err
	}
	return checkBundle(s.tail, n)
}

// verify checks the tree, and that nothing lies beyond the head: every commit wrote both
// or neither.
func (s *Store) verify() error {
	ctx := context.Background()
	if err := storage.Verify(ctx, s); err != nil {
		return err
	}
	size := s.head.Load().Size
	beyond := []struct {
		what         string
		lower, upper []byte
	}{
		{"payload", indexKey(kindPayload, size), []byte{kindPayload + 1}},
		{"bundle", indexKey(kindLeaves, (size+storage.TileWidth-1)/storage.TileWidth), []byte{kindLeaves + 1}},
		{"node", nodeKey(1, storage.Complete(size, 1)), nodeKey(2, 0)},
	}
	for _, b := range beyond {
		err := s.scan(b.lower, b.upper, func(it *pebble.Iterator) error {
			if it.First() {
				return fmt.Errorf("%w: %s row %x lies beyond the head of size %d", storage.ErrCorrupt, b.what, it.Key(), size)
			}
			return it.Error()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
