package storage

import (
	"fmt"
	"io/fs"
)

// TileWidth is the number of hashes in a full tile and of leaves under a node of level 1.
const TileWidth = 256

// MaxLevel is the highest level of a tile that a tree of 2^64-1 entries has.
const MaxLevel = 7

// Complete returns how many nodes of a level are complete in a tree of size entries:
// size / 256^level.
func Complete(size uint64, level uint8) uint64 {
	if level > MaxLevel {
		return 0
	}
	return size >> (8 * level)
}

// Check says whether b can be committed on top of head. It returns ErrInvalid when the
// batch contradicts itself and ErrConflict when it extends another head. Engines call it
// before they write; the hashes in it are not checked.
func (b *Batch) Check(head Head) error {
	if len(b.Entries) == 0 {
		return fmt.Errorf("%w: a batch without entries", ErrInvalid)
	}
	n := uint64(len(b.Entries))
	if b.New.Size != b.Old.Size+n || b.New.Size < b.Old.Size {
		return fmt.Errorf("%w: %d entries on top of size %d do not give size %d", ErrInvalid, n, b.Old.Size, b.New.Size)
	}
	if err := b.checkEntries(); err != nil {
		return err
	}
	if err := b.checkNodes(); err != nil {
		return err
	}
	if !b.Old.Equal(head) {
		return fmt.Errorf("%w: the batch extends %v, the head is %v", ErrConflict, b.Old, head)
	}
	return nil
}

func (b *Batch) checkEntries() error {
	total := 0
	for i := range b.Entries {
		e := &b.Entries[i]
		if len(e.Leaf) == 0 || len(e.Leaf) > MaxLeafSize {
			return fmt.Errorf("%w: the leaf of entry %d has %d bytes, want 1 to %d", ErrInvalid, b.Old.Size+uint64(i), len(e.Leaf), MaxLeafSize)
		}
		total += len(e.Leaf) + len(e.Payload)
		if total > MaxBatchBytes {
			return fmt.Errorf("%w: the batch has more than %d bytes", ErrInvalid, MaxBatchBytes)
		}
	}
	return nil
}

// checkNodes checks that the nodes are exactly those that the batch completes.
func (b *Batch) checkNodes() error {
	var next [MaxLevel + 1]uint64
	for l := range next {
		next[l] = Complete(b.Old.Size, uint8(l))
	}
	for i := range b.Nodes {
		n := &b.Nodes[i]
		if n.Level == 0 || n.Level > MaxLevel {
			return fmt.Errorf("%w: node %d has level %d, want 1 to %d", ErrInvalid, i, n.Level, MaxLevel)
		}
		if n.Index != next[n.Level] || n.Index >= Complete(b.New.Size, n.Level) {
			return fmt.Errorf("%w: node %d/%d is not the next that sizes %d to %d complete", ErrInvalid, n.Level, n.Index, b.Old.Size, b.New.Size)
		}
		next[n.Level]++
	}
	for l := uint8(1); l <= MaxLevel; l++ {
		if next[l] != Complete(b.New.Size, l) {
			return fmt.Errorf("%w: node %d/%d is missing", ErrInvalid, l, next[l])
		}
	}
	return nil
}

// CheckTile checks the arguments of Store.Tile against a tree of size entries.
func CheckTile(size uint64, level uint8, index uint64, width int) error {
	if width < 1 || width > TileWidth {
		return fmt.Errorf("%w: a tile of width %d", ErrInvalid, width)
	}
	have := Complete(size, level)
	// Without overflow: index*256+width <= have.
	if index > have/TileWidth || have-index*TileWidth < uint64(width) {
		return fmt.Errorf("tile %d/%d of width %d in a tree of size %d: %w", level, index, width, size, fs.ErrNotExist)
	}
	return nil
}

// CheckRange checks the arguments of Store.Leaves and Store.Payloads against a tree of
// size entries.
func CheckRange(size, start, end uint64) error {
	if start > end {
		return fmt.Errorf("%w: entries %d to %d", ErrInvalid, start, end)
	}
	if end > size {
		return fmt.Errorf("entries %d to %d in a tree of size %d: %w", start, end, size, fs.ErrNotExist)
	}
	return nil
}

// CheckCellName checks the name of a cell.
func CheckCellName(name string) error {
	if name == "" || len(name) > MaxCellName {
		return fmt.Errorf("%w: the name of a cell has %d bytes, want 1 to %d", ErrInvalid, len(name), MaxCellName)
	}
	return nil
}
