package pebblestore

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// eraseBytes is where a batch of rewritten rows ends, in bytes, so that it stays bounded.
const eraseBytes = 8 << 20

// ErasePayloads implements storage.Store. The rows that hold the payloads are written anew
// without them. When it returns, the payloads cannot be read any more, also after a power
// loss, and the tables that held them have been merged with the new rows, and the logs
// replaced. The old tables are deleted in the background a moment later, or when a reading
// that needs them ends; Close waits for it. What the disk does with freed blocks is beyond
// the store. Commits go on meanwhile.
//
// When it returns an error after rows were written, erase again: the payloads are
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
	s.erasing.Lock()
	defer s.erasing.Unlock()
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
	for rest := sorted; len(rest) > 0; {
		w := s.tree.newBatch(eraseBytes)
		var err error
		if rest, err = s.rewrite(w, rest); err != nil {
			return err
		}
		if err := s.write(w); err != nil {
			return err
		}
	}
	return s.destroy(ctx, sorted)
}

// write writes a batch that leaves the head as it is.
func (s *Store) write(w *pebble.Batch) error {
	s.tree.write.Lock()
	defer s.tree.write.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	return s.tree.applyHead(w, *s.head.Load())
}

// rewrite adds rows without the first of the given payloads to w, until there are
// eraseBytes of them, and returns the payloads that are left.
func (s *Store) rewrite(w *pebble.Batch, sorted []uint64) ([]uint64, error) {
	lower, upper := newKey(kindPayloads, 0), []byte{kindPayloads + 1}
	var c chunk
	err := s.tree.scan(lower, upper, func(it *pebble.Iterator) error {
		for len(sorted) > 0 && w.Len() < eraseBytes {
			if !it.SeekGE(newKey(kindPayloads, sorted[0])) {
				if err := it.Error(); err != nil {
					return err
				}
				return fmt.Errorf("%w: entry %d is missing", storage.ErrCorrupt, sorted[0])
			}
			first, r, err := rowAt(it)
			if err != nil {
				return err
			}
			end := first + uint64(r.n)
			if first > sorted[0] {
				return fmt.Errorf("%w: row %x does not hold entry %d", storage.ErrCorrupt, it.Key(), sorted[0])
			}
			c.reset()
			if err := r.addTo(&c, 0, r.n); err != nil {
				return err
			}
			n := 0
			for ; n < len(sorted) && sorted[n] < end; n++ {
				c.erase(int(sorted[n] - first))
			}
			sorted = sorted[n:]
			setRow(w, it.Key(), r.n, func(i int) ([]byte, bool) { return c.item(i), c.ends[i] >= 0 })
		}
		return nil
	})
	return sorted, err
}

// destroy makes the files forget the old versions of rows that were written anew.
func (s *Store) destroy(ctx context.Context, sorted []uint64) error {
	// The old and the new rows meet in the tables; in the lowest level only the new ones
	// remain.
	if err := s.tree.flush(); err != nil {
		return err
	}
	for lower, upper := range runs(sorted) {
		err := guard(func() error {
			return s.tree.db.Compact(ctx, newKey(kindPayloads, lower), newKey(kindPayloads, roundUp(upper)), false)
		})
		if err != nil {
			return fmt.Errorf("compacting entries %d to %d: %w", lower, upper, corrupt(err))
		}
	}
	var err error
	if s.flushed[0], err = s.tree.dropLogs(); err != nil {
		return err
	}
	return s.writeMark()
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
