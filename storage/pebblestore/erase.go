package pebblestore

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/keytrail/keytrail/storage"
)

// maxErase is how many payloads one batch erases, so that its size stays bounded.
const maxErase = 100_000

// ErasePayloads implements storage.Store. When it returns, the payloads cannot be read
// any more, also after a power loss, and the tables that held them have been written
// anew without them, as have the logs. The old tables are deleted in the background a
// moment later, or when a reading that needs them ends; Close waits for it. What the disk
// does with freed blocks is beyond the store.
//
// When it returns an error after the marks were written, erase again: the payloads are
// gone from sight but their bytes may still be in a file.
func (s *Store) ErasePayloads(ctx context.Context, indexes []uint64) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if len(indexes) == 0 {
		return nil
	}
	sorted := slices.Clone(indexes)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.erase(ctx, sorted); err != nil {
		return fmt.Errorf("erasing %d payloads: %w", len(sorted), err)
	}
	return nil
}

func (s *Store) erase(ctx context.Context, sorted []uint64) error {
	if err := s.writable(); err != nil {
		return err
	}
	if size, last := s.head.Load().Size, sorted[len(sorted)-1]; last >= size {
		return fmt.Errorf("payload %d in a tree of size %d: %w", last, size, fs.ErrNotExist)
	}
	for part := range slices.Chunk(sorted, maxErase) {
		w := s.newBatch(len(part)*2*(indexKeySize+rowOverhead) + headSize)
		for _, i := range part {
			_ = w.Delete(indexKey(kindPayload, i), nil)
			setRow(w, kindErased, i, nil)
		}
		if err := s.apply(w, *s.head.Load()); err != nil {
			return err
		}
	}
	return s.destroy(ctx, sorted)
}

// destroy makes the files forget rows that were deleted.
func (s *Store) destroy(ctx context.Context, sorted []uint64) error {
	// The rows and their deletion meet in the tables; in the lowest level neither
	// remains.
	if err := s.flush(); err != nil {
		return err
	}
	for lower, upper := range runs(sorted) {
		err := guard(func() error {
			return s.db.Compact(ctx, indexKey(kindPayload, lower), indexKey(kindPayload, upper), false)
		})
		if err != nil {
			return fmt.Errorf("compacting entries %d to %d: %w", lower, upper, corrupt(err))
		}
	}
	// Pebble keeps a few old logs to write over. With reuse off, each flush takes one
	// of them away.
	s.fs.forgetLogs.Store(true)
	defer s.fs.forgetLogs.Store(false)
	for range recycledLogs {
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

// maxGap is the largest gap in entries within a run: one compaction over a gap is
// cheaper than two.
const maxGap = 4096

// runs yields the ranges, lower inclusive and upper exclusive, that cover the indexes.
func runs(sorted []uint64) func(yield func(lower, upper uint64) bool) {
	return func(yield func(lower, upper uint64) bool) {
		for len(sorted) > 0 {
			n := 1
			for n < len(sorted) && sorted[n]-sorted[n-1] <= maxGap {
				n++
			}
			if !yield(sorted[0], sorted[n-1]+1) {
				return
			}
			sorted = sorted[n:]
		}
	}
}

var _ storage.Store = (*Store)(nil)
