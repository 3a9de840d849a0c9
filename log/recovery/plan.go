package recovery

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
)

// batchSize is how many entries are read and committed at a time: at most 34 MiB.
const batchSize = 1024

// plan is the tree over the store's entries and the source's: the head after each batch
// that is to be committed, and the nodes above the source's leaves.
type plan struct {
	start storage.Head
	ends  []storage.Head
	// nodes[l] are the nodes of level l from storage.Complete(start.Size, l) on.
	nodes [storage.MaxLevel + 1][]prove.Hash
}

// head is the head at the end.
func (p *plan) head() storage.Head {
	if len(p.ends) == 0 {
		return p.start
	}
	return p.ends[len(p.ends)-1]
}

// tree appends leaves to the tree of a head.
type tree struct {
	edge  *compact.Range
	nodes []storage.Node // completed since they were taken last
}

func newTree(ctx context.Context, s storage.Store, head storage.Head) (*tree, error) {
	hashes, err := storage.Frontier(ctx, s, head)
	if err != nil {
		return nil, err
	}
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	edge, err := f.NewRange(0, head.Size, hashes)
	if err != nil {
		return nil, fmt.Errorf("continuing the tree of %v: %w", head, err)
	}
	return &tree{edge: edge}, nil
}

func (t *tree) add(leaf []byte) error {
	return t.edge.Append(rfc6962.DefaultHasher.HashLeaf(leaf), func(id compact.NodeID, hash []byte) {
		if id.Level > 0 && id.Level%8 == 0 {
			t.nodes = append(t.nodes, storage.Node{Level: uint8(id.Level / 8), Index: id.Index, Hash: prove.Hash(hash)})
		}
	})
}

func (t *tree) root() (prove.Hash, error) {
	root, err := t.edge.GetRootHash(nil)
	if err != nil {
		return prove.Hash{}, err
	}
	return prove.Hash(root), nil
}

// makePlan reads the source from the store's head up to a size.
func makePlan(ctx context.Context, s storage.Store, start storage.Head, src *Source, to uint64) (*plan, error) {
	p := &plan{start: start}
	t, err := newTree(ctx, s, start)
	if err != nil {
		return nil, err
	}
	for head := start; head.Size < to; {
		end := min((head.Size/batchSize+1)*batchSize, to) // aligned, so that a second run reads as fast
		b, err := readBatch(ctx, src, start.Size, head, end)
		if err != nil {
			return nil, err
		}
		if head, err = b.extend(t); err != nil {
			return nil, err
		}
		for _, n := range t.nodes {
			p.nodes[n.Level] = append(p.nodes[n.Level], n.Hash)
		}
		t.nodes = t.nodes[:0]
		p.ends = append(p.ends, head)
	}
	return p, nil
}

// batch is a run of the source's entries.
type batch struct {
	old     storage.Head
	entries []storage.Entry
	erased  []uint64
	last    time.Time // when the last entry that can be read was logged
}

