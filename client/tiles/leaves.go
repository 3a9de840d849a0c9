package tiles

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/proto/tile"
)

// parallel is how many bundles are read at a time. It bounds the memory: a bundle has at
// most 16 MiB, one of keytrail's leaves 9 KB.
const parallel = 8

// Leaves calls fn with the leaves from start up to end of the log's tree of size entries,
// in order. Size is that of a published checkpoint. Nothing is verified: it is for callers
// who compute the tree from the leaves. A leaf is good during the call.
func (l *Log) Leaves(ctx context.Context, start, end, size uint64, fn func(index uint64, leaf []byte) error) error {
	if start > end || end > size {
		return fmt.Errorf("%w: leaves %d to %d in a tree of %d", ErrRange, start, end, size)
	}
	return bundles(ctx, start, end, fn, func(ctx context.Context, index uint64) ([][]byte, error) {
		return l.Entries(ctx, index, tile.WidthAt(0, index, size))
	})
}

// bundles reads the bundles that hold the leaves from start up to end, several at a time,
// and calls fn with the leaves in order.
func bundles(ctx context.Context, start, end uint64, fn func(uint64, []byte) error, read func(context.Context, uint64) ([][]byte, error)) error {
	if start == end {
		return nil
	}
	return inOrder(ctx, start/tile.Width, (end-1)/tile.Width+1, read, func(index uint64, leaves [][]byte) error {
		for i, leaf := range leaves {
			at := index*tile.Width + uint64(i)
			if at < start || at >= end {
				continue
			}
			if err := fn(at, leaf); err != nil {
				return err
			}
		}
		return nil
	})
}

// inOrder calls read for each number from start up to end, several at a time, and take
// with what it returned, in order and one at a time. The first error ends it.
func inOrder[T any](ctx context.Context, start, end uint64, read func(context.Context, uint64) (T, error), take func(uint64, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan chan T, parallel-1) // and one that take waits for
	g.Go(func() error {
		defer close(queue)
		for i := start; i < end; i++ {
			done := make(chan T, 1)
			select {
			case queue <- done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			g.Go(func() error {
				v, err := read(ctx, i)
				if err == nil {
					done <- v
				}
				return err
			})
		}
		return nil
	})
	g.Go(func() error {
		i := start
		for done := range queue {
			select {
			case v := <-done:
				if err := take(i, v); err != nil {
					return err
				}
				i++
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	return g.Wait()
}
