package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/keytrail/keytrail/storage"
)

// Cell implements storage.Store.
func (s *Store) Cell(ctx context.Context, name string) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	if err := storage.CheckCellName(name); err != nil {
		return nil, err
	}
	content, err := s.cells.get(cellKey(name))
	if err != nil {
		return nil, fmt.Errorf("reading cell %q: %w", name, err)
	}
	return content, nil
}

// swap is a SwapCell that waits. Those that wait together are written in one batch, so that
// swaps of different cells share a sync: a witness of many logs lives on that.
type swap struct {
	key, old, new []byte
	// done is closed when err is set.
	done chan struct{}
	err  error
}

// SwapCell implements storage.Store. Swaps that come while another is being synced
// are written together: by the first of them, while the others wait for it and for no lock.
func (s *Store) SwapCell(ctx context.Context, name string, old, new []byte) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := storage.CheckCellName(name); err != nil {
		return err
	}
	w := &swap{key: cellKey(name), old: old, new: new, done: make(chan struct{})}
	s.swapping.Lock()
	first := len(s.swaps) == 0
	s.swaps = append(s.swaps, w)
	s.swapping.Unlock()
	if first {
		s.swapAll()
	}
	<-w.done
	if w.err != nil {
		return fmt.Errorf("swapping cell %q: %w", name, w.err)
	}
	return nil
}

// swapAll does every swap that waits, in the order in which they came.
func (s *Store) swapAll() {
	s.cells.write.Lock()
	defer s.cells.write.Unlock()
	s.swapping.Lock()
	swaps := s.swaps
	s.swaps = nil
	s.swapping.Unlock()
	defer func() {
		for _, w := range swaps {
			close(w.done)
		}
	}()
	// written holds the cells as this batch leaves them.
	written := make(map[string][]byte)
	var good []*swap
	size := 2 * rowOverhead
	for _, w := range swaps {
		if w.err = s.checkSwap(w, written); w.err != nil {
			continue
		}
		written[string(w.key)] = w.new
		good = append(good, w)
		size += len(w.key) + len(w.new) + rowOverhead
	}
	if len(good) == 0 {
		return
	}
	b := s.cells.nextBatch(size)
	for _, w := range good {
		_ = b.Set(w.key, w.new, nil)
	}
	if err := s.cells.applyCells(b); err != nil {
		for _, w := range good {
			w.err = err
		}
	}
}

// checkSwap says why a swap cannot be done after those that are in the batch already.
func (s *Store) checkSwap(w *swap, written map[string][]byte) error {
	if err := s.writable(); err != nil {
		return err
	}
	content, exists := written[string(w.key)]
	if !exists {
		var err error
		content, err = s.cells.get(w.key)
		exists = !errors.Is(err, fs.ErrNotExist)
		if err != nil && exists {
			return err
		}
	}
	if exists != (w.old != nil) || !bytes.Equal(content, w.old) {
		return storage.ErrConflict
	}
	return nil
}