// readBatch reads the source's entries from old.Size to end, and checks that each payload
// opens its leaf and is a record; from is where the source's part begins, for messages.
func readBatch(ctx context.Context, src *Source, from uint64, old storage.Head, end uint64) (*batch, error) {
	b := &batch{old: old, last: old.Time}
	next := old.Size
	err := src.Leaves(ctx, old.Size, end, func(i uint64, leaf []byte) error {
		if i != next {
			return fmt.Errorf("entry %d stands where %d should", i, next)
		}
		next++
		b.entries = append(b.entries, storage.Entry{Leaf: bytes.Clone(leaf)})
		return nil
	})
	if err == nil && next != end {
		err = fmt.Errorf("leaves end at %d", next)
	}
	if err != nil {
		return nil, fmt.Errorf("reading leaves %d to %d from the source: %w", old.Size, end, err)
	}
	next = old.Size
	err = src.Payloads(ctx, old.Size, end, func(i uint64, payload []byte) error {
		if i != next {
			return fmt.Errorf("payload %d stands where %d should", i, next)
		}
		next++
		if payload == nil {
			b.erased = append(b.erased, i)
			return nil
		}
		e := &b.entries[i-old.Size]
		if leaf := record.Leaf(payload); !bytes.Equal(leaf[:], e.Leaf) {
			return damaged(from, fmt.Sprintf("entry %d", i), "record does not open its leaf")
		}
		_, rec, err := record.Open(payload)
		if err != nil {
			return damaged(from, fmt.Sprintf("entry %d", i), "%v", err)
		}
		r, err := record.Parse(rec)
		if err != nil {
			return damaged(from, fmt.Sprintf("entry %d", i), "%v", err)
		}
		b.last, e.Payload = r.LoggedAt, bytes.Clone(payload)
		return nil
	})
	if err == nil && next != end {
		err = fmt.Errorf("payloads end at %d", next)
	}
	if err != nil {
		return nil, fmt.Errorf("reading payloads %d to %d from the source: %w", old.Size, end, err)
	}
	return b, nil
}

// extend adds the batch to the tree and returns the head after it.
func (b *batch) extend(t *tree) (storage.Head, error) {
	for i := range b.entries {
		if err := t.add(b.entries[i].Leaf); err != nil {
			return storage.Head{}, err
		}
	}
	root, err := t.root()
	if err != nil {
		return storage.Head{}, err
	}
	return storage.Head{Size: b.old.Size + uint64(len(b.entries)), Root: root, Time: b.last}, nil
}

// joined is the log as it will be: the store's entries and, behind them, the source's. It
// can be read like a store, by fsck and for proofs, and cannot be written.
type joined struct {
	storage.Store
	src  *Source
	plan *plan
}

func (j *joined) Head(context.Context) (storage.Head, error) { return j.plan.head(), nil }

func (j *joined) Cell(ctx context.Context, name string) ([]byte, error) {
	if name != log.CheckpointCell {
		return j.Store.Cell(ctx, name)
	}
	if j.src.Checkpoint == nil {
		return nil, fmt.Errorf("the source's checkpoint: %w", fs.ErrNotExist)
	}
	return j.src.Checkpoint, nil
}

type readFunc = func(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error

// read reads what lies below the store's head with the one function and the rest with the
// other.
func (j *joined) read(ctx context.Context, start, end uint64, store, src readFunc, fn func(uint64, []byte) error) error {
	at := j.plan.start.Size
	if start < at {
		if err := store(ctx, start, min(end, at), fn); err != nil {
			return err
		}
	}
	if end > at {
		return src(ctx, max(start, at), end, fn)
	}
	return nil
}

func (j *joined) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return j.read(ctx, start, end, j.Store.Leaves, j.src.Leaves, fn)
}

func (j *joined) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return j.read(ctx, start, end, j.Store.Payloads, j.src.Payloads, func(i uint64, payload []byte) error {
		if len(payload) == 0 {
			payload = nil // no record is empty: an earlier run was cut off before it erased this one
		}
		return fn(i, payload)
	})
}

func (j *joined) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	if err := storage.CheckTile(j.plan.head().Size, level, index, width); err != nil {
		return nil, err
	}
	stored, first, end := storage.Complete(j.plan.start.Size, level), index*storage.TileWidth, index*storage.TileWidth+uint64(width)
	var out []byte
	if first < stored {
		var err error
		if out, err = j.Store.Tile(ctx, level, index, int(min(end, stored)-first)); err != nil {
			return nil, err
		}
	}
	if end <= stored {
		return out, nil
	}
	first = max(first, stored)
	if level > 0 {
		for _, h := range j.plan.nodes[level][first-stored : end-stored] {
			out = append(out, h[:]...)
		}
		return out, nil
	}
	err := j.src.Leaves(ctx, first, end, func(_ uint64, leaf []byte) error {
		h := prove.HashLeaf(leaf)
		out = append(out, h[:]...)
		return nil
	})
	return out, err
}
