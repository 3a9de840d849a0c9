package storagetest

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// SyncFS is a crashable file system in memory that calls a function before and after every
// sync: the moments between which a power loss makes a difference. Syncs wait for each
// other, so that nobody hears of one while the function looks at what is left of the others.
type SyncFS struct {
	*vfs.MemFS
	mu     sync.Mutex
	around func()
}

// NewSyncFS returns an empty file system that calls nothing yet.
func NewSyncFS() *SyncFS { return OverMem(vfs.NewCrashableMem()) }

// OverMem returns a SyncFS of a crashable file system, such as Snapshot's.
func OverMem(mem *vfs.MemFS) *SyncFS { return &SyncFS{MemFS: mem, around: func() {}} }

// Snapshot is CrashClone for whoever is not called around a sync: it waits for the syncs that
// are under way, and is safe while others use the file system.
func (s *SyncFS) Snapshot(cfg vfs.CrashCloneCfg) *vfs.MemFS {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.CrashClone(cfg)
}

// Around sets the function. It may clone the file system and must not write to it.
func (s *SyncFS) Around(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.around = f
}

func (s *SyncFS) sync(do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.around()
	err := do()
	s.around()
	return err
}

func (s *SyncFS) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &syncFile{f, s}, nil
}

// Create implements vfs.FS.
func (s *SyncFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return s.wrap(s.MemFS.Create(name, c))
}

// ReuseForWrite implements vfs.FS. No clone may come in between: MemFS takes its lock for
// reading twice here, and a clone that waits for it in the meantime would wait for ever.
func (s *SyncFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrap(s.MemFS.ReuseForWrite(from, to, c))
}

// OpenReadWrite implements vfs.FS.
func (s *SyncFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return s.wrap(s.MemFS.OpenReadWrite(name, c, opts...))
}

// OpenDir implements vfs.FS.
func (s *SyncFS) OpenDir(name string) (vfs.File, error) { return s.wrap(s.MemFS.OpenDir(name)) }

// Unwrap implements vfs.FS.
func (s *SyncFS) Unwrap() vfs.FS { return s.MemFS }

// syncFile is an open file of a SyncFS.
type syncFile struct {
	vfs.File
	fs *SyncFS
}

func (f *syncFile) Sync() error     { return f.fs.sync(f.File.Sync) }
func (f *syncFile) SyncData() error { return f.fs.sync(f.File.SyncData) }

func (f *syncFile) SyncTo(n int64) (full bool, err error) {
	err = f.fs.sync(func() error {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}
