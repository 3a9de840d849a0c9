package pebblestore_test

import (
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// growthFS counts the writes that make a log of the tree longer, and the logs.
type growthFS struct {
	vfs.FS
	logs, grown, spares atomic.Int64
}

func (f *growthFS) Unwrap() vfs.FS { return f.FS }

func (f *growthFS) wrap(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") || path.Base(path.Dir(name)) != "tree" {
		return file, err
	}
	f.logs.Add(1)
	return &growthFile{file, f}, nil
}

func (f *growthFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if path.Base(name) == "spare" {
		f.spares.Add(1)
	}
	file, err := f.FS.Create(name, c)
	return f.wrap(name, file, err)
}

func (f *growthFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return f.wrap(to, file, err)
}

type growthFile struct {
	vfs.File
	fs *growthFS
}

func (f *growthFile) Write(b []byte) (int, error) {
	before, err := f.Stat()
	if err != nil {
		return 0, err
	}
	n, err := f.File.Write(b)
	if after, statErr := f.Stat(); statErr == nil && after.Size() > before.Size() {
		f.fs.grown.Add(1)
	}
	return n, err
}

// logStore is a store with memtables of 1 MiB: the first log is half of that.
func logStore(t *testing.T, fsys vfs.FS) (*pebblestore.Store, func(commits int)) {
	s := create(t, "store", pebblestore.Options{FS: fsys, MemTableBytes: 1 << 20})
	b := storagetest.NewBuilder()
	return s, func(commits int) {
		t.Helper()
		for range commits {
			if err := s.Commit(t.Context(), b.Batch(t, 200)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLogsAreOverwritten: the first logs are as long as they will be when the first commit is
// written to them; later ones may grow while no spare is ready, and soon none does. Closing
// leaves no spare.
func TestLogsAreOverwritten(t *testing.T) {
	mem := vfs.NewMem()
	fsys := &growthFS{FS: mem}
	s, commit := logStore(t, fsys)
	first, made := fsys.logs.Load(), fsys.grown.Load()
	for fsys.logs.Load() < first+3 {
		commit(1)
	}
	if n := fsys.grown.Load() - made; n != 0 {
		t.Errorf("%d writes made the first logs longer", n)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		logs, grown := fsys.logs.Load(), fsys.grown.Load()
		for fsys.logs.Load() < logs+8 { // more than Pebble keeps
			commit(1)
		}
		if fsys.grown.Load() == grown {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("logs still grow: %d writes of %d logs", fsys.grown.Load(), fsys.logs.Load())
		}
	}
	if n := fsys.spares.Load(); n == 0 || n > 4 {
		t.Errorf("%d spares were made", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkNoSpare(t, mem)
}

// TestSpareOfAKilledProcess: what lies there under the name is not what the store has made.
func TestSpareOfAKilledProcess(t *testing.T) {
	mem := vfs.NewMem()
	s, commit := logStore(t, mem)
	commit(1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := mem.Create("store/db/tree/spare", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = pebblestore.Open("store", pebblestore.Options{FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	checkNoSpare(t, mem)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoSpareWithoutRoom: a disk that is nearly full is left to the events.
func TestNoSpareWithoutRoom(t *testing.T) {
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 10 << 20, TotalBytes: 1 << 30})
	fsys := &growthFS{FS: mem}
	s, commit := logStore(t, fsys)
	made := fsys.grown.Load()
	for logs := fsys.logs.Load(); fsys.logs.Load() < logs+8; {
		commit(1)
	}
	if n := fsys.spares.Load(); n != 0 {
		t.Errorf("%d spares were made", n)
	}
	if fsys.grown.Load() == made {
		t.Error("no log grew")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkNoSpare(t *testing.T, mem *vfs.MemFS) {
	t.Helper()
	for _, dir := range []string{"store/db/tree", "store/db/cells"} {
		names, err := mem.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if name == "spare" {
				t.Errorf("%s/%s is there", dir, name)
			}
		}
	}
}
