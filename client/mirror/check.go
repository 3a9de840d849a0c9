package mirror

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/proto/tile"
)

// maxProblems bounds what Check lists of payloads; the rest are counted.
const maxProblems = 100

// CheckReport is what Copy.Check found.
type CheckReport struct {
	// Entries, Tiles and Payloads are how many were read, Erased is how many of the payloads
	// are erased.
	Entries, Tiles, Payloads, Erased uint64
	// Problems are the first places that are not as they must be, named by entry, tile or
	// file, and Unlisted is how many more there are.
	Problems []tiles.Problem
	Unlisted uint64
}

// Check reads all of the copy: every entry, every tile, and the first so many payloads. It
// computes the tree from the leaves, and compares it with every tile and with the
// checkpoint's root, and each payload with its leaf. An error means that it could not go on.
func (c *Copy) Check(ctx context.Context, payloads uint64, progress func(done, total uint64)) (*CheckReport, error) {
	r := &CheckReport{}
	if payloads > c.cp.Size {
		return r, fmt.Errorf("%w: %d payloads of %d entries", tiles.ErrRange, payloads, c.cp.Size)
	}
	if payloads > 0 {
		if err := checkPrivate(c.dir); err != nil {
			return r, err
		}
	}
	g := &groupCheck{c: c, report: r, payloads: payloads}
	found, err := c.files.Check(ctx, c.cp.Size, c.cp.Root, tiles.CheckOptions{Leaf: g.leaf, Progress: progress})
	r.Entries, r.Tiles = found.Entries, found.Tiles
	for _, p := range append(found.Problems, found.Unread...) {
		r.add(p.Where, "%s", p.What)
	}
	r.Unlisted += found.Unlisted + found.UnreadUnlisted
	if err != nil {
		// A file that is missing or cannot be taken apart ends the reading of the tree.
		if err = damaged(err); len(r.Problems) == 0 {
			return r, err
		}
		r.add("copy", "the check ended after %d entries: %s", r.Entries, err.Error())
	}
	return r, nil
}

func (r *CheckReport) add(where, format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.Unlisted++
		return
	}
	r.Problems = append(r.Problems, tiles.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// groupCheck holds payloads against leaves, file after file.
type groupCheck struct {
	c        *Copy
	report   *CheckReport
	payloads uint64

	path    string
	entries [][]byte // of the file at path; nil when it cannot be read
}

func (g *groupCheck) leaf(index uint64, leaf []byte) error {
	if index >= g.payloads {
		return nil
	}
	if index%tile.Width == 0 {
		g.open(index / tile.Width)
	}
	if g.entries == nil {
		return nil
	}
	at := index % tile.Width
	if at >= uint64(len(g.entries)) {
		if at == uint64(len(g.entries)) {
			g.report.add(g.path, "ends before payload %d", index)
		}
		return nil
	}
	g.report.Payloads++
	p := g.entries[at]
	if len(p) == 0 {
		g.report.Erased++
		return nil
	}
	if got := record.Leaf(p); leaf != nil && string(got[:]) != string(leaf) {
		g.report.add(g.path, "payload %d does not open its leaf", index)
	}
	return nil
}

// open reads the file of a group.
func (g *groupCheck) open(group uint64) {
	g.path, g.entries = payloadPath(group, tile.Width), nil
	width, err := g.c.widest(group)
	if err == nil && width == 0 {
		g.report.add(g.path, "is missing")
		return
	}
	if err == nil {
		g.path = payloadPath(group, width)
		var b []byte
		if b, err = readFile(filepath.Join(g.c.dir, g.path), maxPayloadFile); err == nil {
			g.entries, err = tiles.ParseEntries(b, width)
		}
	}
	if err != nil {
		g.entries = nil
		g.report.add(g.path, "%s", err.Error())
	}
}
