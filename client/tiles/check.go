package tiles

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytrail/keytrail/proto/tile"
)

// maxProblems bounds a report; the rest are counted.
const maxProblems = 100

// CheckOptions of Check.
type CheckOptions struct {
	// Leaf, when set, is called with each leaf in order, nil where the served one is not
	// the tree's. The slice is good during the call. An error ends the check.
	Leaf func(index uint64, leaf []byte) error
	// Progress, when set, is called now and then with how many entries are done.
	Progress func(done, total uint64)
}

// Problem is one place of a log.
type Problem struct {
	// Where names it: "entry 17", "tile 1/0", "checkpoint".
	Where string
	// What says what is wrong there.
	What string
}

// Report is what Check found.
type Report struct {
	// Entries and Tiles are how many were checked.
	Entries, Tiles uint64
	// Problems are the first places where what is served contradicts the leaves or the
	// checkpoint, and Unlisted is how many more there are.
	Problems []Problem
	Unlisted uint64
	// Unread are the first tiles that could not be read, and UnreadUnlisted is how many
	// more there are.
	Unread         []Problem
	UnreadUnlisted uint64
}

func (r *Report) problem(where, format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.Unlisted++
		return
	}
	r.Problems = append(r.Problems, Problem{where, fmt.Sprintf(format, args...)})
}

func (r *Report) unread(where string, err error) {
	if len(r.Unread) >= maxProblems {
		r.UnreadUnlisted++
		return
	}
	r.Unread = append(r.Unread, Problem{where, err.Error()})
}

// Check reads all of the log at a verified checkpoint: every entry, every full tile, and
// the partial tiles at its right edge. It computes the tree from the leaves and compares
// every hash that is served, and the root. Memory is bounded.
//
// An error means that it could not go on, and the report says what was found before.
func (l *Log) Check(ctx context.Context, size uint64, root Hash, o CheckOptions) (*Report, error) {
	c := &check{log: l, size: size, opts: o, report: new(Report)}
	// With a right edge that gives the root it can be told for each place whether the
	// entry or the tile is wrong. Without it, comparing shows what is wrong with the edge.
	var err error
	c.tree, err = l.Tree(ctx, size, root)
	if _, lies := errors.AsType[*ContradictionError](err); err != nil && !lies {
		return c.report, err
	}
	c.built.Full = func(level uint8, index uint64, hashes []byte) error {
		if level == 0 {
			return nil // compared as the bundles come
		}
		return c.compareUpper(ctx, level, index, hashes)
	}
	if size > 0 {
		if err := inOrder(ctx, 0, (size-1)/tile.Width+1, c.read, c.take); err != nil {
			return c.report, fmt.Errorf("checking the tree of %d entries: %w", size, err)
		}
	}
	for level := uint8(1); level < levels; level++ {
		if row := c.built.Partial(level); len(row) > 0 {
			if err := c.compareUpper(ctx, level, size>>(8*level)/tile.Width, Bytes(row)); err != nil {
				return c.report, err
			}
		}
	}
	if got := c.built.Root(); got != root {
		c.report.problem("checkpoint", "has the root %x, the leaves give %x", root, got)
	}
	return c.report, nil
}

type check struct {
	log    *Log
	size   uint64
	tree   *Tree // nil when the right edge does not give the root
	opts   CheckOptions
	report *Report
	built  Builder
}

// part is a bundle with the tile over it.
type part struct {
	leaves   [][]byte
	hashes   []Hash // of leaves
	tile     []Hash // as served
	tileErr  error
	verified []Hash // what the tree has; nil when that is not known
}

// read is called for several bundles at a time.
func (c *check) read(ctx context.Context, index uint64) (*part, error) {
	width := tile.WidthAt(0, index, c.size)
	p := new(part)
	var err error
	if p.leaves, err = c.log.Entries(ctx, index, width); err != nil {
		return nil, err
	}
	p.hashes = make([]Hash, width)
	for i, leaf := range p.leaves {
		p.hashes[i] = HashLeaf(leaf)
	}
	b, err := c.log.Tile(ctx, 0, index, width)
	if err == nil {
		p.tile, err = parseHashes(b, width)
	}
	if p.tileErr = err; err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if c.tree != nil && (p.tile == nil || !sameHashes(p.tile, p.hashes)) {
		p.verified = c.verify(ctx, index, p)
	}
	return p, nil
}

// verify finds the hashes of a bundle that the signed root stands for: those of the leaves
// or those of the tile, when either gives what the tree has over them.
func (c *check) verify(ctx context.Context, index uint64, p *part) []Hash {
	if len(p.hashes) < tile.Width {
		return c.tree.edge[0]
	}
	over, err := c.tree.row(ctx, tileID{1, index / tile.Width})
	if err != nil {
		return nil // that tile is compared too
	}
	want := over[index%tile.Width]
	switch {
	case subtree(p.hashes) == want:
		return p.hashes
	case p.tile != nil && subtree(p.tile) == want:
		return p.tile
	}
	return nil
}

func sameHashes(a, b []Hash) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// take is called in order.
func (c *check) take(index uint64, p *part) error {
	c.compare(index, p)
	for i, leaf := range p.leaves {
		h := p.hashes[i]
		if p.verified != nil && p.verified[i] != h {
			// One wrong entry is one problem: what stands above it goes by the tree.
			h, leaf = p.verified[i], nil
		}
		if c.opts.Leaf != nil {
			if err := c.opts.Leaf(index*tile.Width+uint64(i), leaf); err != nil {
				return err
			}
		}
		if err := c.built.Add(h); err != nil {
			return err
		}
	}
	c.report.Entries = c.built.Size()
	if c.opts.Progress != nil {
		c.opts.Progress(c.built.Size(), c.size)
	}
	return nil
}

// compare holds a bundle and the tile over it against each other, and against the tree.
func (c *check) compare(index uint64, p *part) {
	where := fmt.Sprintf("tile 0/%d", index)
	if p.tileErr != nil {
		c.report.unread(where, p.tileErr)
	} else {
		c.report.Tiles++
	}
	if p.verified != nil {
		for i, want := range p.verified {
			if p.hashes[i] != want {
				c.report.problem(fmt.Sprintf("entry %d", index*tile.Width+uint64(i)), "hashes to %x, the tree has %x", p.hashes[i], want)
			}
		}
	}
	want, from := p.verified, "the tree has"
	if want == nil {
		want, from = p.hashes, "the leaves give"
	}
	for i := range p.tile {
		if p.tile[i] != want[i] {
			c.report.problem(where, "hash %d is %x, %s %x", i, p.tile[i], from, want[i])
			return
		}
	}
}

// compareUpper holds a served tile above level 0 against the computed one. It returns the
// cause when ctx has ended.
func (c *check) compareUpper(ctx context.Context, level uint8, index uint64, want []byte) error {
	where := fmt.Sprintf("tile %d/%d", level, index)
	width := len(want) / len(Hash{})
	got, err := c.log.Tile(ctx, level, index, width)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		c.report.unread(where, err)
		return nil
	}
	c.report.Tiles++
	for i := range width {
		g, w := Hash(got[i*len(Hash{}):]), Hash(want[i*len(Hash{}):])
		if g != w {
			c.report.problem(where, "hash %d is %x, the leaves give %x", i, g, w)
			return nil
		}
	}
	return nil
}
