package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytrail/keytrail/storage"
)

// TestTwoWitnesses opens the directory of a witness that runs, also with all lock files
// deleted: one process at a time has it, or two histories could be cosigned.
func TestTwoWitnesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	mustRun(t, "init", "--dir", dir, "--name", "witness.test/w1")
	l := location{dir: dir}
	p := serveWitness(t, dir)
	refused := func(what string) {
		t.Helper()
		for _, counter := range []string{"", filepath.Join(t.TempDir(), "counter")} {
			second := location{dir: l.dir, counter: counter}
			if got, err := second.config(nil); !errors.Is(err, storage.ErrLocked) {
				t.Errorf("%s: a second opening with counter %q: %v", what, counter, err)
				if err == nil {
					got.Store.Close()
				}
			}
		}
	}
	refused("nothing is deleted")
	deleted := 0
	err := filepath.WalkDir(l.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "LOCK" {
			deleted++
			return os.Remove(path)
		}
		return err
	})
	if err != nil || deleted == 0 {
		t.Fatalf("%d lock files deleted, %v", deleted, err)
	}
	refused("the lock files are deleted")
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	w, err := l.open(t.Context(), nil)
	if err != nil {
		t.Fatalf("when the first has ended: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
