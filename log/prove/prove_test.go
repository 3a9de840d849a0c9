package prove_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/log/prove"
)

// tree is a reference tree of x/mod/sumdb/tlog that also renders tiles.
type tree struct {
	hashes []tlog.Hash
	size   uint64
}

func (r *tree) add(t testing.TB, n uint64) {
	t.Helper()
	for range n {
		leaf := fmt.Appendf(nil, "leaf %d", r.size)
		hs, err := tlog.StoredHashes(int64(r.size), leaf, r)
		if err != nil {
			t.Fatal(err)
		}
		r.hashes = append(r.hashes, hs...)
		r.size++
	}
}

func (r *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(r.hashes)) {
			return nil, fs.ErrNotExist
		}
		out[i] = r.hashes[x]
	}
	return out, nil
}

// Tile renders as storage.Store.Tile does.
func (r *tree) Tile(_ context.Context, level uint8, index uint64, width int) ([]byte, error) {
	var b []byte
	for i := range uint64(width) {
		n := index*256 + i
		if (n+1)<<(8*level) > r.size {
			return nil, fs.ErrNotExist
		}
		h := r.hashes[tlog.StoredHashIndex(8*int(level), int64(n))]
		b = append(b, h[:]...)
	}
	return b, nil
}

// Leaves as storage.Store.Leaves.
func (r *tree) Leaves(_ context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	if end > r.size {
		return fs.ErrNotExist
	}
	for i := start; i < end; i++ {
		if err := fn(i, fmt.Appendf(nil, "leaf %d", i)); err != nil {
			return err
		}
	}
	return nil
}

func (r *tree) root(t testing.TB, size uint64) prove.Hash {
	t.Helper()
	h, err := tlog.TreeHash(int64(size), r)
	if err != nil {
		t.Fatal(err)
	}
	return prove.Hash(h)
}

func toTlog(hs []prove.Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(hs))
	for i, h := range hs {
		out[i] = tlog.Hash(h)
	}
	return out
}

func toSlices(hs []prove.Hash) [][]byte {
	out := make([][]byte, len(hs))
	for i, h := range hs {
		out[i] = h[:]
	}
	return out
}

// checkSize compares every answer at one size with the two other implementations; indexes
// and older sizes are those of the step.
func checkSize(t *testing.T, p *prove.Prover, r *tree, size, step uint64) {
	t.Helper()
	ctx := t.Context()
	if os.Getenv("KEYTRAIL_LONG") != "" {
		step = 1 + step/10
	}
	root := r.root(t, size)
	if got, err := p.Root(ctx, size); err != nil || got != root {
		t.Fatalf("Root(%d) = %x, %v, want %x", size, got, err, root)
	}
	for i := size % step; i < size; i += step {
		leaf, hs, err := p.Inclusion(ctx, i, size)
		if err != nil {
			t.Fatal(err)
		}
		if want := prove.HashLeaf(fmt.Appendf(nil, "leaf %d", i)); leaf != want {
			t.Fatalf("Inclusion(%d, %d) gives the leaf hash %x, want %x", i, size, leaf, want)
		}
		want, err := tlog.ProveRecord(int64(size), int64(i), r)
		if err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(toTlog(hs), []tlog.Hash(want), equateEmpty) {
			t.Fatalf("Inclusion(%d, %d) differs from tlog.ProveRecord", i, size)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, leaf[:], toSlices(hs), root[:]); err != nil {
			t.Fatalf("Inclusion(%d, %d): merkle: %v", i, size, err)
		}
		if i == 0 {
			continue
		}
		hs, err = p.Consistency(ctx, i, size)
		if err != nil {
			t.Fatal(err)
		}
		old := r.root(t, i)
		if err := tlog.CheckTree(toTlog(hs), int64(size), tlog.Hash(root), int64(i), tlog.Hash(old)); err != nil {
			t.Fatalf("Consistency(%d, %d): tlog: %v", i, size, err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, i, size, toSlices(hs), old[:], root[:]); err != nil {
			t.Fatalf("Consistency(%d, %d): merkle: %v", i, size, err)
		}
	}
}

var equateEmpty = cmp.FilterValues(func(a, b []tlog.Hash) bool { return len(a) == 0 && len(b) == 0 },
	cmp.Comparer(func(a, b []tlog.Hash) bool { return true }))

func TestEverySizeTo600(t *testing.T) {
	r := &tree{}
	p := prove.New(r, 16)
	for size := uint64(1); size <= 600; size++ {
		r.add(t, 1)
		step := uint64(1)
		if size > 100 {
			step = 31 // which indexes are left out changes with size
		}
		checkSize(t, p, r, size, step)
	}
	// Sizes below the tree's own, as a published size is below the durable one.
	for size := uint64(1); size < 600; size += 47 {
		checkSize(t, p, r, size, 19)
	}
}

func TestRandomLargeSizes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := &tree{}
	r.add(t, 70_000)                       // two levels of tiles and the beginning of a third
	for _, pages := range []int{0, 1, 8} { // the tree has two pages
		p := prove.New(r, pages)
		for range 30 {
			size := 1 + rnd.Uint64N(r.size)
			checkSize(t, p, r, size, 1+size/7)
		}
		checkSize(t, p, r, 65_536, 9_999)
		checkSize(t, p, r, 65_537, 9_999)
	}
}

func TestOutOfRange(t *testing.T) {
	r := &tree{}
	r.add(t, 5)
	p := prove.New(r, 0)
	if _, _, err := p.Inclusion(t.Context(), 5, 5); err == nil {
		t.Error("Inclusion(5, 5) succeeded")
	}
	if _, err := p.Consistency(t.Context(), 5, 4); err == nil {
		t.Error("Consistency(5, 4) succeeded")
	}
	if _, _, err := p.Inclusion(t.Context(), 5, 9); err == nil {
		t.Error("Inclusion beyond the stored tree succeeded")
	}
	if got, err := p.Root(t.Context(), 0); err != nil || [32]byte(got) != [32]byte(rfc6962.DefaultHasher.EmptyRoot()) {
		t.Errorf("Root(0) = %x, %v", got, err)
	}
}
