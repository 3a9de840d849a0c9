package pebblestore_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// small are options for tests: little memory, so that flushes and compactions happen.
func small(fsys vfs.FS) pebblestore.Options {
	return pebblestore.Options{FS: fsys, CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
}

func create(t testing.TB, dir string, opts pebblestore.Options) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Create(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, dir string, opts pebblestore.Options) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *pebblestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// conformance returns how the suite opens stores in a file system.
func conformance(opts func(t testing.TB) (dir string, opts pebblestore.Options)) storagetest.Open {
	return func(t testing.TB) (storage.Store, func() storage.Store) {
		dir, o := opts(t)
		s := create(t, dir, o)
		t.Cleanup(func() { closeStore(t, s) })
		return s, func() storage.Store {
			closeStore(t, s)
			s = open(t, dir, o)
			return s
		}
	}
}

func TestConformance(t *testing.T) {
	t.Run("Memory", func(t *testing.T) {
		storagetest.Test(t, conformance(func(testing.TB) (string, pebblestore.Options) {
			return "store", small(vfs.NewMem())
		}))
	})
	t.Run("Disk", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits for the disk")
		}
		storagetest.Test(t, conformance(func(t testing.TB) (string, pebblestore.Options) {
			return t.TempDir(), pebblestore.Options{}
		}))
	})
}
