package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/keytrail/keytrail/storage"
)

// VerifyTables reads every block of the tables that a reading of all leaves and payloads
// leaves out, and holds it against its checksum: those of the cells and of head and nodes,
// old rows among them, which nobody asks for until a merge stumbles over one. It calls
// damaged for every damaged table, with its path and the first thing wrong in it. An error
// says that the tables could not be read.
func (s *Store) VerifyTables(ctx context.Context, damaged func(file, what string)) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	for _, d := range s.databases() {
		if err := d.verifyTables(ctx, damaged); err != nil {
			return fmt.Errorf("verifying the tables of the %s: %w", d.name, err)
		}
	}
	return nil
}

func (d *database) verifyTables(ctx context.Context, damaged func(file, what string)) error {
	levels, err := d.db.SSTables()
	if err != nil {
		return err
	}
	for _, tables := range levels {
		for i := range tables {
			if err := ctx.Err(); err != nil {
				return err
			}
			if d == d.store.tree && tables[i].Smallest.UserKey[0] >= kindLeaves {
				continue
			}
			file := d.tablePath(tables[i].BackingSSTNum.String())
			err := corrupt(guard(func() error { return d.verifyTable(ctx, file) }))
			if errors.Is(err, storage.ErrCorrupt) {
				what, _, _ := strings.Cut(err.Error(), "\n")
				damaged(file, what)
			} else if err != nil {
				return fmt.Errorf("reading %s: %w", file, err)
			}
		}
	}
	return nil
}

// verifyTable reads every block of a table, past Pebble's cache.
func (d *database) verifyTable(ctx context.Context, file string) error {
	r, err := d.openTable(ctx, file)
	if err != nil {
		return err
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// tablePath returns the path of the table with a number.
func (d *database) tablePath(number string) string {
	return d.store.fs.PathJoin(d.store.path(dbName), d.name, number+".sst")
}

// openTable opens a table past Pebble.
func (d *database) openTable(ctx context.Context, file string) (*sstable.Reader, error) {
	f, err := d.store.fs.Open(file)
	if err != nil {
		return nil, err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var opts pebble.Options
	opts.EnsureDefaults()
	r, err := sstable.NewReader(ctx, readable, opts.MakeReaderOptions())
	if err != nil {
		return nil, errors.Join(err, readable.Close())
	}
	return r, nil
}
