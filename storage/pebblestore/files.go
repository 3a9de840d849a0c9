package pebblestore

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// storeFS is the file system as Pebble sees it.
type storeFS struct {
	vfs.FS
	// forgetLogs makes ReuseForWrite start with an empty file.
	forgetLogs atomic.Bool
}

// Create implements vfs.FS. Pebble makes a new manifest, then a marker file whose name
// says which manifest counts, and syncs their directory once. A power loss could keep the
// marker and lose the manifest: so the directory is synced before a marker is made too.
func (f *storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDirectory(f.FS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return f.FS.Create(name, category)
}

// ReuseForWrite implements vfs.FS: Pebble writes over an old log, which spares the file
// system some work. After an erasure the old content must go.
func (f *storeFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !f.forgetLogs.Load() {
		return f.FS.ReuseForWrite(oldname, newname, category)
	}
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, category)
}

// Unwrap implements vfs.FS.
func (f *storeFS) Unwrap() vfs.FS { return f.FS }

// makeDirectory makes a directory and what is missing above it, durably.
func makeDirectory(fsys vfs.FS, dir string) error {
	var parents []string
	for at := dir; ; at = fsys.PathDir(at) {
		if _, err := fsys.Stat(at); err == nil || fsys.PathDir(at) == at {
			break
		}
		parents = append(parents, fsys.PathDir(at))
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range parents {
		if err := syncDirectory(fsys, p); err != nil {
			return err
		}
	}
	return nil
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
