// Package storage is where the log's bytes live: one small contract that every engine
// keeps, for the log and for the witness.
//
// An engine is trusted to keep what it said is durable, and for nothing else: whoever
// can change its bytes can stop the log, but every change shows, because the tree, the
// checkpoints and the receipts are checked against each other and not against the store.
//
// The engines are storage/pebblestore (the default) and storage/memstore (tests only);
// storage/storagetest holds the conformance suite that each must pass.
package storage

import (
	"context"
	"errors"
	"time"
)

// HashSize is the size of a Merkle tree hash (SHA-256) in bytes.
const HashSize = 32

// MaxLeafSize is the largest leaf in bytes: tlog-tiles frames entries with 16 bits.
const MaxLeafSize = 65535

// MaxBatchBytes limits the leaves and payloads of one batch together, in bytes.
const MaxBatchBytes = 1 << 30

// MaxCellName is the longest name of a cell in bytes.
const MaxCellName = 1024

// Errors that engines return, to be matched with errors.Is. Absence is fs.ErrNotExist.
// ErrConflict, ErrInvalid, ErrReadOnly, fs.ErrNotExist, fs.ErrClosed and the context's own
// error mean that nothing was written. Any other error of Commit, SwapCell or
// ErasePayloads means that the outcome is unknown: the caller must stop writing and open
// the store anew.
var (
	// ErrConflict means that another writer moved the head or the cell; nothing was written.
	ErrConflict = errors.New("storage: head or cell was moved by another writer")
	// ErrInvalid means that the caller broke the contract; nothing was written.
	ErrInvalid = errors.New("storage: invalid argument")
	// ErrReadOnly means that the store was opened for reading only; nothing was written.
	ErrReadOnly = errors.New("storage: opened for reading only")
	// ErrLocked means that another process has the store open.
	ErrLocked = errors.New("storage: in use by another process")
	// ErrCorrupt means that stored bytes contradict each other or cannot be read.
	ErrCorrupt = errors.New("storage: corrupt")
)

// Head is the state of the tree after a commit. The zero value stands for no commit yet
// and has the empty tree's root (see EmptyHead).
type Head struct {
	// Size is the number of entries.
	Size uint64
	// Root is the RFC 6962 Merkle tree hash over the leaves.
	Root [HashSize]byte
	// Time is when the last entry was logged, in UTC, to the nanosecond; the writer
	// never lets it go back. Zero while Size is 0.
	Time time.Time
}

// Entry is one entry of the log.
type Entry struct {
	// Leaf is the public leaf, 1 to MaxLeafSize bytes; the tree hashes it.
	Leaf []byte
	// Payload is the private content behind the leaf; it may be erased later.
	Payload []byte
}

// Node is the hash of a complete subtree of 256^Level leaves, the Index-th of its level:
// one entry of a tile of that level.
type Node struct {
	Level uint8
	Index uint64
	Hash  [HashSize]byte
}

// Batch is what one commit adds.
type Batch struct {
	// Old is the head that the batch extends.
	Old Head
	// Entries follow the entry Old.Size-1. At least one, at most MaxBatchBytes together.
	Entries []Entry
	// Nodes are the subtrees of level 1 and above that the batch completes, each once.
	// Those of one level are in ascending order; the levels may be mixed.
	Nodes []Node
	// New is the head after the batch: New.Size is Old.Size plus len(Entries).
	New Head
}

// Store keeps one log, or one witness. Its methods may be called concurrently; Commit is
// called by one goroutine at a time. Slices that a method receives are not kept and those
// that it returns belong to the caller.
type Store interface {
	// Head returns the head of the last commit, or EmptyHead before the first.
	Head(ctx context.Context) (Head, error)

	// Commit adds a batch: all of it or nothing, durable when it returns. It returns
	// ErrConflict, and has written nothing, when b.Old is not the store's head, and
	// ErrInvalid when Batch.Check refuses it. After an error of unknown outcome every
	// further Commit, SwapCell and ErasePayloads fails. A cancelled ctx may be ignored
	// once writing has begun.
	Commit(ctx context.Context, b *Batch) error

	// Tile returns width hashes (width*32 bytes) of a tile of the Merkle tree: entry i
	// is the hash of the subtree of 256^level leaves with number index*256+i. Width is 1
	// to 256, else ErrInvalid. Hashes beyond the committed tree are fs.ErrNotExist.
	Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error)

	// Leaves calls fn with each leaf from start (inclusive) to end (exclusive), in
	// order; leaf is valid only during the call. An end beyond the committed tree is
	// fs.ErrNotExist and fn is not called; start after end is ErrInvalid. An error of fn
	// ends the reading and is returned as it is.
	Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error

	// Payloads is Leaves for payloads; payload is nil where it was erased.
	Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error

	// ErasePayloads destroys the payloads of entries for ever, durably; the leaves stay.
	// Erasing again is no error. An index beyond the committed tree is fs.ErrNotExist
	// and then nothing is erased.
	ErasePayloads(ctx context.Context, indexes []uint64) error

	// Cell returns the content of a named cell, fs.ErrNotExist when it was never set.
	// Names have 1 to MaxCellName bytes.
	Cell(ctx context.Context, name string) ([]byte, error)

	// SwapCell replaces a cell's content, durably; old nil means that the cell must not
	// exist yet, and an empty slice is a content like any other. It returns ErrConflict
	// when the content is not old.
	SwapCell(ctx context.Context, name string, old, new []byte) error

	// Close releases the store. It waits for calls that are under way; later ones return
	// fs.ErrClosed. Closing again is no error.
	Close() error
}

// LeafTiler is a Store that keeps no tiles of level 0: Tile makes them from the leaves each
// time, so that nothing of them can be damaged but the leaves. Stores that keep them must
// not have the method, which does nothing.
type LeafTiler interface{ MakesLeafTiles() }
