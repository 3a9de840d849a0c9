package tiles_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/proto/tile"
)

func raw(hashes []tiles.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// borders are the sizes up to size around which tiles begin and end.
func borders(size int) []int {
	var out []int
	for _, n := range []int{0, 1, 2, 3, 200, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65793} {
		if n < size {
			out = append(out, n)
		}
	}
	return append(out, size)
}

// checkTree holds all that a Tree says against the log.
func checkTree(t *testing.T, log *tilestest.Log, l *tiles.Log, size int) {
	t.Helper()
	root := log.Root(size)
	tree, err := l.Tree(t.Context(), uint64(size), root)
	if err != nil {
		t.Fatalf("size %d: %v", size, err)
	}
	for _, from := range borders(size) {
		before, err := tree.Root(t.Context(), uint64(from))
		if err != nil || before != log.Root(from) {
			t.Errorf("size %d: root at %d: %x, %v", size, from, before, err)
		}
		hashes, err := tree.Consistency(t.Context(), uint64(from), uint64(size))
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if from == 0 {
			continue
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(from), uint64(size), raw(hashes), before[:], root[:]); err != nil {
			t.Errorf("size %d: from %d: %v", size, from, err)
		}
		index := uint64(from - 1)
		leaf, err := tree.LeafHash(t.Context(), index)
		if err != nil || leaf != tiles.HashLeaf(tilestest.Leaf("main", from-1)) {
			t.Errorf("size %d: leaf %d: %v", size, index, err)
		}
		for _, at := range []int{from, size} {
			want := log.Root(at)
			hashes, err := tree.Inclusion(t.Context(), index, uint64(at))
			if err != nil {
				t.Fatalf("size %d: %v", size, err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, uint64(at), leaf[:], raw(hashes), want[:]); err != nil {
				t.Errorf("size %d: leaf %d in %d: %v", size, index, at, err)
			}
		}
	}
	checkLeaves(t, tree, size)
	for _, err := range []error{
		second(tree.Root(t.Context(), uint64(size)+1)), second(tree.LeafHash(t.Context(), uint64(size))),
		second(tree.Inclusion(t.Context(), uint64(size), uint64(size))), second(tree.Inclusion(t.Context(), 0, uint64(size)+1)),
		second(tree.Consistency(t.Context(), 0, uint64(size)+1)), second(tree.Consistency(t.Context(), 2, 1)),
		tree.Leaves(t.Context(), 0, uint64(size)+1, nil), tree.Leaves(t.Context(), 1, 0, nil),
	} {
		if !errors.Is(err, tiles.ErrRange) {
			t.Errorf("size %d: %v, want ErrRange", size, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// checkLeaves reads the last leaves of a tree, from within a bundle.
func checkLeaves(t *testing.T, tree *tiles.Tree, size int) {
	t.Helper()
	next := max(0, size-700)
	err := tree.Leaves(t.Context(), uint64(next), uint64(size), func(i uint64, leaf []byte) error {
		if i != uint64(next) || !bytes.Equal(leaf, tilestest.Leaf("main", next)) {
			return fmt.Errorf("leaf %d is %x, want leaf %d", i, leaf, next)
		}
		next++
		return nil
	})
	if err != nil || next != size {
		t.Errorf("size %d: leaves end at %d: %v", size, next, err)
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 2, 255, 256, 257, 511, 512, 513, 1000}
	if !testing.Short() {
		sizes = append(sizes, 65535, 65536, 65537, 66000)
	}
	log := tilestest.New(t)
	l := open(t, log)
	for _, size := range sizes {
		log.Grow(size)
		checkTree(t, log, l, size)
	}
}

// TestTreeOfOlderSize opens trees that the server has grown beyond.
func TestTreeOfOlderSize(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(1000)
	l := open(t, log)
	for _, size := range []int{1, 255, 256, 257, 300, 512, 999} {
		checkTree(t, log, l, size)
	}
}

// TestTilesAskedFor holds that a proof takes one tile a level, that a verified tile is not
// asked for again, and that no partial tile is asked for that no checkpoint implies.
func TestTilesAskedFor(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(70000)
	l := open(t, log)
	tree, err := l.Tree(t.Context(), 70000, log.Root(70000))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := log.Asked(), []string{"tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"}; !slices.Equal(got, want) {
		t.Errorf("opening asked for %v, want %v", got, want)
	}
	for range 2 {
		if _, err := tree.Inclusion(t.Context(), 300, 70000); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := log.Asked(), []string{"tile/1/000", "tile/0/001"}; !slices.Equal(got, want) {
		t.Errorf("two proofs asked for %v, want %v", got, want)
	}
	if err := tree.Leaves(t.Context(), 256, 512, func(uint64, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got, want := log.Asked(), []string{"tile/entries/001"}; !slices.Equal(got, want) {
		t.Errorf("leaves asked for %v, want %v", got, want)
	}
}

// TestLyingServer flips one bit in each kind of tile and entry. Everything that is read is
// right, or an error that says where the log contradicts itself.
func TestLyingServer(t *testing.T) {
	t.Parallel()
	const size = 66000 // 257 full tiles, 208 hashes; 1 full tile of level 1
	log := tilestest.New(t)
	log.Grow(size)
	root := log.Root(size)
	for _, c := range []struct {
		path  string
		where string
	}{
		{"tile/0/000", "tile 0/0"}, {"tile/0/256", "tile 0/256"}, {"tile/1/000", "tile 1/0"},
		{"tile/0/257.p/208", "right edge"}, {"tile/1/001.p/1", "right edge"}, {"tile/2/000.p/1", "right edge"},
		{"tile/entries/000", "entry 255"}, {"tile/entries/256", "entry 65791"}, {"tile/entries/257.p/208", "entry 65999"},
	} {
		log.Flip(c.path, -1)
		l := open(t, log)
		err := readEverything(t, log, l, size, root)
		contradiction, ok := errors.AsType[*tiles.ContradictionError](err)
		if !ok || contradiction.Where != c.where || contradiction.Size != size {
			t.Errorf("%s: %v; want a contradiction at %s", c.path, err, c.where)
		}
		log.Lie(nil)
		if err := readEverything(t, log, l, size, root); err != nil {
			t.Errorf("%s: honest again: %v", c.path, err)
		}
	}
}

func readEverything(t *testing.T, log *tilestest.Log, l *tiles.Log, size int, root tiles.Hash) error {
	t.Helper()
	tree, err := l.Tree(t.Context(), uint64(size), root)
	if err != nil {
		return err
	}
	for _, i := range []int{0, 65535, 65700, size - 1} {
		h, err := tree.LeafHash(t.Context(), uint64(i))
		if err != nil {
			return err
		}
		if h != tiles.HashLeaf(tilestest.Leaf("main", i)) {
			t.Errorf("leaf hash %d is wrong", i)
		}
	}
	for _, from := range []int{0, 65536} {
		err := tree.Leaves(t.Context(), uint64(from), uint64(min(size, from+500)), func(i uint64, leaf []byte) error {
			if !bytes.Equal(leaf, tilestest.Leaf("main", int(i))) {
				t.Errorf("leaf %d is wrong", i)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// TestOtherTree has checkpoints that do not fit what is served.
func TestOtherTree(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(300)
	fork := log.Fork(299)
	fork.GrowAs("fork", 300)
	l := open(t, log)
	for name, root := range map[string]tiles.Hash{"fork": fork.Root(300), "smaller": log.Root(299), "empty": {}} {
		_, err := l.Tree(t.Context(), 300, root)
		if _, ok := errors.AsType[*tiles.ContradictionError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Tree(t.Context(), 0, log.Root(1)); err == nil {
		t.Error("the empty tree has another root than that of nothing")
	}
	// A tree that is larger than what is served is missing, not contradicted.
	log.Grow(301)
	root := log.Root(301)
	log = log.Fork(300)
	if _, err := open(t, log).Tree(t.Context(), 301, root); err == nil || strings.Contains(err.Error(), "contradict") {
		t.Errorf("withheld: %v", err)
	}
}

func TestLeavesStopAtTheFirstError(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(5000)
	l := open(t, log)
	stop := errors.New("enough")
	n := 0
	err := l.Leaves(t.Context(), 100, 5000, 5000, func(i uint64, leaf []byte) error {
		if i != uint64(100+n) || !bytes.Equal(leaf, tilestest.Leaf("main", 100+n)) {
			t.Errorf("leaf %d comes as number %d", i, n)
		}
		if n++; n == 300 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 300 {
		t.Errorf("%v after %d leaves", err, n)
	}
	if err := l.Leaves(t.Context(), 0, 5001, 5000, nil); !errors.Is(err, tiles.ErrRange) {
		t.Error(err)
	}
}

// TestBuilder holds each tile and root against x/mod/sumdb/tlog, and goes on from any size.
func TestBuilder(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(66000)
	full := map[string]bool{}
	b := &tiles.Builder{Full: func(level uint8, index uint64, hashes []byte) error {
		path := tile.Path(level, index, tile.Width)
		if full[path] || !bytes.Equal(hashes, log.Bytes(path)) {
			t.Errorf("%s is wrong, or comes twice", path)
		}
		full[path] = true
		return nil
	}}
	for n := 0; ; n++ {
		if slices.Contains(borders(66000), n) || n < 600 && n%7 == 0 {
			if b.Size() != uint64(n) || b.Root() != log.Root(n) {
				t.Fatalf("size %d: root %x of size %d", n, b.Root(), b.Size())
			}
			b = resume(t, log, b, n)
		}
		if n == 66000 {
			break
		}
		if err := b.Add(tiles.HashLeaf(tilestest.Leaf("main", n))); err != nil {
			t.Fatal(err)
		}
	}
	if len(full) != 257+1 {
		t.Errorf("%d full tiles, want 258", len(full))
	}
}

// resume makes a builder at the size of another from the log's partial tiles.
func resume(t *testing.T, log *tilestest.Log, b *tiles.Builder, n int) *tiles.Builder {
	t.Helper()
	next := &tiles.Builder{Full: b.Full}
	partial := func(level uint8, index uint64, width int) ([]byte, error) {
		path := tile.Path(level, index, width)
		if !bytes.Equal(tiles.Bytes(b.Partial(level)), log.Bytes(path)) {
			t.Errorf("size %d: %s is wrong", n, path)
		}
		return log.Bytes(path), nil
	}
	if err := next.Resume(uint64(n), tiles.Hash{1}, partial); err == nil {
		t.Errorf("size %d: went on with another root", n)
	}
	if next.Size() != 0 {
		t.Errorf("size %d: a failed Resume left size %d", n, next.Size())
	}
	if err := next.Resume(uint64(n), log.Root(n), partial); err != nil {
		t.Fatal(err)
	}
	return next
}
