package pebblestore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestOpenMissing(t *testing.T) {
	empty := t.TempDir()
	for _, dir := range []string{filepath.Join(empty, "none"), empty} {
		if _, err := pebblestore.Open(dir, pebblestore.Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opening %s: %v, want fs.ErrNotExist", dir, err)
		}
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) > 0 {
		t.Errorf("opening what is not there has made %v, %v", entries, err)
	}
}

func TestCreateExisting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	b := storagetest.NewBuilder()
	s := create(t, dir, pebblestore.Options{})
	if err := s.Commit(context.Background(), b.Batch(t, 5)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if _, err := pebblestore.Create(dir, pebblestore.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating it again: %v, want fs.ErrExist", err)
	}
	s = open(t, dir, pebblestore.Options{})
	storagetest.Check(t, s, b, nil)
	closeStore(t, s)
}

// lockHolder names the variable that makes the test binary hold a store open.
const lockHolder = "PEBBLESTORE_TEST_HOLD"

func TestLocked(t *testing.T) {
	if dir := os.Getenv(lockHolder); dir != "" {
		_, err := pebblestore.Open(dir, pebblestore.Options{})
		if errors.Is(err, storage.ErrLocked) {
			os.Exit(42)
		}
		t.Fatalf("opening a store that another process has open: %v", err)
	}
	dir := t.TempDir()
	s := create(t, dir, pebblestore.Options{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, dir + "/.", link} {
		for _, opts := range []pebblestore.Options{{}, {ReadOnly: true}} {
			_, err := pebblestore.Open(name, opts)
			if !errors.Is(err, storage.ErrLocked) || !strings.Contains(err.Error(), "in use") {
				t.Errorf("opening %s again: %v, want ErrLocked", name, err)
			}
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLocked$")
	cmd.Env = append(os.Environ(), lockHolder+"="+dir)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 42 {
		t.Errorf("another process: %v\n%s", err, out)
	}
	closeStore(t, s)
	closeStore(t, open(t, link, pebblestore.Options{}))
}

func TestReadOnly(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	s := create(t, "store", small(mem))
	b := storagetest.NewBuilder()
	if err := s.Commit(ctx, b.Batch(t, 300)); err != nil {
		t.Fatal(err)
	}
	// As a killed process leaves it: the commit is in the log only.
	mem = mem.CrashClone(vfs.CrashCloneCfg{})
	opts := small(mem)
	opts.ReadOnly = true
	for range 2 {
		r := open(t, "store", opts)
		storagetest.Check(t, r, b, nil)
		for name, err := range map[string]error{
			"Commit":        r.Commit(ctx, &storage.Batch{}),
			"SwapCell":      r.SwapCell(ctx, "cell", nil, nil),
			"ErasePayloads": r.ErasePayloads(ctx, []uint64{0}),
		} {
			if !errors.Is(err, storage.ErrReadOnly) {
				t.Errorf("%s: %v, want ErrReadOnly", name, err)
			}
		}
		closeStore(t, r)
	}
	if _, err := pebblestore.Create("other", opts); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("creating a read-only store: %v, want ErrReadOnly", err)
	}
	closeStore(t, s)
}

// TestEraseDestroys looks for the erased bytes in every file.
func TestEraseDestroys(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := create(t, "store", small(mem))
	b := storagetest.NewBuilder()
	// Nothing can compress these, so that they stand in the files as they are.
	secret := func(i byte) []byte { return append([]byte("the secret "), i, 0xd1, 0x5e, i^0x77, 0x93, i+71) }
	var indexes []uint64
	for i := range byte(200) {
		entries := []storage.Entry{storagetest.Entry(0), {Leaf: []byte{1, i}, Payload: secret(i)}}
		indexes = append(indexes, 2*uint64(i)+1)
		if err := s.Commit(ctx, b.BatchOf(t, entries)); err != nil {
			t.Fatal(err)
		}
		if i == 100 { // Some are in tables of a store that was opened again.
			closeStore(t, s)
			s = open(t, "store", small(mem))
		}
	}
	if n := holding(t, mem, "store", secret(150)); n == 0 {
		t.Fatal("the search finds nothing before the erasure either")
	}
	// The second time the old rows are in the last level, from which nothing takes them but
	// the erasure.
	for _, part := range [][]uint64{indexes[50:], indexes[:50]} {
		if err := s.ErasePayloads(ctx, part); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s) // Waits for files that are being deleted.
	for i := range byte(200) {
		if n := holding(t, mem, "store", secret(i)); n > 0 {
			t.Fatalf("payload %d is still in %d files", indexes[i], n)
		}
	}
	s = open(t, "store", small(mem))
	storagetest.Check(t, s, b, func(i uint64) bool { return i%2 == 1 })
	closeStore(t, s)
}

// holding counts the files below a directory that hold some bytes.
func holding(t *testing.T, mem *vfs.MemFS, dir string, want []byte) int {
	t.Helper()
	n := 0
	for _, name := range files(t, mem, dir) {
		if bytes.Contains(readFile(t, mem, name), want) {
			n++
		}
	}
	return n
}

// files lists the files below a directory.
func files(t *testing.T, mem *vfs.MemFS, dir string) []string {
	t.Helper()
	names, err := mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range names {
		path := mem.PathJoin(dir, name)
		info, err := mem.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			all = append(all, files(t, mem, path)...)
		} else {
			all = append(all, path)
		}
	}
	return all
}

func readFile(t *testing.T, mem *vfs.MemFS, name string) []byte {
	t.Helper()
	data, err := mem.UnsafeGetFileDataBuffer(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// noOptions makes no temporary files for cells, which is one of the last things that Pebble's
// opening does.
type noOptions struct{ vfs.FS }

func (f noOptions) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".dbtmp") && strings.Contains(name, "cells") {
		return nil, syscall.ENOSPC
	}
	return f.FS.Create(name, c)
}

// TestOpenFailsBesideAMerge opens a database that was killed when a merge was due. Replaying its
// log flushes, which would begin the merge, and then the opening fails.
func TestOpenFailsBesideAMerge(t *testing.T) {
	mem := vfs.NewCrashableMem()
	b := storagetest.NewBuilder()
	s := create(t, "store", pebblestore.Options{FS: mem})
	if err := s.Commit(context.Background(), b.Batch(t, 3)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	cells, err := pebble.Open("store/db/cells", &pebble.Options{
		FS: mem, FormatMajorVersion: pebble.FormatNewest, DisableAutomaticCompactions: true, Logger: quiet{},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(8) {
		if err := cells.Set([]byte("R"), binary.BigEndian.AppendUint64(nil, 100+i), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if i == 7 {
			break // killed before it is flushed
		}
		if err := cells.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		clone := mem.CrashClone(vfs.CrashCloneCfg{})
		if _, err := pebblestore.Open("store", pebblestore.Options{FS: noOptions{clone}}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("opening it: %v, want ENOSPC", err)
		}
	}
	time.Sleep(50 * time.Millisecond) // for what runs beside to meet its end
	s = open(t, "store", pebblestore.Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
	storagetest.Check(t, s, b, nil)
	closeStore(t, s)
	if err := cells.Close(); err != nil {
		t.Fatal(err)
	}
}

// quiet takes no messages.
type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
