package pebblestore

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/storage"
)

// maxRetainedBatch is the largest buffer of a batch that is kept for the next one, in
// bytes: some thousand entries of 600 bytes.
const maxRetainedBatch = 4 << 20

// rowOverhead is more than what Pebble adds to a key and a value in a batch, in bytes.
const rowOverhead = 16

// payloadRow is where a row of payloads ends, in bytes, unless its first one is larger. A
// reading of one payload unpacks a block, which holds a row, or many small ones.
const payloadRow = 32 << 10

// Commit implements storage.Store: one synced batch holds payloads, leaves, nodes and
// the head.
func (s *Store) Commit(ctx context.Context, b *storage.Batch) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	s.tree.write.Lock()
	defer s.tree.write.Unlock()
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
	w := s.tree.nextBatch(batchBytes(b))
	setEntries(w, kindLeaves, b, func(e *storage.Entry) []byte { return e.Leaf })
	setEntries(w, kindPayloads, b, func(e *storage.Entry) []byte { return e.Payload })
	setNodes(w, b.Nodes)
	head := b.New
	head.Time = head.Time.UTC()
	if err := s.tree.applyHead(w, head); err != nil {
		return err
	}
	s.head.Store(&head)
	return nil
}

// setEntries writes one part of the entries of a batch in rows.
func setEntries(w *pebble.Batch, kind byte, b *storage.Batch, part func(e *storage.Entry) []byte) {
	first, rest := b.Old.Size, b.Entries
	for len(rest) > 0 {
		n, bytes := 0, 0
		for limit := int(min(uint64(len(rest)), rowItems-first%rowItems)); n < limit; n++ {
			if bytes += len(part(&rest[n])); bytes > payloadRow && n > 0 && kind == kindPayloads {
				break
			}
		}
		row := rest[:n]
		setRow(w, newKey(kind, first+uint64(n)-1), n, func(i int) ([]byte, bool) { return part(&row[i]), true })
		first, rest = first+uint64(n), rest[n:]
	}
}

// setNodes writes the nodes of a batch in rows. Those of one level are in order.
func setNodes(w *pebble.Batch, nodes []storage.Node) {
	if len(nodes) == 0 {
		return
	}
	var level []*storage.Node
	for l := uint8(1); l <= storage.MaxLevel; l++ {
		level = level[:0]
		for i := range nodes {
			if nodes[i].Level == l {
				level = append(level, &nodes[i])
			}
		}
		for rest := level; len(rest) > 0; {
			first := rest[0].Index
			row := rest[:min(uint64(len(rest)), rowItems-first%rowItems)]
			setRow(w, newKey(kindNodes+l, row[len(row)-1].Index), len(row), func(i int) ([]byte, bool) { return row[i].Hash[:], true })
			rest = rest[len(row):]
		}
	}
}

// setRow writes a row of n items; item returns the i-th, false when it is erased.
func setRow(w *pebble.Batch, key []byte, n int, item func(i int) ([]byte, bool)) {
	length := func(i int) int {
		if b, ok := item(i); ok {
			return len(b)
		}
		return erasedItem
	}
	l := layoutRun(n, length)
	op := w.SetDeferred(len(key), l.size())
	copy(op.Key, key)
	v := l.begin(op.Value[:0], length)
	for i := range n {
		b, _ := item(i)
		v = append(v, b...)
	}
	_ = op.Finish() // Fails only for an indexed batch, as does Set.
}

// batchBytes estimates the size of a commit from above.
func batchBytes(b *storage.Batch) int {
	bytes, rows := 0, 4+2*storage.MaxLevel+2*len(b.Entries)/rowItems
	for i := range b.Entries {
		bytes += len(b.Entries[i].Payload) + len(b.Entries[i].Leaf)
	}
	rows += 2 * bytes / payloadRow
	return headSize + bytes + 8*len(b.Entries) + len(b.Nodes)*storage.HashSize + rows*(keySize+rowOverhead)
}
