package pebblestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

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
	// dbName holds Pebble's directories, treeName and cellsName.
	dbName    = "db"
	treeName  = "tree"
	cellsName = "cells"
	// newName is dbName before the store is complete. It is renamed at the
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
	s.tree = &database{store: s, name: treeName}
	s.cells = &database{store: s, name: cellsName}
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
	if err := makeDirectory(s.fs, s.path(newName)); err != nil {
		return err
	}
	if err := s.openDatabases(newName); err != nil {
		return err
	}
	w := s.tree.newBatch(2 * headSize)
	_ = w.Set([]byte{kindVersion}, []byte(format), nil)
	if err := s.tree.applyHead(w, storage.EmptyHead()); err != nil {
		return err
	}
	if err := s.cells.applyCells(s.cells.newBatch(2 * headSize)); err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return err
	}
	if err := s.closeDatabases(); err != nil {
		return err
	}
	// Their names, before the one above them.
	if err := syncDirectory(s.fs, s.path(newName)); err != nil {
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
	return errors.Join(err, s.closeDatabases(), s.lock.Close())
}

func (s *Store) closeDatabases() error {
	err := errors.Join(s.straight.close(), s.tree.close(), s.cells.close())
	s.straight = nil
	if s.cache != nil {
		s.cache.Unref()
		s.cache = nil
	}
	return err
}

// openDatabases opens both databases below a directory of the store.
func (s *Store) openDatabases(name string) error {
	s.cache = pebble.NewCache(cmp.Or(s.options.CacheBytes, DefaultCacheBytes))
	if err := s.tree.open(s.path(name), s.treeOptions()); err != nil {
		return fmt.Errorf("opening the tree: %w", err)
	}
	if err := s.cells.open(s.path(name), s.cellsOptions()); err != nil {
		return fmt.Errorf("opening the cells: %w", err)
	}
	return nil
}

// checkLayout says why what is in dbName is not a store of this format. Formats before the
// second had Pebble's files there.
func (s *Store) checkLayout() error {
	names, err := s.fs.List(s.path(dbName))
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "marker.") {
			return fmt.Errorf("its format is %q, this program reads %q: %w", "keytrail store 1", format, errors.ErrUnsupported)
		}
	}
	return nil
}

// load opens Pebble, reads what is kept in memory, and verifies. When it fails, nothing
// stays open.
func (s *Store) load() error {
	open := func() error { return s.openDatabases(dbName) }
	for _, step := range []func() error{s.checkLayout, open, s.readHead, s.readRevision, s.checkMark, s.verify, s.openStraight} {
		if err := step(); err != nil {
			return s.release(err)
		}
	}
	return nil
}

// readHead reads version and head.
func (s *Store) readHead() error {
	version, err := s.row(s.tree, kindVersion, "version")
	if err != nil {
		return err
	}
	if string(version) != format {
		return fmt.Errorf("its format is %q, this program reads %q: %w", version, format, errors.ErrUnsupported)
	}
	row, err := s.row(s.tree, kindHead, "head")
	if err != nil {
		return err
	}
	revision, head, err := parseHead(row)
	if err != nil {
		return err
	}
	s.tree.revision = revision
	s.head.Store(&head)
	return nil
}

// readRevision reads the revision of the cells.
func (s *Store) readRevision() error {
	row, err := s.row(s.cells, kindRevision, "revision of the cells")
	if err != nil {
		return err
	}
	if len(row) != 8 {
		return fmt.Errorf("%w: the revision of the cells has %d bytes", storage.ErrCorrupt, len(row))
	}
	s.cells.revision = binary.BigEndian.Uint64(row)
	return nil
}

// row reads a row that every store has.
func (s *Store) row(d *database, kind byte, what string) ([]byte, error) {
	row, err := d.get([]byte{kind})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", storage.ErrCorrupt, what)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	return row, nil
}

// verify checks the tree, and that the rows of each kind end where the head does: every
// commit wrote both or neither.
func (s *Store) verify() error {
	if err := storage.Verify(context.Background(), s); err != nil {
		return err
	}
	size := s.head.Load().Size
	ends := map[byte]uint64{kindLeaves: size, kindPayloads: size}
	for level := uint8(1); level <= storage.MaxLevel; level++ {
		ends[kindNodes+level] = storage.Complete(size, level)
	}
	for kind, want := range ends {
		end, err := s.end(kind)
		if err != nil {
			return err
		}
		if end != want {
			return fmt.Errorf("%w: the rows of kind %q end at %d, the head of size %d wants %d", storage.ErrCorrupt, kind, end, size, want)
		}
	}
	return nil
}

// end returns where the rows of a kind end.
func (s *Store) end(kind byte) (end uint64, err error) {
	err = s.tree.scan([]byte{kind}, []byte{kind + 1}, func(it *pebble.Iterator) error {
		if !it.Last() {
			return it.Error()
		}
		first, r, err := rowAt(it)
		end = first + uint64(r.n)
		return err
	})
	return end, err
}
