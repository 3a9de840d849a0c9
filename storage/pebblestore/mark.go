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

// The mark is a small file beside Pebble's directories that says how many writes tree and
// cells had when they were last moved to tables. Pebble takes a damaged end of its manifest
// or log for a write that a crash cut short, and would quietly go back to an older
// state; the mark shows it. Every store has one.
const (
	markSum  = 8 + 8
	markSize = markSum + 4
)

// writeMark notes the revisions that tables hold, durably.
func (s *Store) writeMark() error {
	var row [markSize]byte
	for i, revision := range s.flushed {
		binary.BigEndian.PutUint64(row[8*i:], revision)
	}
	binary.BigEndian.PutUint32(row[markSum:], crc32.ChecksumIEEE(row[:markSum]))
	if err := s.replaceFile(markName, row[:]); err != nil {
		return fmt.Errorf("writing the mark: %w", err)
	}
	return nil
}

// replaceFile puts content into a file of the store's directory, all or nothing, durably.
func (s *Store) replaceFile(name string, content []byte) error {
	temp := s.path(name + ".new")
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
	if err := s.fs.Rename(temp, s.path(name)); err != nil {
		return err
	}
	return syncDirectory(s.fs, s.dir)
}

// checkMark compares the revisions that were loaded with the mark.
func (s *Store) checkMark() error {
	row, err := s.readMark()
	if err != nil {
		return fmt.Errorf("reading the mark: %w", notExist(err))
	}
	if len(row) != markSize || crc32.ChecksumIEEE(row[:markSum]) != binary.BigEndian.Uint32(row[markSum:]) {
		return fmt.Errorf("%w: %s does not hold what was written there", storage.ErrCorrupt, s.path(markName))
	}
	for i, d := range s.databases() {
		s.flushed[i] = binary.BigEndian.Uint64(row[8*i:])
		if d.revision < s.flushed[i] {
			return fmt.Errorf("%w: the store has gone back: its %s had %d writes at least and has %d (%v)", storage.ErrCorrupt, d.name, s.flushed[i], d.revision, *s.head.Load())
		}
	}
	return nil
}

func (s *Store) readMark() ([]byte, error) {
	f, err := s.fs.Open(s.path(markName))
	if errors.Is(notExist(err), fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", storage.ErrCorrupt, s.path(markName))
	}
	if err != nil {
		return nil, err
	}
	row, err := io.ReadAll(io.LimitReader(f, markSize+1))
	return row, errors.Join(err, f.Close())
}
