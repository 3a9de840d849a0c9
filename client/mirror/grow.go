package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/tile"
)

// grow copies what is new in a verified checkpoint, of which tree is, and publishes it. It
// returns how many entries are new.
func (m *Mirror) grow(ctx context.Context, next *verify.Signed, tree *tiles.Tree) (uint64, error) {
	c := m.current.Load()
	if c != nil && c.cp == next.Checkpoint {
		return 0, m.renew(ctx, c, next)
	}
	// From here on no other history is followed, even if the copying is cut off.
	if err := m.writeSynced(pendingFile, next.Note); err != nil {
		return 0, err
	}
	b, err := m.resume(ctx, next)
	if err != nil {
		return 0, err
	}
	defer func() { _ = b.files.g.Wait() }() // after an error too nothing is written any more
	start := m.size()
	if err := b.copy(ctx, tree); err != nil {
		return 0, err
	}
	if got := b.Root(); got != next.Root {
		return 0, b.findDamage(ctx, tree)
	}
	if err := b.partials(); err != nil {
		return 0, err
	}
	if err := b.files.flush(); err != nil {
		return 0, err
	}
	if err := m.publish(ctx, next); err != nil {
		return 0, err
	}
	return next.Size - start, m.tidy(start, next.Size)
}

// renew takes over a newer checkpoint of the same tree: its signatures are fresher.
func (m *Mirror) renew(ctx context.Context, c *Copy, next *verify.Signed) error {
	if bytes.Equal(c.note, next.Note) {
		return nil
	}
	have, err := m.signed(c.note)
	if err != nil {
		return err
	}
	if newestTime(next).Before(newestTime(have)) {
		return nil
	}
	return m.publish(ctx, next)
}

// publish puts the checkpoint in its place, when all that it speaks of is on the disk.
func (m *Mirror) publish(ctx context.Context, next *verify.Signed) error {
	if err := m.writeSynced("checkpoint", next.Note); err != nil {
		return err
	}
	c, err := Open(ctx, m.dir)
	if err != nil {
		return err
	}
	m.current.Store(c)
	if err := m.step("remove " + pendingFile); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(m.dir, pendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeSynced writes a file of the mirror's own directory durably.
func (m *Mirror) writeSynced(name string, b []byte) error {
	if err := m.write(name, b, 0o644); err != nil {
		return err
	}
	return syncDir(m.dir)
}

// building is a copy while it grows.
type building struct {
	tiles.Builder
	m     *Mirror
	files *writer
	// bundle is the one that is not full yet.
	bundle []byte
	end    uint64
	// found is how many entries stand in whole bundles on the disk beyond the copy's
	// checkpoint: what was written before the copying was cut off. They were verified
	// then, and the root tells if they still are what they were.
	found uint64
}

// resume begins where the copy ends.
func (m *Mirror) resume(ctx context.Context, next *verify.Signed) (*building, error) {
	b := &building{m: m, files: m.newWriter(), end: next.Size}
	b.Full = func(level uint8, index uint64, hashes []byte) error {
		return b.files.put(tile.Path(level, index, tile.Width), hashes)
	}
	if c := m.current.Load(); c != nil {
		err := b.Resume(c.cp.Size, c.cp.Root, func(level uint8, index uint64, width int) ([]byte, error) {
			return c.files.Tile(ctx, level, index, width)
		})
		if err != nil {
			return nil, damaged(err)
		}
		if width := int(c.cp.Size % tile.Width); width > 0 {
			entries, err := c.files.Entries(ctx, c.cp.Size/tile.Width, width)
			if err != nil {
				return nil, damaged(err)
			}
			for _, e := range entries {
				b.bundle = tiles.AppendEntry(b.bundle, e)
			}
		}
	}
	b.found = b.Size() / tile.Width * tile.Width
	for b.found+tile.Width <= b.end {
		_, err := os.Stat(filepath.Join(m.dir, tile.EntriesPath(b.found/tile.Width, tile.Width)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		b.found += tile.Width
	}
	return b, nil
}

// copy takes all leaves: those on the disk already, then those of the log.
func (b *building) copy(ctx context.Context, tree *tiles.Tree) error {
	if b.found > b.Size() {
		disk, err := tiles.Open(b.m.dir, tiles.Options{})
		if err != nil {
			return err
		}
		if err := disk.Leaves(ctx, b.Size(), b.found, b.found, b.add); err != nil {
			return damaged(err)
		}
	}
	return tree.Leaves(ctx, b.Size(), b.end, b.add)
}

func (b *building) add(index uint64, leaf []byte) error {
	b.bundle = tiles.AppendEntry(b.bundle, leaf)
	if (index+1)%tile.Width == 0 {
		if err := b.files.put(tile.EntriesPath(index/tile.Width, tile.Width), b.bundle); err != nil {
			return err
		}
		b.bundle = nil
		if b.m.opts.Progress != nil {
			b.m.opts.Progress("entries", index+1, b.end)
		}
	}
	return b.Add(tiles.HashLeaf(leaf))
}

// partials writes the tiles and the bundle that still grow, after all full ones.
func (b *building) partials() error {
	if err := b.files.g.Wait(); err != nil {
		return err
	}
	for l := range uint8(8) {
		row := b.Partial(l)
		if len(row) == 0 {
			continue
		}
		index := b.end >> (8 * l) / tile.Width
		if err := b.files.put(tile.Path(l, index, len(row)), tiles.Bytes(row)); err != nil {
			return err
		}
	}
	if width := int(b.end % tile.Width); width > 0 {
		return b.files.put(tile.EntriesPath(b.end/tile.Width, width), b.bundle)
	}
	return nil
}

// findDamage finds what on the disk does not fit the log's tree: what came from the log
// was verified as it came.
func (b *building) findDamage(ctx context.Context, tree *tiles.Tree) error {
	disk, err := tiles.Open(b.m.dir, tiles.Options{})
	if err != nil {
		return err
	}
	err = disk.Leaves(ctx, 0, b.found, b.found, func(i uint64, leaf []byte) error {
		want, err := tree.LeafHash(ctx, i)
		if err != nil {
			return err
		}
		if tiles.HashLeaf(leaf) != want {
			return fmt.Errorf("%w: %s has another entry %d than the log; remove the file", ErrDamaged, tile.EntriesPath(i/tile.Width, tile.Width), i)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: its entries fit, its tiles do not", ErrDamaged)
}

// tidy removes the partial tiles of those that have become full between two sizes.
func (m *Mirror) tidy(before, after uint64) error {
	for l := range uint8(8) {
		index := before >> (8 * l) / tile.Width
		if tile.WidthAt(l, index, before) == 0 || tile.WidthAt(l, index, after) < tile.Width {
			continue
		}
		paths := []string{tile.Path(l, index, tile.Width)}
		if l == 0 {
			paths = append(paths, tile.EntriesPath(index, tile.Width))
		}
		for _, p := range paths {
			if err := m.step("remove " + p + ".p"); err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(m.dir, p+".p")); err != nil {
				return err
			}
		}
	}
	return nil
}

// damaged says that an error of reading the copy's own files is no fault of the log.
func damaged(err error) error {
	if _, ok := errors.AsType[*tiles.ContradictionError](err); ok || errors.Is(err, tiles.ErrMalformed) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrDamaged, err.Error())
	}
	return err
}
