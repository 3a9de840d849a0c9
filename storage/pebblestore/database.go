package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// database is one of the two Pebbles of a store, each with a log of its own: their writes
// do not wait for each other, and neither's syncs carry the other's bytes.
type database struct {
	store *Store
	// name is that of its directory.
	name   string
	db     *pebble.DB
	opened atomic.Bool // is db open; merges are for then
	spare  *spare      // nil for a store that is only read

	// write is held by whoever writes, and guards what follows.
	write sync.Mutex
	// revision counts the writes since the store was created.
	revision uint64
	// used is a batch that was written, for its memory; nil for none.
	used *pebble.Batch
}

// open opens or makes Pebble's directory in parent.
func (d *database) open(parent string, opts *pebble.Options) error {
	path := d.store.fs.PathJoin(parent, d.name)
	if !d.store.readOnly {
		d.spare = &spare{
			fs: d.store.fs.FS, path: d.store.fs.PathJoin(path, spareName), size: int64(opts.MemTableSize), left: recycledLogs + 1,
		}
		if err := d.spare.open(); err != nil {
			return err
		}
		opts.FS = &databaseFS{d.store.fs, d.spare}
	}
	var db *pebble.DB
	err := d.store.flushes.await(func() (err error) {
		db, err = pebble.Open(path, opts)
		return err
	})
	if err == nil {
		d.db, d.used = db, nil
		d.opened.Store(true)
	}
	// Pebble panics when it cannot clean up after a failed write. The disk is not damaged then.
	if _, panicked := errors.AsType[*panicError](err); panicked {
		if cause := d.store.fs.tables.cause(); cause != nil {
			return fmt.Errorf("%w; %s", cause, err.Error())
		}
	}
	if err = corrupt(err); errors.Is(notExist(err), fs.ErrNotExist) {
		// The caller asks for ErrNotExist where there is no store.
		return fmt.Errorf("%w: %s", storage.ErrCorrupt, err.Error())
	}
	return err
}

// close closes Pebble if it is open.
func (d *database) close() error {
	if d.db == nil {
		return nil
	}
	err := guard(d.db.Close)
	d.db = nil
	if d.spare != nil {
		err = errors.Join(err, d.spare.close())
	}
	return err
}

func (d *database) newBatch(size int) *pebble.Batch {
	return d.db.NewBatch(pebble.WithInitialSizeBytes(size), pebble.WithMaxRetainedSizeBytes(maxRetainedBatch))
}

// nextBatch is newBatch in the memory of the batch before. The caller holds d.write, and
// writes what it gets.
func (d *database) nextBatch(size int) *pebble.Batch {
	w := d.used
	if d.used = nil; w == nil {
		w = d.newBatch(size)
	}
	return w
}

// applyHead writes a batch to the database of the tree, with its head row.
func (d *database) applyHead(w *pebble.Batch, head storage.Head) error {
	var row [headSize]byte
	_ = w.Set([]byte{kindHead}, appendHead(row[:0], d.revision+1, head), nil)
	return d.sync(w)
}

// applyCells writes a batch to the database of cells, with its revision row.
func (d *database) applyCells(w *pebble.Batch) error {
	_ = w.Set([]byte{kindRevision}, binary.BigEndian.AppendUint64(nil, d.revision+1), nil)
	return d.sync(w)
}

// sync writes a batch, which notes the next revision, to the log and waits until the disk
// has it. The caller holds d.write. After an error the outcome is unknown and the store
// refuses all further writes.
func (d *database) sync(w *pebble.Batch) error {
	err := guard(func() error { return w.Commit(pebble.Sync) })
	if err != nil {
		err = fmt.Errorf("the outcome is unknown: %w", err)
		d.store.fail(err)
		return err
	}
	w.Reset()
	d.used = w
	d.revision++
	return nil
}

// flush moves everything to tables.
func (d *database) flush() error {
	err := d.store.flushes.await(func() error { return d.db.Flush() })
	if err != nil {
		d.store.fail(err)
	}
	return err
}

// dropLogs moves everything to tables and replaces the old logs, which Pebble keeps to
// write over, by empty files. It returns a revision that tables hold.
func (d *database) dropLogs() (uint64, error) {
	d.write.Lock()
	revision := d.revision
	d.write.Unlock()
	d.store.fs.forgetLogs.Add(1)
	defer d.store.fs.forgetLogs.Add(-1)
	// With reuse off each flush takes one of them away; the first makes one more.
	for range recycledLogs + 1 {
		if err := d.flush(); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// get returns a copy of a row, fs.ErrNotExist when there is none.
func (d *database) get(key []byte) ([]byte, error) {
	var content []byte
	err := guard(func() error {
		value, closer, err := d.db.Get(key)
		if err != nil {
			return err
		}
		content = append([]byte{}, value...)
		return closer.Close()
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fs.ErrNotExist
	}
	return content, corrupt(err)
}

// scan calls fn with an iterator over the rows from lower (inclusive) to upper
// (exclusive), and returns the iterator's error if fn has none.
func (d *database) scan(lower, upper []byte, fn func(it *pebble.Iterator) error) error {
	return guard(func() error {
		it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return corrupt(err)
		}
		err = fn(it)
		if closeErr := it.Close(); err == nil {
			err = closeErr
		}
		return corrupt(err)
	})
}
