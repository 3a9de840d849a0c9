package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
)

// The mark is a small file beside Pebble's own that says how many writes the store had
// when everything was last moved to tables. Pebble takes a damaged end of its manifest
// or log for a write that a crash cut short, and would quietly go back to an older
// state; the mark shows it.
const (
	markName = "keytrail.mark"
	markSize = 8 + 4
)

// writeMark notes the present revision, durably. The caller has flushed.
func (s *Store) writeMark() error {
	var row [markSize]byte
	binary.BigEndian.PutUint64(row[:], s.revision)
	binary.BigEndian.PutUint32(row[8:], crc32.ChecksumIEEE(row[:8]))
	name := s.fs.PathJoin(s.dir, markName)
	if err := s.replaceFile(name, row[:]); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// replaceFile puts content into a file, all or nothing, durably.
func (s *Store) replaceFile(name string, content []byte) error {
	temp := name + ".new"
	f, err := s.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.fs.Rename(temp, name); err != nil {
		return err
	}
	dir, err := s.fs.OpenDir(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// checkMark compares the revision that was loaded with the mark. A store that never
// came to writing one has none.
func (s *Store) checkMark() error {
	name := s.fs.PathJoin(s.dir, markName)
	f, err := s.fs.Open(name)
	if errors.Is(notExist(err), fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	row, err := io.ReadAll(io.LimitReader(f, markSize+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(row) != markSize || crc32.ChecksumIEEE(row[:8]) != binary.BigEndian.Uint32(row[8:]) {
		return fmt.Errorf("%w: %s does not hold what was written there", storage.ErrCorrupt, name)
	}
	if marked := binary.BigEndian.Uint64(row); s.revision < marked {
		return fmt.Errorf("%w: the store has gone back: it had %d writes at least and holds %d (%v)", storage.ErrCorrupt, marked, s.revision, *s.head.Load())
	}
	return nil
}
