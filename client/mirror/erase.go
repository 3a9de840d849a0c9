package mirror

import (
	"fmt"
	"path/filepath"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/tile"
)

// Erase destroys the copy's payloads of entries, ascending, which the log has erased; the
// leaves stay. It returns how many there were still. They are gone from the mirror's files
// when it returns, durably; the disk's freed blocks, snapshots and copies of the directory are
// not reached. Entries whose payloads are not copied yet are passed over.
func (m *Mirror) Erase(indexes []uint64) (uint64, error) {
	var erased uint64
	for len(indexes) > 0 {
		group := indexes[0] / tile.Width
		n := 1
		for n < len(indexes) && indexes[n]/tile.Width == group {
			n++
		}
		gone, err := m.eraseGroup(group, indexes[:n])
		if err != nil {
			return erased, fmt.Errorf("erasing payloads %d to %d of the copy: %w", indexes[0], indexes[n-1], err)
		}
		erased += gone
		indexes = indexes[n:]
	}
	return erased, nil
}

// eraseGroup erases payloads of one file.
func (m *Mirror) eraseGroup(group uint64, indexes []uint64) (uint64, error) {
	width, err := (&Copy{dir: m.dir}).widest(group)
	if err != nil || width == 0 {
		return 0, err
	}
	path := payloadPath(group, width)
	b, err := readFile(filepath.Join(m.dir, path), maxPayloadFile)
	if err != nil {
		return 0, err
	}
	entries, err := tiles.ParseEntries(b, width)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Join(m.dir, path), err)
	}
	var gone uint64
	for _, i := range indexes {
		if at := i % tile.Width; at < uint64(width) && len(entries[at]) > 0 {
			entries[at] = nil
			gone++
		}
	}
	if gone > 0 {
		var out []byte
		for _, e := range entries {
			out = tiles.AppendEntry(out, e)
		}
		if err := m.write(path, out, 0o600); err != nil {
			return 0, err
		}
	}
	// What a writing that was cut off left beside the file holds them too.
	if err := m.tidyGroup(group, width); err != nil {
		return gone, err
	}
	return gone, syncDir(filepath.Dir(filepath.Join(m.dir, path)))
}
