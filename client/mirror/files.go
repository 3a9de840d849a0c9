package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// parallelWrites is how many files are written at a time: their syncs share the disk's.
const parallelWrites = 8

// write puts a file in its place: beside it first, synced, then renamed. What a crash leaves
// beside it is written over the next time. The directory is not synced; whoever calls it
// does that.
func (m *Mirror) write(path string, b []byte, perm fs.FileMode) error {
	if err := m.step("write " + path); err != nil {
		return err
	}
	full := filepath.Join(m.dir, path)
	beside := full + ".new"
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	if err := m.step("rename " + path); err != nil {
		return err
	}
	return os.Rename(beside, full)
}

func (m *Mirror) step(name string) error {
	if m.cut == nil {
		return nil
	}
	return m.cut(name)
}

// writer writes many files, several at a time.
type writer struct {
	m *Mirror
	g errgroup.Group

	mu    sync.Mutex
	dirs  map[string]bool // made or written to, not synced yet
	first error
}

func (m *Mirror) newWriter() *writer {
	w := &writer{m: m, dirs: make(map[string]bool)}
	w.g.SetLimit(parallelWrites)
	return w
}

// put writes a file that never changes. One that is there already must be the same. It
// keeps b until flush. An error of an earlier file ends the writing.
func (w *writer) put(path string, b []byte) error {
	w.mu.Lock()
	err := w.first
	w.mu.Unlock()
	if err != nil {
		return err
	}
	w.g.Go(func() error {
		err := w.one(path, b)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.first == nil {
			w.first = err
		}
		return err
	})
	return nil
}

func (w *writer) one(path string, b []byte) error {
	full := filepath.Join(w.m.dir, path)
	if err := w.touch(filepath.Dir(full)); err != nil {
		return err
	}
	have, err := readFile(full, len(b))
	switch {
	case err == nil && bytes.Equal(have, b):
		return nil // its directory is synced again, for a crash may have come before
	case err == nil || errors.Is(err, errTooLarge):
		return fmt.Errorf("%w: %s holds something else than the log has there; remove it", ErrDamaged, full)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return w.m.write(path, b, 0o644)
}

// touch makes a directory, and remembers it and those above it for flush.
func (w *writer) touch(dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirs[dir] {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for ; !w.dirs[dir]; dir = filepath.Dir(dir) {
		w.dirs[dir] = true
		if dir == w.m.dir {
			break
		}
	}
	return nil
}

// flush waits until every file is written, and syncs the directories.
func (w *writer) flush() error {
	if err := w.g.Wait(); err != nil {
		return err
	}
	for dir := range w.dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// mkdirSynced makes directories below the mirror's own, durably.
func (m *Mirror) mkdirSynced(path string, perm fs.FileMode) error {
	full := filepath.Join(m.dir, path)
	if _, err := os.Stat(full); err == nil {
		return nil
	}
	if err := os.MkdirAll(full, perm); err != nil {
		return err
	}
	for full != m.dir {
		full = filepath.Dir(full)
		if err := syncDir(full); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var errTooLarge = errors.New("larger than expected")

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("reading %s: %w", path, errTooLarge)
	}
	return b, err
}
