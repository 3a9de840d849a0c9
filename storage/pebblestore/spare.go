package pebblestore

import (
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// spareName is a file of zeros in a database's directory. Pebble passes over it.
const spareName = "spare"

const (
	// sparePiece is how much of a spare is written and synced at a time, in bytes: little,
	// so that the log's syncs do not wait behind much of it.
	sparePiece = 512 << 10
	// shortLogs is how many logs a database has before it gets spares. They are short, and
	// all that many databases ever have: memtables begin with 512 KiB and double.
	shortLogs = 3
	// firstLog is more than the first of them holds, in bytes.
	firstLog = 640 << 10
	// spareRoom is how many files of zeros must fit into the free space of the disk for one to
	// be made: a disk that is nearly full belongs to the events.
	spareRoom = 64
)

// spare makes files of zeros that become the logs of a database: short ones at once, long
// ones in the background. To sync a log that grows, the file system commits its journal each
// time; one that overwrites what is allocated and written only writes the data, in half of the
// time. And it does not need the journal: when ext4 gives its journal up after an error of the
// disk, it reports success to some syncs of growing files whose length it has not kept (Linux
// 6.18, TestCrashDiskReadOnly).
//
// Pebble writes over its old logs for the first reason. But it has none after its start, and
// its first ones are short. After a few spares all of them are long, and no more are made.
type spare struct {
	fs   vfs.FS // not watched: whether a spare can be written is nobody's concern
	path string
	size int64 // of a spare, in bytes: about that of a full log

	mu   sync.Mutex
	logs int // how many logs were made since the database was opened
	left int // how many spares may be made
	// filling says that a spare is being made, and ready that there is one, whole and synced.
	filling, ready bool
	closed         atomic.Bool // set under mu
	making         sync.WaitGroup
}

// open takes away a spare that a process left which was killed: a power loss may have kept
// that name for what was a log already.
func (p *spare) open() error {
	err := p.fs.Remove(p.path)
	if errors.Is(notExist(err), fs.ErrNotExist) {
		return nil
	}
	return err
}

// databaseFS is the file system as the Pebble of one database sees it.
type databaseFS struct {
	*storeFS
	spare *spare
}

// Create implements vfs.FS.
func (f *databaseFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".log") {
		if f.forgetLogs.Load() != 0 {
			f.spare.renew()
		} else if file, ok := f.spare.log(name, category); ok {
			return f.watch(name)(file, nil)
		}
	}
	return f.storeFS.Create(name, category)
}

// ReuseForWrite implements vfs.FS: an old log that is short is replaced.
func (f *databaseFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if f.forgetLogs.Load() != 0 {
		f.spare.renew()
	} else if old, err := f.Stat(oldname); err == nil && old.Size() < f.spare.size {
		if file, ok := f.spare.log(newname, category); ok {
			if err := f.Remove(oldname); err != nil {
				return f.watch(newname)(nil, errors.Join(err, file.Close()))
			}
			return f.watch(newname)(file, nil)
		}
	}
	return f.storeFS.ReuseForWrite(oldname, newname, category)
}

// log makes a log of zeros, or returns false.
func (p *spare) log(name string, category vfs.DiskWriteCategory) (vfs.File, bool) {
	if file, ok := p.take(name, category); ok {
		return file, true
	}
	return p.short(name, category)
}

// renew lets spares be made for logs that start with nothing.
func (p *spare) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = recycledLogs + 1
}

// take makes the spare the log of a name, if there is one. It begins to make another unless
// enough were made.
func (p *spare) take(name string, category vfs.DiskWriteCategory) (file vfs.File, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logs++; p.ready && p.logs > shortLogs {
		p.ready = false
		var err error
		if file, err = p.fs.ReuseForWrite(p.path, name, category); err != nil {
			p.left = 0
			return nil, false
		}
		ok = true
	}
	if p.logs >= shortLogs && p.left > 0 && !p.filling && !p.closed.Load() {
		p.left--
		p.filling = true
		p.making.Go(p.fill)
	}
	return file, ok
}

// short makes one of the first logs, if there is room.
func (p *spare) short(name string, category vfs.DiskWriteCategory) (vfs.File, bool) {
	p.mu.Lock()
	n := p.logs
	p.mu.Unlock()
	if n > shortLogs {
		return nil, false
	}
	size := min(p.size, firstLog<<(n-1))
	if !p.room(size) {
		return nil, false
	}
	file, err := p.fs.Create(name, category)
	if err != nil {
		return nil, false
	}
	_, err = file.WriteAt(make([]byte, size), 0)
	if err == nil {
		err = file.Sync()
	}
	if err != nil { // Create says what is wrong, if it still is
		_ = errors.Join(file.Close(), p.fs.Remove(name))
		return nil, false
	}
	return file, true
}

// room says whether the disk has room for a file of zeros; one that does not tell has.
func (p *spare) room(size int64) bool {
	usage, err := p.fs.GetDiskUsage(p.fs.PathDir(p.path))
	return err != nil || usage.AvailBytes >= spareRoom*uint64(size)
}

// fill makes a spare. When it cannot, none is made any more.
func (p *spare) fill() {
	err := p.write()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filling = false
	if err != nil {
		p.left = 0
		_ = p.fs.Remove(p.path) // what stays is taken away at the next start
		return
	}
	p.ready = true
}

// errNoSpare means that a spare is not wanted any more, or has no room.
var errNoSpare = errors.New("no spare")

func (p *spare) write() (err error) {
	if !p.room(p.size) {
		return errNoSpare
	}
	file, err := p.fs.Create(p.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	zeros := make([]byte, min(p.size, sparePiece))
	for at := int64(0); at < p.size; at += int64(len(zeros)) {
		if p.closed.Load() {
			return errNoSpare
		}
		if _, err := file.Write(zeros); err != nil {
			return err
		}
		if err := file.SyncData(); err != nil {
			return err
		}
	}
	return file.Sync()
}

// close ends the making of a spare, and takes it away.
func (p *spare) close() error {
	p.mu.Lock()
	p.closed.Store(true)
	p.mu.Unlock()
	p.making.Wait()
	if !p.ready {
		return nil
	}
	p.ready = false
	return p.fs.Remove(p.path)
}
