package pebblestore

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// maxRetainedBatch is the largest buffer of a batch that is kept for the next one, in
// bytes: a thousand entries of 1 KiB.
const maxRetainedBatch = 2 << 20

// rowOverhead is more than what Pebble adds to a key and a value in a batch, in bytes.
const rowOverhead = 16

// Commit implements storage.Store: one synced batch holds payloads, leaves, nodes and
// the head.
func (s *Store) Commit(ctx context.Context, b *storage.Batch) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.commit(b); err != nil {
		return fmt.Errorf("committing %d entries at %d: %w", len(b.Entries), b.Old.Size, err)
	}
	return nil
}

func (s *Store) commit(b *storage.Batch) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := b.Check(*s.head.Load()); err != nil {
		return err
	}
	w := s.newBatch(batchBytes(b) + len(s.tail))
	for i := range b.Entries {
		setRow(w, kindPayload, b.Old.Size+uint64(i), b.Entries[i].Payload)
	}
	// From here on s.tail runs ahead of the head; when the write fails nothing more is
	// written, so that it is not needed again.
	s.setLeaves(w, b)
	for i := range b.Nodes {
		n := &b.Nodes[i]
		op := w.SetDeferred(nodeKeySize, storage.HashSize)
		putNodeKey(op.Key, n.Level, n.Index)
		copy(op.Value, n.Hash[:])
		_ = op.Finish() // Fails only for an indexed batch, as do Set and Delete.
	}
	head := b.New
	head.Time = head.Time.UTC()
	return s.apply(w, head)
}

// setLeaves writes the bundles that the batch touches. The incomplete bundle is written
// whole with every commit: see ../DESIGN.md.
func (s *Store) setLeaves(w *pebble.Batch, b *storage.Batch) {
	size := b.Old.Size
	for i := range b.Entries {
		s.tail = appendLeaf(s.tail, b.Entries[i].Leaf)
		if size++; size%storage.TileWidth == 0 {
			setRow(w, kindLeaves, size/storage.TileWidth-1, s.tail)
			s.tail = s.tail[:0]
		}
	}
	if len(s.tail) > 0 {
		setRow(w, kindLeaves, size/storage.TileWidth, s.tail)
	}
}

// setRow writes a row whose key is a kind and a number.
func setRow(w *pebble.Batch, kind byte, n uint64, value []byte) {
	op := w.SetDeferred(indexKeySize, len(value))
	putIndexKey(op.Key, kind, n)
	copy(op.Value, value)
	_ = op.Finish()
}

// batchBytes estimates the size of a commit from above.
func batchBytes(b *storage.Batch) int {
	n := headSize + 2*rowOverhead + len(b.Nodes)*(nodeKeySize+storage.HashSize+rowOverhead)
	for i := range b.Entries {
		n += len(b.Entries[i].Payload) + indexKeySize + rowOverhead + len(b.Entries[i].Leaf) + leafHeader
	}
	return n + (len(b.Entries)/storage.TileWidth+2)*(indexKeySize+rowOverhead)
}

func (s *Store) newBatch(size int) *pebble.Batch {
	return s.db.NewBatch(pebble.WithInitialSizeBytes(size), pebble.WithMaxRetainedSizeBytes(maxRetainedBatch))
}

// apply writes a batch together with the head row, synced. The caller holds s.write.
// After an error the outcome is unknown and the store refuses all further writes.
func (s *Store) apply(w *pebble.Batch, head storage.Head) error {
	var row [headSize]byte
	_ = w.Set([]byte{kindHead}, appendHead(row[:0], s.revision+1, head), nil)
	err := guard(func() error { return w.Commit(pebble.Sync) })
	if err != nil {
		err = fmt.Errorf("the outcome is unknown: %w", err)
		s.fail(err)
		return err
	}
	_ = w.Close() // Only gives the buffer back.
	s.revision++
	s.head.Store(&head)
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
	content, err := s.get(cellKey(name))
	if err != nil {
		return nil, fmt.Errorf("reading cell %q: %w", name, err)
	}
	return content, nil
}
