package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/keystore"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness"
)

// A witness's directory holds:
//
//	keys/       private keys, one file each, 0600; all of them cosign
//	keys/retired/ keys that cosigned once
//	store/      enrolled logs and what was cosigned of each
//	counter     how many changes the store had; better on another medium (--counter)
//	evidence/   contradictions of logs, a file each
//	control/    the socket of the witness that runs
//	bastion.key the key for bastions, 0600, where one is used

// Limits of files that are read whole, in bytes.
const (
	maxKeyFile    = 64 << 10
	maxCheckpoint = checkpoint.MaxNoteSize
)

// location is where a witness is.
type location struct{ dir, counter string }

func (l location) store() string    { return filepath.Join(l.dir, "store") }
func (l location) evidence() string { return filepath.Join(l.dir, "evidence") }
func (l location) keyDir() string   { return filepath.Join(l.dir, "keys") }

func (l location) counterFile() string {
	if l.counter != "" {
		return l.counter
	}
	return filepath.Join(l.dir, "counter")
}

// make makes the directory of a new witness. It refuses one that holds anything.
func (l location) make(ctx context.Context, name string) ([]keystore.Key, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking into %s: %w", l.dir, err)
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("making a witness in %s: the directory is not empty: %w", l.dir, fs.ErrExist)
	}
	if err := os.MkdirAll(l.keyDir(), 0o700); err != nil {
		return nil, fmt.Errorf("making a witness: %w", err)
	}
	keys, err := l.makeKeys(name)
	if err != nil {
		return nil, err
	}
	s, err := pebblestore.Create(l.store(), pebblestore.Options{OnFatal: cli.OnFatal("keytrail-witness")})
	if err != nil {
		return nil, err
	}
	return keys, errors.Join(witness.Create(ctx, s, l.counterFile()), s.Close())
}

// opened is a witness with its store.
type opened struct {
	*witness.Witness
	store storage.Store
}

func (o *opened) Close() error {
	return errors.Join(o.Witness.Close(), o.store.Close())
}

// open opens the witness. One process at a time can.
func (l location) open(ctx context.Context, logger *slog.Logger) (*opened, error) {
	c, err := l.config(logger)
	if err != nil {
		return nil, err
	}
	c.Counter, err = witness.OpenCounter(l.counterFile())
	if err != nil {
		return nil, errors.Join(l.hint(err), c.Store.Close())
	}
	w, err := witness.Open(ctx, c)
	if err != nil {
		return nil, l.hint(errors.Join(err, c.Store.Close()))
	}
	return &opened{w, c.Store}, nil
}

// lockedStore is a store in a directory that is locked until it is closed.
type lockedStore struct {
	storage.Store
	lock *os.File
}

func (s *lockedStore) Close() error { return errors.Join(s.Store.Close(), s.lock.Close()) }

// lock takes the directory itself for this process: the lock files in it can be deleted, and
// two processes on one store could cosign two histories.
func (l location) lock() (*os.File, error) {
	dir, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return dir, nil
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = storage.ErrLocked
	}
	return nil, errors.Join(fmt.Errorf("locking %s: %w", l.dir, err), dir.Close())
}

// config opens keys and store.
func (l location) config(logger *slog.Logger) (witness.Config, error) {
	keys, err := l.keys()
	if err != nil {
		return witness.Config{}, err
	}
	s, err := l.openStore(logger)
	if errors.Is(err, storage.ErrLocked) {
		return witness.Config{}, cli.Hint(err, "stop the witness first")
	}
	if err != nil {
		return witness.Config{}, l.hint(err)
	}
	return witness.Config{Store: s, Signers: keystore.Signers(keys), Evidence: l.evidence(), Logger: logger}, nil
}

// openStore opens the store with the directory locked.
func (l location) openStore(logger *slog.Logger) (storage.Store, error) {
	lock, err := l.lock()
	if err != nil {
		return nil, err
	}
	s, err := pebblestore.Open(l.store(), pebblestore.Options{
		Logger: logger,
		OnFatal: func(err error) {
			if logger != nil {
				logger.Error("the store cannot be trusted to keep what it is given; ending", slog.Any("error", err))
			} else {
				cli.OnFatal("keytrail-witness")(err)
			}
			os.Exit(cli.ExitError)
		},
	})
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &lockedStore{s, lock}, nil
}

// hint says what to do about state that is missing, damaged or too old.
func (l location) hint(err error) error {
	switch _, statErr := os.Stat(l.store()); {
	case errors.Is(err, storage.ErrCorrupt), errors.Is(err, fs.ErrNotExist) && statErr != nil:
		return cli.Hint(err, "bring back a good copy of %s; if there is none, make a new witness with new keys: "+
			"what this one has cosigned is not known any more", l.store())
	case errors.Is(err, witness.ErrWentBack), errors.Is(err, fs.ErrNotExist):
		return cli.Hint(err, "bring back the newest store and counter file; if they are lost, accept the store as it is with the newest "+
			"checkpoints that this witness cosigned: keytrail-witness adopt --dir %s CHECKPOINT…; or make a new witness with new keys", l.dir)
	}
	return err
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, nil
}
