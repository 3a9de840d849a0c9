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

// Create makes an empty store in dir, which it makes too if need be, and opens it. It
// refuses a directory that holds a store already with fs.ErrExist. A creation that was
// interrupted before Create returned can be repeated.
func Create(dir string, opts Options) (*Store, error) {
	s, err := create(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("creating a store in %s: %w", dir, err)
	}
	return s, nil
}

func create(dir string, opts Options) (*Store, error) {
	if opts.ReadOnly {
		return nil, storage.ErrReadOnly
	}
	s := newStore(dir, opts)
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	err := s.open(func() error {
		_, err := s.get([]byte{kindVersion})
		if err == nil {
			return fmt.Errorf("there is one: %w", fs.ErrExist)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w := s.newBatch(headSize)
		_ = w.Set([]byte{kindVersion}, []byte(format), nil)
		return s.apply(w, storage.EmptyHead())
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Open opens the store in dir and verifies it with storage.Verify. A directory without a
// store is fs.ErrNotExist, one that is in use storage.ErrLocked, and one whose content
// contradicts itself storage.ErrCorrupt.
func Open(dir string, opts Options) (*Store, error) {
	s, err := open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	return s, nil
}

func open(dir string, opts Options) (*Store, error) {
	s := newStore(dir, opts)
	if _, err := s.fs.Stat(dir); err != nil {
		return nil, notExist(err)
	}
	desc, err := pebble.Peek(dir, s.fs)
	if err != nil {
		return nil, notExist(err)
	}
	if !desc.Exists {
		return nil, fmt.Errorf("there is none: %w", fs.ErrNotExist)
	}
	err = s.open(func() error { return nil })
	if err != nil {
		return nil, err
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
		fs:       &walFS{FS: opts.FS},
		log:      opts.Logger,
		options:  opts,
		readOnly: opts.ReadOnly,
	}
	return s
}

// open locks the directory, opens Pebble, lets prepare write what a new store needs,
// and loads and verifies. When it fails, nothing stays open.
func (s *Store) open(prepare func() error) error {
	lock, err := lockDirectory(s.dir, s.fs)
	if err != nil {
		return err
	}
	s.lock = lock
	err = guard(func() error {
		db, err := pebble.Open(s.dir, s.pebbleOptions())
		s.db = db
		return err
	})
	if err != nil {
		return errors.Join(corrupt(err), lock.Close())
	}
	head := storage.EmptyHead()
	s.head.Store(&head)
	for _, step := range []func() error{prepare, s.load, s.checkMark, s.verify} {
		if err := step(); err != nil {
			if s.refused.Load() == nil {
				err = errors.Join(err, guard(s.db.Close), lock.Close())
			}
			return err
		}
	}
	return nil
}

// load reads version, head and incomplete bundle.
func (s *Store) load() error {
	version, err := s.get([]byte{kindVersion})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("its creation was not completed: %w", fs.ErrNotExist)
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
