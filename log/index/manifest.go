package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The manifest says what the index consists of: the cursor and the runs that hold all rows
// up to it. It is replaced whole, so that rows and cursor change together:
//
//	"keytrail index 3\n", be64 size, 32 bytes root, be64 next number,
//	be32 runs of events, be32 runs of keys, for each be64 number, be64 rows and be64 blocks
//	of its filter, oldest first, be32 CRC-32C of all before
const (
	manifestName   = "manifest"
	manifestNext   = "manifest.next"
	manifestFormat = "keytrail index 3\n"
	manifestHead   = len(manifestFormat) + 8 + 32 + 8 + 4 + 4
	maxRuns        = 1 << 16
	manifestRun    = 8 + 8 + 8
	maxManifest    = manifestHead + 2*maxRuns*manifestRun + 4
)

type manifest struct {
	cursor       Cursor
	next         uint64 // number of the next run
	events, keys []runInfo
}

type runInfo struct{ number, rows, blocks uint64 }

func (m *manifest) runs(k *kind) []runInfo {
	if k == &eventKind {
		return m.events
	}
	return m.keys
}

func (m *manifest) append(b []byte) []byte {
	b = append(b, manifestFormat...)
	b = binary.BigEndian.AppendUint64(b, m.cursor.Size)
	b = append(b, m.cursor.Root[:]...)
	b = binary.BigEndian.AppendUint64(b, m.next)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.events)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.keys)))
	for _, infos := range [][]runInfo{m.events, m.keys} {
		for _, r := range infos {
			b = binary.BigEndian.AppendUint64(b, r.number)
			b = binary.BigEndian.AppendUint64(b, r.rows)
			b = binary.BigEndian.AppendUint64(b, r.blocks)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseManifest reads what append wrote, and nothing else.
func parseManifest(b []byte) (*manifest, error) {
	if len(b) < len(manifestFormat) || string(b[:len(manifestFormat)]) != manifestFormat {
		return nil, fmt.Errorf("index's manifest does not begin with %q", manifestFormat)
	}
	if len(b) < manifestHead+4 || len(b) > maxManifest {
		return nil, fmt.Errorf("index's manifest has %d bytes", len(b))
	}
	body := b[:len(b)-4]
	if binary.BigEndian.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) {
		return nil, errors.New("index's manifest does not match its checksum")
	}
	m := &manifest{}
	rest := body[len(manifestFormat):]
	m.cursor.Size = binary.BigEndian.Uint64(rest)
	copy(m.cursor.Root[:], rest[8:])
	m.next = binary.BigEndian.Uint64(rest[40:])
	events, keys := binary.BigEndian.Uint32(rest[48:]), binary.BigEndian.Uint32(rest[52:])
	rest = rest[56:]
	if events > maxRuns || keys > maxRuns || len(rest) != int(events+keys)*manifestRun {
		return nil, fmt.Errorf("index's manifest names %d and %d runs in %d bytes", events, keys, len(b))
	}
	for i := range events + keys {
		b := rest[i*manifestRun:]
		r := runInfo{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
		if r.number >= m.next || r.rows == 0 || r.rows > maxIndex || r.blocks == 0 || r.blocks > maxIndex {
			return nil, fmt.Errorf("index's manifest names a run %d of %d rows and %d blocks", r.number, r.rows, r.blocks)
		}
		if i < events {
			m.events = append(m.events, r)
		} else {
			m.keys = append(m.keys, r)
		}
	}
	return m, nil
}

// readManifest reads the manifest of dir.
func readManifest(fs vfs.FS, dir string) (*manifest, error) {
	f, err := fs.Open(fs.PathJoin(dir, manifestName))
	if err != nil {
		return nil, fmt.Errorf("reading the index's manifest: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(maxManifest)+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the index's manifest: %w", err)
	}
	return parseManifest(b)
}

// write replaces the manifest of dir, durably. Runs that it names are durable but for their
// names in the directory, which the same sync makes so before the manifest is there.
func (m *manifest) write(fs vfs.FS, dir string) error {
	tmp, name := fs.PathJoin(dir, manifestNext), fs.PathJoin(dir, manifestName)
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write(m.append(nil))
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = syncDir(fs, dir) // names of runs before the manifest that needs them
	}
	if err == nil {
		err = fs.Rename(tmp, name)
	}
	if err == nil {
		err = syncDir(fs, dir)
	}
	if err != nil {
		return fmt.Errorf("writing the index's manifest: %w", err)
	}
	return nil
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
