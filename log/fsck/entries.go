package fsck

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// chunk is how many entries one part has: whole tiles.
const chunk = 4 * tileWidth

// entries lets several goroutines read and check parts, each part by itself, and joins
// them in order in one. There are never more parts than have been made at the beginning.
func (c *checker) entries(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	parts := 2*workers + 2
	free, work, order := make(chan *part, parts), make(chan *part, parts), make(chan *part, parts)
	for range parts {
		free <- newPart(c.opts.TreeOnly)
	}
	g.Go(func() error {
		defer close(order)
		defer close(work)
		for start := uint64(0); start < c.head.Size; start += chunk {
			select {
			case p := <-free:
				p.reset(start, min(start+chunk, c.head.Size))
				// There is room for all parts in both.
				order <- p
				work <- p
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			for p := range work {
				p.check(ctx, c.store)
				p.done <- struct{}{}
			}
			return nil
		})
	}
	g.Go(func() error {
		for p := range order {
			select {
			case <-p.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if ctx.Err() != nil { // the part may be half read
				return context.Cause(ctx)
			}
			c.join(ctx, p)
			free <- p
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("checking entries: %w", err)
	}
	return nil
}

// join takes one part into the tree and the chains.
func (c *checker) join(ctx context.Context, p *part) {
	for _, pr := range p.unread {
		c.problem(pr.Where, "%s", pr.What)
	}
	for _, pr := range p.problems {
		c.problem(pr.Where, "%s", pr.What)
	}
	for first := 0; first < p.n; first += tileWidth {
		end := min(first+tileWidth, p.n)
		// A tile goes into the tree as one node, unless somebody wants to see the tree
		// within it or something is missing.
		whole := !c.broken && p.tiles[first/tileWidth].whole && !c.watched(p.start+uint64(first), p.start+uint64(end))
		for i := first; i < end; i++ {
			c.joinEntry(p, i)
			if !whole {
				c.joinLeaf(p, i)
			}
		}
		if whole {
			c.tree.addTile(p.tiles[first/tileWidth].root)
			c.tree.atSize(c)
		}
	}
	if !c.broken {
		for i := range p.tiles[:(p.n+tileWidth-1)/tileWidth] {
			if t := &p.tiles[i]; t.wrong != nil {
				c.problem(t.wrong.Where, "%s", t.wrong.What)
			}
		}
		c.tree.compare(ctx, c, false)
	}
	if c.opts.Progress != nil {
		c.opts.Progress(p.start+uint64(p.n), c.head.Size)
	}
}

// watched says whether the tree is looked at when it has a size between start and end.
func (c *checker) watched(start, end uint64) bool {
	within := func(size uint64) bool { return start < size && size < end }
	return (c.published != nil && within(c.published.Size)) || (c.opts.Signed != nil && within(c.opts.Signed.Size))
}

func (c *checker) joinEntry(p *part, i int) {
	c.report.Entries++
	if c.opts.TreeOnly {
		return
	}
	it := &p.items[i]
	if it.erased {
		c.report.Erased++
	}
	if it.readable {
		c.chain(p.start+uint64(i), it)
	} else {
		c.gaps = true
	}
}

func (c *checker) joinLeaf(p *part, i int) {
	switch {
	case c.broken:
	case p.hasLeaf[i]:
		c.tree.add(p.hashes[i])
		c.tree.atSize(c)
	default:
		c.broken = true
		c.problem("tree", "cannot be followed beyond entry %d, whose leaf is missing", p.start+uint64(i))
	}
}
