// Package memstore is a storage engine that keeps everything in memory, for tests.
//
// A Store may be used concurrently. Nothing of it is durable: what storage.Store calls
// durable lasts here until the process ends. It holds copies of what it is given and
// gives copies of what it holds.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// Store implements storage.Store. It must be made with New.
type Store struct {
	// calls counts the calls under way, for Close to wait for.
	calls sync.WaitGroup

	// mu guards what follows.
	mu       sync.RWMutex
	closed   bool
	head     storage.Head
	leaves   [][]byte
	payloads [][]byte
	// levels holds the hashes of the complete subtrees of 256^level leaves.
	levels [storage.MaxLevel + 1][]byte
	cells  map[string][]byte
}

// New returns an empty store.
func New() *Store {
	return &Store{head: storage.EmptyHead(), cells: make(map[string][]byte)}
}

// Reopen closes s and returns a new store with the same content.
func (s *Store) Reopen() *Store {
	_ = s.Close() // Cannot fail.
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := &Store{
		head:     s.head,
		leaves:   slices.Clone(s.leaves),
		payloads: slices.Clone(s.payloads),
		cells:    maps.Clone(s.cells),
	}
	for l := range s.levels {
		r.levels[l] = bytes.Clone(s.levels[l])
	}
	return r
}

// enter begins a call; the caller calls s.calls.Done at its end.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return fmt.Errorf("using the store: %w", fs.ErrClosed)
	}
	s.calls.Add(1)
	return nil
}

// Head implements storage.Store.
func (s *Store) Head(ctx context.Context) (storage.Head, error) {
	if err := s.enter(ctx); err != nil {
		return storage.Head{}, err
	}
	defer s.calls.Done()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head, nil
}

// Commit implements storage.Store.
func (s *Store) Commit(ctx context.Context, b *storage.Batch) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := b.Check(s.head); err != nil {
		return fmt.Errorf("committing %d entries at %d: %w", len(b.Entries), b.Old.Size, err)
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		s.leaves = append(s.leaves, bytes.Clone(e.Leaf))
		// An empty payload is not an erased one, which is nil.
		s.payloads = append(s.payloads, append([]byte{}, e.Payload...))
		s.levels[0] = append(s.levels[0], rfc6962.DefaultHasher.HashLeaf(e.Leaf)...)
	}
	for i := range b.Nodes {
		n := &b.Nodes[i]
		s.levels[n.Level] = append(s.levels[n.Level], n.Hash[:]...)
	}
	s.head = b.New
	s.head.Time = b.New.Time.UTC()
	return nil
}

// Tile implements storage.Store.
func (s *Store) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := storage.CheckTile(s.head.Size, level, index, width); err != nil {
		return nil, err
	}
	start := index * storage.TileWidth * storage.HashSize
	return bytes.Clone(s.levels[level][start:][:width*storage.HashSize]), nil
}

// Leaves implements storage.Store.
func (s *Store) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	return s.each(ctx, start, end, fn, func(i uint64) []byte { return s.leaves[i] })
}

// Payloads implements storage.Store.
func (s *Store) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	return s.each(ctx, start, end, fn, func(i uint64) []byte { return s.payloads[i] })
}

func (s *Store) each(ctx context.Context, start, end uint64, fn func(uint64, []byte) error, at func(uint64) []byte) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	read := func(i uint64) []byte {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return bytes.Clone(at(i))
	}
	s.mu.RLock()
	size := s.head.Size
	s.mu.RUnlock()
	if err := storage.CheckRange(size, start, end); err != nil {
		return err
	}
	for i := start; i < end; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(i, read(i)); err != nil {
			return err
		}
	}
	return nil
}

// ErasePayloads implements storage.Store.
func (s *Store) ErasePayloads(ctx context.Context, indexes []uint64) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range indexes {
		if i >= s.head.Size {
			return fmt.Errorf("erasing payload %d in a tree of size %d: %w", i, s.head.Size, fs.ErrNotExist)
		}
	}
	for _, i := range indexes {
		clear(s.payloads[i])
		s.payloads[i] = nil
	}
	return nil
}

// Cell implements storage.Store.
func (s *Store) Cell(ctx context.Context, name string) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	if err := storage.CheckCellName(name); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	content, ok := s.cells[name]
	if !ok {
		return nil, fmt.Errorf("reading cell %q: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(content), nil
}

// SwapCell implements storage.Store.
func (s *Store) SwapCell(ctx context.Context, name string, old, new []byte) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := storage.CheckCellName(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.cells[name]
	if ok != (old != nil) || !bytes.Equal(content, old) {
		return fmt.Errorf("swapping cell %q: %w", name, storage.ErrConflict)
	}
	s.cells[name] = append([]byte{}, new...)
	return nil
}

// Close implements storage.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	return nil
}
