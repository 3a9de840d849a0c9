package witness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// CounterDelay is how far the counter file may be behind the store.
const CounterDelay = time.Second

// counterFormat is the first line of a counter file. The id of the store and the number of
// its changes follow, a line each.
const counterFormat = "keytrail.dev/witness/counter/v1"

// maxCounterFile is larger than any counter file, in bytes.
const maxCounterFile = 256

// Counter is a small file outside the store that says how many changes the store has had,
// so that a store which lost some is noticed. It never says more than was durable in the
// store, and at most CounterDelay after a change it says all. It is replaced as a whole, so
// that a crash leaves the old content or the new.
//
// It helps as far as it does not share the store's fate: on the same disk it shows that the
// store's directory was replaced or restored; on another one, that the disk was.
type Counter struct {
	path string
	id   string

	// failed is called when the file cannot be written.
	failed func(error)

	mu sync.Mutex
	// count is the number of changes in the store, written what the file says.
	count, written uint64
	timer          *time.Timer
	closed         bool
	err            error
}

// createCounter makes the file of a new witness.
func createCounter(path, id string, count uint64) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("making the counter file %s: %w", path, err)
	}
	c := &Counter{path: path, id: id}
	return c.write(count)
}

// OpenCounter reads a counter file. A missing one is fs.ErrNotExist: it is not made anew,
// because then nobody knows whether the store went back.
func OpenCounter(path string) (*Counter, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the counter file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCounterFile))
	if err != nil {
		return nil, fmt.Errorf("reading the counter file %s: %w", path, err)
	}
	c := &Counter{path: path}
	lines := strings.Split(string(b), "\n")
	if len(lines) == 4 {
		c.id = lines[1]
		c.written, err = strconv.ParseUint(lines[2], 10, 64)
	}
	if err != nil || len(lines) != 4 || c.content(c.written) != string(b) {
		return nil, fmt.Errorf("reading the counter file %s: it does not hold what was written there", path)
	}
	return c, nil
}

func (c *Counter) content(count uint64) string {
	return fmt.Sprintf("%s\n%s\n%d\n", counterFormat, c.id, count)
}

// check compares the file with a store of that id and that many changes.
func (c *Counter) check(id string, count uint64) error {
	if id != c.id {
		return fmt.Errorf("%w: the counter file %s is of another witness", ErrWentBack, c.path)
	}
	if count < c.written {
		return fmt.Errorf("%w: it had %d changes at least and holds %d", ErrWentBack, c.written, count)
	}
	return nil
}

// start begins to follow a store with that many changes.
func (c *Counter) start(count uint64, failed func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count, c.failed = count, failed
	c.schedule()
}

// advance counts a change that is durable in the store.
func (c *Counter) advance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	c.schedule()
}

// schedule sees to it that the file is written soon. The caller holds c.mu.
func (c *Counter) schedule() {
	if c.timer == nil && c.count > c.written && !c.closed {
		c.timer = time.AfterFunc(CounterDelay, c.flush)
	}
}

func (c *Counter) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = nil
	if !c.closed {
		c.save()
	}
}

// save writes the file if it is behind. The caller holds c.mu.
func (c *Counter) save() {
	if c.err != nil || c.count <= c.written {
		return
	}
	if c.err = c.write(c.count); c.err != nil && c.failed != nil {
		c.failed(c.err)
	}
}

// condemned is how many changes a store lost of which nobody knows how many it lost: more
// than can be under way.
const condemned = 1 << 32

// condemn makes the file say that the store has lost changes, so that the witness stays
// stopped when it is started again.
func (c *Counter) condemn() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.write(c.count + condemned)
}

// Close brings the file up to date.
func (c *Counter) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.closed {
		return c.err
	}
	c.closed = true
	c.save()
	return c.err
}

func (c *Counter) write(count uint64) error {
	if err := replaceFile(c.path, []byte(c.content(count))); err != nil {
		return fmt.Errorf("writing the counter file: %w", err)
	}
	c.written = count
	return nil
}

// replaceFile puts content into a file, 0600, all of it or nothing, durably.
func replaceFile(path string, content []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
