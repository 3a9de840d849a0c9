package log

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/tile"
	"github.com/keytrail/keytrail/storage"
)

// Published returns the latest published checkpoint; its Note is nil before the first.
func (l *Log) Published() Published {
	pub, _ := l.pub.snapshot()
	return pub
}

// WaitPublished waits until more than after entries are published and returns how many
// are. It returns ctx's cause when that ends first, ErrStopped when the log has failed.
// While somebody waits here the log publishes sooner than it would otherwise.
func (l *Log) WaitPublished(ctx context.Context, after uint64) (uint64, error) {
	if size := l.Published().Size; size > after {
		return size, nil
	}
	defer l.pub.hurry()()
	return l.FollowPublished(ctx, after)
}

// FollowPublished is WaitPublished for who keeps up with the log and is in no hurry.
func (l *Log) FollowPublished(ctx context.Context, after uint64) (uint64, error) {
	for {
		pub, changed := l.pub.snapshot()
		if pub.Size > after {
			return pub.Size, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return pub.Size, context.Cause(ctx)
		case <-l.failed:
			return pub.Size, fmt.Errorf("%w: %w", ErrStopped, l.failure)
		}
	}
}

// published returns size, or the latest published size for 0; a larger one is ErrUnpublished.
func (l *Log) published(size uint64) (uint64, Published, error) {
	pub := l.Published()
	if size == 0 {
		size = pub.Size
	}
	if size > pub.Size {
		return 0, pub, fmt.Errorf("%w: size %d, published are %d", ErrUnpublished, size, pub.Size)
	}
	return size, pub, nil
}

// Inclusion proves that the entry at index is in the published tree of size; 0 stands for
// the latest. It also returns the entry's leaf hash, the size, and the latest checkpoint.
func (l *Log) Inclusion(ctx context.Context, index, size uint64) ([]prove.Hash, prove.Hash, uint64, Published, error) {
	size, pub, err := l.published(size)
	if err != nil {
		return nil, prove.Hash{}, 0, pub, err
	}
	if index >= size {
		return nil, prove.Hash{}, 0, pub, fmt.Errorf("%w: index %d, size is %d", ErrUnpublished, index, size)
	}
	leaf, hashes, err := l.prover.Inclusion(ctx, index, size)
	return hashes, leaf, size, pub, err
}

// Consistency proves that the published tree of size to, 0 for the latest, extends that
// of size from. It also returns the size and the latest checkpoint.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([]prove.Hash, uint64, Published, error) {
	to, pub, err := l.published(to)
	if err != nil {
		return nil, 0, pub, err
	}
	if from > to {
		return nil, 0, pub, fmt.Errorf("%w: size %d, published are %d", ErrUnpublished, from, to)
	}
	hashes, err := l.prover.Consistency(ctx, from, to)
	return hashes, to, pub, err
}

// RootAt returns the root of the tree at a published size; a larger one is fs.ErrNotExist,
// as package view expects of its source.
func (l *Log) RootAt(ctx context.Context, size uint64) ([32]byte, error) {
	// A view that was made under an earlier policy has read what was published then.
	if published := max(l.Published().Size, l.pub.past); size > published {
		return prove.Hash{}, fmt.Errorf("reading the root at size %d of %d published: %w", size, published, fs.ErrNotExist)
	}
	return l.prover.Root(ctx, size)
}

// Payloads reads published payloads as storage.Store.Payloads does.
func (l *Log) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	if pub := l.Published(); end > pub.Size {
		return fmt.Errorf("%w: index %d, published are %d", ErrUnpublished, end-1, pub.Size)
	}
	return l.store.Payloads(ctx, start, end, fn)
}

// Tile reads a tile of the published tree as storage.Store.Tile does.
func (l *Log) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	if pub := l.Published(); tile.WidthAt(level, index, pub.Size) < width {
		return nil, fmt.Errorf("%w: tile %d/%d of width %d, published are %d entries", ErrUnpublished, level, index, width, pub.Size)
	}
	return l.store.Tile(ctx, level, index, width)
}

// Leaves reads published leaves as storage.Store.Leaves does.
func (l *Log) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	if pub := l.Published(); end > pub.Size {
		return fmt.Errorf("%w: index %d, published are %d", ErrUnpublished, end-1, pub.Size)
	}
	return l.store.Leaves(ctx, start, end, fn)
}

// Receipt returns the tlog-proof of a published entry, with salt and record as extra data,
// under the latest checkpoint. It returns ErrErased when the payload was erased.
func (l *Log) Receipt(ctx context.Context, index uint64) ([]byte, error) {
	receipts, err := l.Receipts(ctx, []uint64{index})
	if err != nil {
		return nil, err
	}
	if receipts[0] == nil {
		return nil, fmt.Errorf("%w: entry %d", ErrErased, index)
	}
	return receipts[0], nil
}

// Receipts returns what Receipt does for each of the indexes, all under one checkpoint; nil
// where the payload was erased. What entries that follow each other share is read once.
func (l *Log) Receipts(ctx context.Context, indexes []uint64) ([][]byte, error) {
	pub := l.Published()
	for _, i := range indexes {
		if i >= pub.Size {
			return nil, fmt.Errorf("%w: index %d, size is %d", ErrUnpublished, i, pub.Size)
		}
	}
	payloads, err := l.payloads(ctx, indexes)
	if err != nil {
		return nil, err
	}
	receipts := make([][]byte, len(indexes))
	err = l.prover.Inclusions(ctx, indexes, pub.Size, func(i int, _ prove.Hash, hashes []prove.Hash) error {
		if payloads[i] != nil {
			r := receipt.Receipt{Index: indexes[i], Hashes: hashes, Extra: payloads[i], Checkpoint: pub.Note}
			receipts[i] = r.Append(make([]byte, 0, r.Size()))
		}
		return nil
	})
	return receipts, err
}

// payloads reads the payloads of entries, those that follow each other in one go; nil
// where one was erased.
func (l *Log) payloads(ctx context.Context, indexes []uint64) ([][]byte, error) {
	out := make([][]byte, 0, len(indexes))
	keep := func(_ uint64, payload []byte) error {
		if payload != nil {
			payload = append([]byte{}, payload...)
		}
		out = append(out, payload)
		return nil
	}
	for len(out) < len(indexes) {
		first := len(out)
		end := first + 1
		for end < len(indexes) && indexes[end] == indexes[end-1]+1 {
			end++
		}
		if err := l.store.Payloads(ctx, indexes[first], indexes[end-1]+1, keep); err != nil {
			return nil, err
		}
		if len(out) != end {
			return nil, fmt.Errorf("reading payloads from %d: %w: there are %d instead of %d", indexes[first], storage.ErrCorrupt, len(out)-first, end-first)
		}
	}
	return out, nil
}
