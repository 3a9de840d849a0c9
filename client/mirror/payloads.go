package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/proto/tile"
)

// privateDir holds what only the mirror's keeper may read.
const privateDir = "private"

// maxPayloadFile is the largest file of payloads in bytes.
const maxPayloadFile = tile.Width * (2 + record.MaxPayloadSize)

// payloadPath is the file of a group of 256 payloads, of which it has width. It is laid
// out like a bundle of entries; an erased payload has length 0.
func payloadPath(group uint64, width int) string {
	return filepath.Join(privateDir, "payloads", filepath.FromSlash(strings.TrimPrefix(tile.EntriesPath(group, width), "tile/entries/")))
}

// parsePayloadPath reads what payloadPath wrote, below private/payloads.
func parsePayloadPath(path string) (group uint64, width int, ok bool) {
	ref, err := tile.ParsePath("tile/entries/" + filepath.ToSlash(path))
	return ref.Index, ref.Width, err == nil
}

// checkPrivate refuses payloads that others can read.
func checkPrivate(dir string) error {
	path := filepath.Join(dir, privateDir)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("opening %s: %w: mode is %04o, must be 0700", path, fs.ErrPermission, perm)
	}
	return nil
}

// PayloadCount returns how many payloads the copy has in a row from entry 0, erased ones
// included, at most Size.
func (c *Copy) PayloadCount() (uint64, error) { return c.countPayloads(0) }

// countPayloads is PayloadCount when so many are known to be there.
func (c *Copy) countPayloads(known uint64) (uint64, error) {
	if err := checkPrivate(c.dir); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	n := known / tile.Width * tile.Width
	for n+tile.Width <= c.cp.Size {
		_, err := os.Stat(filepath.Join(c.dir, payloadPath(n/tile.Width, tile.Width)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		n += tile.Width
	}
	width, err := c.widest(n / tile.Width)
	if err != nil {
		return 0, err
	}
	return min(n+uint64(width), c.cp.Size), nil
}

// widest returns how many payloads the widest file of a group has, 0 when there is none.
func (c *Copy) widest(group uint64) (int, error) {
	full := payloadPath(group, tile.Width)
	if _, err := os.Stat(filepath.Join(c.dir, full)); err == nil {
		return tile.Width, nil
	}
	files, err := os.ReadDir(filepath.Join(c.dir, full+".p"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	most := 0
	base := strings.TrimPrefix(full, filepath.Join(privateDir, "payloads")+string(filepath.Separator))
	for _, f := range files {
		if g, width, ok := parsePayloadPath(filepath.Join(base+".p", f.Name())); ok && g == group {
			most = max(most, width)
		}
	}
	return most, nil
}

// Payloads calls fn with the payloads from start up to end, at most PayloadCount, in order:
// salt and record, nil where the payload was erased before it was copied. Each has been
// checked against its leaf, and the leaf against Root. Payloads that are not there are
// fs.ErrNotExist.
func (c *Copy) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	if start > end || end > c.cp.Size {
		return fmt.Errorf("%w: payloads %d to %d of %d entries", tiles.ErrRange, start, end, c.cp.Size)
	}
	if start < end {
		if err := checkPrivate(c.dir); err != nil {
			return err
		}
	}
	for start < end {
		group := start / tile.Width
		stop := min((group+1)*tile.Width, end)
		if err := c.payloadGroup(ctx, start, stop, fn); err != nil {
			return err
		}
		start = stop
	}
	return nil
}

// payloadGroup reads payloads of one file.
func (c *Copy) payloadGroup(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	group := start / tile.Width
	first := group * tile.Width
	width, err := c.widest(group)
	if err != nil {
		return err
	}
	if uint64(width) < end-first {
		return fmt.Errorf("reading payload %d of the copy: %w", first+uint64(width), fs.ErrNotExist)
	}
	path := filepath.Join(c.dir, payloadPath(group, width))
	b, err := readFile(path, maxPayloadFile)
	if err != nil {
		return err
	}
	entries, err := tiles.ParseEntries(b, width)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return c.Leaves(ctx, start, end, func(i uint64, leaf []byte) error {
		p := entries[i-first]
		if len(p) == 0 {
			return fn(i, nil)
		}
		if got := record.Leaf(p); string(got[:]) != string(leaf) {
			return fmt.Errorf("%w: %s: payload %d does not open its leaf", ErrDamaged, path, i)
		}
		return fn(i, p)
	})
}

// copyPayloads copies the payloads that the copy does not have. A group whose last file was
// partial is copied again.
func (m *Mirror) copyPayloads(ctx context.Context, res *Result) error {
	c := m.current.Load()
	if err := m.mkdirSynced(filepath.Join(privateDir, "payloads"), 0o700); err != nil {
		return err
	}
	have, err := c.countPayloads(m.payloads)
	if err != nil {
		return err
	}
	res.Payloads = have
	if have == c.cp.Size {
		return nil
	}
	start := have / tile.Width * tile.Width
	r, err := payloads.Read(ctx, m.opts.Payloads, start, c.cp.Size)
	if err != nil {
		return err
	}
	defer r.Close()
	for start < c.cp.Size {
		end := min(start+tile.Width, c.cp.Size)
		erased, err := m.copyGroup(ctx, c, r, start, end)
		if err != nil {
			return err
		}
		res.Erased += erased
		res.Payloads, m.payloads = end, end
		start = end
		if m.opts.Progress != nil {
			m.opts.Progress("payloads", end, c.cp.Size)
		}
	}
	return nil
}

// copyGroup copies the payloads of one file, each checked against its leaf.
func (m *Mirror) copyGroup(ctx context.Context, c *Copy, r *payloads.Reader, start, end uint64) (erased uint64, err error) {
	var b []byte
	err = c.Leaves(ctx, start, end, func(i uint64, leaf []byte) error {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if p == nil {
			erased++
		} else if got := record.Leaf(p); string(got[:]) != string(leaf) {
			return &tiles.ContradictionError{
				Where: fmt.Sprintf("payload %d", i), Size: c.cp.Size,
				Detail: fmt.Sprintf("it gives the leaf %x, the tree has %x", got, leaf),
			}
		}
		b = tiles.AppendEntry(b, p)
		return nil
	})
	if err != nil {
		return 0, err
	}
	group, width := start/tile.Width, int(end-start)
	path := payloadPath(group, width)
	if err := m.mkdirSynced(filepath.Dir(path), 0o700); err != nil {
		return 0, err
	}
	if err := m.write(path, b, 0o600); err != nil {
		return 0, err
	}
	if err := syncDir(filepath.Dir(filepath.Join(m.dir, path))); err != nil {
		return 0, err
	}
	return erased, m.tidyGroup(group, width)
}

// tidyGroup removes the narrower files of a group.
func (m *Mirror) tidyGroup(group uint64, width int) error {
	partial := filepath.Join(m.dir, payloadPath(group, tile.Width)+".p")
	files, err := os.ReadDir(partial)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := filepath.Join(m.dir, payloadPath(group, width))
	for _, f := range files {
		name := filepath.Join(partial, f.Name())
		if name == keep {
			continue
		}
		if err := m.step("remove " + name); err != nil {
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	if width == tile.Width {
		return os.Remove(partial)
	}
	return nil
}
