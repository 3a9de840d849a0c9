package pebblestore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// storeFS is the file system as Pebble sees it.
type storeFS struct {
	vfs.FS
	// failed is told of every sync that fails, and of every failed write to a log or
	// manifest. Pebble tries some again and panics after others, with its locks in
	// disorder; neither is right: a system may forget what it could not write and
	// report success the next time.
	failed func(error)
	// forgetLogs makes ReuseForWrite start with an empty file while it is not 0.
	forgetLogs atomic.Int32
	// tables paces what Pebble tries again.
	tables pace
}

// pace holds up failures that come one after the other: Pebble writes a table that could
// not be written at once again, for ever, so that a full disk would cost a processor and
// fill the program's log.
type pace struct {
	mu   sync.Mutex
	wait time.Duration
	last time.Time
	// err is the last failure.
	err error
}

// Limits of a pace, and how long after a failure the next one is the first again.
const (
	minPace   = 5 * time.Millisecond
	maxPace   = time.Second
	paceReset = 10 * time.Second
)

// cause returns the last failure, nil if there was none.
func (p *pace) cause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// failed waits, each time twice as long.
func (p *pace) failed(err error) {
	p.mu.Lock()
	p.err = err
	if time.Since(p.last) > paceReset {
		p.wait = minPace
	}
	wait := p.wait
	p.wait = min(2*p.wait, maxPace)
	p.last = time.Now().Add(wait)
	p.mu.Unlock()
	time.Sleep(wait)
}

// Create implements vfs.FS. Pebble makes a new manifest, then a marker file whose name
// says which manifest counts, and syncs their directory once. A power loss could keep the
// marker and lose the manifest: so the directory is synced before a marker is made too.
func (f *storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDirectory(f, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return f.watch(name)(f.FS.Create(name, category))
}

// critical says whether Pebble cannot go on after a failed write to a file: logs,
// manifests and markers. Tables are written again.
func (f *storeFS) critical(name string) bool {
	base := f.PathBase(name)
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// ReuseForWrite implements vfs.FS: Pebble writes over an old log, which spares the file
// system some work. After an erasure the old content must go.
func (f *storeFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if f.forgetLogs.Load() == 0 {
		return f.watch(newname)(f.FS.ReuseForWrite(oldname, newname, category))
	}
	if err := f.Remove(oldname); err != nil {
		return f.watch(newname)(nil, err)
	}
	return f.Create(newname, category)
}

// OpenReadWrite implements vfs.FS.
func (f *storeFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.watch(name)(f.FS.OpenReadWrite(name, category, opts...))
}

// OpenDir implements vfs.FS.
func (f *storeFS) OpenDir(name string) (vfs.File, error) {
	return f.watch(name)(f.FS.OpenDir(name))
}

// GetDiskUsage implements vfs.FS. Pebble asks it for one purpose: a merge may take in
// neighbouring tables as far as the free space allows. Tables whose keys only grow have
// nothing to be merged with, and are moved to their level as they are if none is taken in.
func (f *storeFS) GetDiskUsage(string) (vfs.DiskUsage, error) { return vfs.DiskUsage{}, nil }

// Rename implements vfs.FS.
func (f *storeFS) Rename(oldname, newname string) error {
	err := f.FS.Rename(oldname, newname)
	if err != nil {
		f.tables.failed(err)
	}
	return err
}

// Unwrap implements vfs.FS.
func (f *storeFS) Unwrap() vfs.FS { return f.FS }

// watch returns a function that takes a file as it was opened for writing, and lets its
// failures be known.
func (f *storeFS) watch(name string) func(vfs.File, error) (vfs.File, error) {
	critical := f.critical(name)
	return func(file vfs.File, err error) (vfs.File, error) {
		if err != nil {
			if critical {
				f.failed(fmt.Errorf("making %s: %w", name, err))
			} else {
				f.tables.failed(err)
			}
			return nil, err
		}
		return &watchedFile{File: file, name: name, critical: critical, failed: f.failed, tables: &f.tables}, nil
	}
}

// watchedFile tells failed of every sync that fails and, if it is critical, of writes.
type watchedFile struct {
	vfs.File
	name     string
	critical bool
	failed   func(error)
	tables   *pace
}

// check lets a failed sync be known.
func (f *watchedFile) check(err error) error {
	if err != nil {
		f.failed(fmt.Errorf("syncing %s: %w", f.name, err))
	}
	return err
}

// Write implements vfs.File.
func (f *watchedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	switch {
	case err == nil:
	case f.critical:
		f.failed(fmt.Errorf("writing %s: %w", f.name, err))
	default:
		f.tables.failed(err)
	}
	return n, err
}

// Close implements vfs.File.
func (f *watchedFile) Close() error {
	err := f.File.Close()
	if err != nil && f.critical {
		f.failed(fmt.Errorf("closing %s: %w", f.name, err))
	}
	return err
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.check(f.File.Sync()) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.check(f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f *watchedFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.check(err)
}

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
