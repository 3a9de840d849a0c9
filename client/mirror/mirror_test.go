package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/tile"
)

// open opens a mirror of a log that is served.
func open(t *testing.T, dir string, log *tilestest.Log) *mirror.Mirror {
	t.Helper()
	return openAs(t, dir, tilestest.Serve(t, log), log.Policy())
}

func openAs(t *testing.T, dir, url string, p *policy.Policy) *mirror.Mirror {
	t.Helper()
	from, err := tiles.Open(url, tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(t.Context(), dir, mirror.Options{Log: from, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() }) // a test may have closed it
	return m
}

func sync(t *testing.T, m *mirror.Mirror) *mirror.Result {
	t.Helper()
	res, err := m.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// files returns the files of a directory, by path, but those for the mirror itself.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkCopy holds every file against the honest log, and that all are there that the
// copy's checkpoint implies.
func checkCopy(t *testing.T, dir string, log *tilestest.Log, size int) {
	t.Helper()
	have := files(t, dir)
	for path, b := range have {
		switch {
		case path == "checkpoint", path == ".lock", path == ".pending", strings.HasPrefix(path, "evidence/"), strings.HasPrefix(path, "private/"), strings.HasSuffix(path, ".new"):
		case !bytes.Equal(b, log.Bytes(path)):
			t.Errorf("%s is not what the log has", path)
		}
	}
	for l := range uint8(3) {
		for i := uint64(0); tile.WidthAt(l, i, uint64(size)) > 0; i++ {
			width := tile.WidthAt(l, i, uint64(size))
			paths := []string{tile.Path(l, i, width)}
			if l == 0 {
				paths = append(paths, tile.EntriesPath(i, width))
			}
			for _, p := range paths {
				if _, ok := have[p]; !ok {
					t.Errorf("size %d: there is no %s", size, p)
				}
			}
		}
	}
	c, err := mirror.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Size() != uint64(size) || c.Root() != log.Root(size) || c.Origin() != tilestest.Origin {
		t.Errorf("the copy has %d entries of %s, want %d", c.Size(), c.Origin(), size)
	}
	next := max(0, size-600)
	err = c.Leaves(t.Context(), uint64(next), uint64(size), func(i uint64, leaf []byte) error {
		if i != uint64(next) || !bytes.Equal(leaf, tilestest.Leaf("main", next)) {
			return fmt.Errorf("leaf %d is wrong", i)
		}
		next++
		return nil
	})
	if err != nil || next != size {
		t.Errorf("leaves of the copy end at %d: %v", next, err)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 2, 255, 256, 257, 300, 301, 512, 1000}
	if !testing.Short() {
		sizes = append(sizes, 65535, 65536, 65537)
	}
	log, dir := tilestest.New(t), t.TempDir()
	m := open(t, dir, log)
	before := 0
	for _, size := range sizes {
		log.Grow(size)
		res := sync(t, m)
		if res.Size != uint64(size) || res.Added != uint64(size-before) || res.Root != log.Root(size) {
			t.Errorf("size %d: %+v", size, res)
		}
		checkCopy(t, dir, log, size)
		if res := sync(t, m); res.Added != 0 {
			t.Errorf("size %d: again: %+v", size, res)
		}
		before = size
	}
	for path := range files(t, dir) {
		if strings.Contains(path, "/000.p/") && strings.HasPrefix(path, "tile/0") {
			t.Errorf("%s is kept although the full tile is there", path)
		}
	}
}

// TestSyncAfterRestart copies only what is new.
func TestSyncAfterRestart(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(600)
	m := open(t, dir, log)
	sync(t, m)
	if _, err := mirror.New(t.Context(), dir, mirror.Options{Policy: log.Policy()}); !errors.Is(err, mirror.ErrLocked) {
		t.Errorf("two writers: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	log.Grow(1000)
	m = open(t, dir, log)
	log.Asked()
	if res := sync(t, m); res.Added != 400 {
		t.Errorf("%+v", res)
	}
	for _, path := range log.Asked() {
		if path == "tile/entries/000" || path == "tile/entries/001" {
			t.Errorf("asked for %s again", path)
		}
	}
	checkCopy(t, dir, log, 1000)
}

// TestNewerSignatures takes over a fresher checkpoint of the same tree, and no older one.
func TestNewerSignatures(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(10)
	m := open(t, dir, log)
	first := log.Note()
	sync(t, m)
	log.PublishAt(tilestest.Later)
	second := log.Note()
	sync(t, m)
	if !bytes.Equal(m.Current().Checkpoint(), second) {
		t.Error("the newer checkpoint was not taken")
	}
	log.SetNote(first)
	sync(t, m)
	if !bytes.Equal(m.Current().Checkpoint(), second) {
		t.Error("an older checkpoint took the place of a newer one")
	}
}

var errCut = errors.New("cut off")

// TestCutOff ends the writing at every step in turn, as a crash does. The copy is always
// one whole state of the log, and goes on from what is there.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ before, after, later int }{
		{before: -1, after: 300, later: 300}, {before: 300, after: 600, later: 600}, {before: 300, after: 513, later: 1000},
		{before: 255, after: 256, later: 257}, {before: -1, after: 0, later: 5},
	} {
		t.Run(fmt.Sprint(c.before, c.after, c.later), func(t *testing.T) {
			t.Parallel()
			for n := int64(0); cutAt(t, n, c.before, c.after, c.later); n++ {
				if n > 200 {
					t.Fatal("the writing does not end")
				}
			}
		})
	}
}

// cutAt says whether there was an n-th step.
func cutAt(t *testing.T, n int64, before, after, later int) bool {
	t.Helper()
	log, dir := tilestest.New(t), t.TempDir()
	m := open(t, dir, log)
	if before >= 0 {
		log.Grow(before)
		sync(t, m)
	}
	var steps atomic.Int64
	m.Cut(func(string) error {
		if steps.Add(1) > n {
			return errCut
		}
		return nil
	})
	log.Grow(after)
	_, err := m.Sync(t.Context())
	if err != nil && !errors.Is(err, errCut) {
		t.Fatalf("cut at %d: %v", n, err)
	}
	if closeErr := m.Close(); closeErr != nil {
		t.Fatal(closeErr)
	}
	switch c, openErr := mirror.Open(t.Context(), dir); {
	case errors.Is(openErr, fs.ErrNotExist) && before < 0 && err != nil:
	case openErr != nil:
		t.Fatalf("cut at %d: %v", n, openErr)
	case c.Size() != uint64(before) && c.Size() != uint64(after):
		t.Fatalf("cut at %d: size %d", n, c.Size())
	default:
		checkCopy(t, dir, log, int(c.Size()))
	}
	log.Grow(later)
	sync(t, open(t, dir, log))
	checkCopy(t, dir, log, later)
	return err != nil
}

// TestGoesOnFromWhatIsThere does not ask again for entries that were written before the
// copying was cut off.
func TestGoesOnFromWhatIsThere(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(10_000)
	m := open(t, dir, log)
	m.Cut(func(step string) error {
		if step == "write tile/entries/030" {
			return errCut
		}
		return nil
	})
	if _, err := m.Sync(t.Context()); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = open(t, dir, log)
	log.Asked()
	sync(t, m)
	if asked := log.Asked(); slices.Contains(asked, "tile/entries/000") || slices.Contains(asked, "tile/entries/010") || !slices.Contains(asked, "tile/entries/030") {
		t.Errorf("asked for %v", asked)
	}
	checkCopy(t, dir, log, 10_000)
}

// TestDamagedFiles finds damage on the disk, and does not blame the log.
func TestDamagedFiles(t *testing.T) {
	flip := func(t *testing.T, path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log := tilestest.New(t)
	log.Grow(600)
	for _, path := range []string{"tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/002.p/88", "checkpoint"} {
		dir := t.TempDir()
		m := open(t, dir, log)
		sync(t, m)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		flip(t, filepath.Join(dir, path))
		c, err := mirror.Open(t.Context(), dir)
		if err == nil {
			err = c.Leaves(t.Context(), 0, 600, func(uint64, []byte) error { return nil })
		}
		if !errors.Is(err, mirror.ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", path, err)
		}
		if _, ok := errors.AsType[*tiles.ContradictionError](err); ok {
			t.Errorf("%s: the log is blamed: %v", path, err)
		}
	}
	// What was left by a copying that was cut off is damaged before it goes on.
	for _, path := range []string{"tile/entries/001", "tile/0/001"} {
		dir := t.TempDir()
		m := open(t, dir, log)
		m.Cut(func(step string) error {
			if step == "write checkpoint" {
				return errCut
			}
			return nil
		})
		if _, err := m.Sync(t.Context()); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		m.Cut(nil)
		flip(t, filepath.Join(dir, path))
		if _, err := m.Sync(t.Context()); !errors.Is(err, mirror.ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ErrDamaged that names it", path, err)
		}
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
		sync(t, m)
		checkCopy(t, dir, log, 600)
	}
}

// TestLyingLog refuses what contradicts the log's own checkpoint; the copy stays as it was.
func TestLyingLog(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(66_000)
	small := log.Fork(300)
	for _, path := range []string{"tile/entries/001", "tile/entries/257.p/208", "tile/0/257.p/208", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"} {
		dir := t.TempDir()
		m := open(t, dir, small)
		sync(t, m)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m = open(t, dir, log)
		log.Flip(path, 40)
		_, err := m.Sync(t.Context())
		if _, ok := errors.AsType[*tiles.ContradictionError](err); !ok {
			t.Errorf("%s: %v", path, err)
		}
		checkCopy(t, dir, log, 300)
		log.Lie(nil)
		sync(t, m)
		checkCopy(t, dir, log, 66_000)
	}
}

// TestComputesTiles never asks for hashes that it can compute.
func TestComputesTiles(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(2000)
	m := open(t, dir, log)
	log.Asked()
	sync(t, m)
	for _, path := range log.Asked() {
		if strings.HasPrefix(path, "tile/0/") && !strings.Contains(path, ".p/") {
			t.Errorf("asked for %s", path)
		}
	}
}
