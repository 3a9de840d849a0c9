package prove_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log/prove"
)

// counted counts what is read of a source.
type counted struct {
	prove.Source
	tiles, leaves atomic.Int64
}

func (c *counted) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	c.tiles.Add(1)
	return c.Source.Tile(ctx, level, index, width)
}

func (c *counted) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	c.leaves.Add(int64(end - start))
	return c.Source.Leaves(ctx, start, end, fn)
}

// TestWhatIsRead: without a cache every proof reads all it needs, at most one tile a level
// and edge; with one, what does not change is read once.
func TestWhatIsRead(t *testing.T) {
	r := &tree{}
	r.add(t, 70_000)
	ask := func(p *prove.Prover, size uint64) {
		t.Helper()
		if _, _, err := p.Inclusion(t.Context(), 12_345, size); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Consistency(t.Context(), 12_346, size); err != nil {
			t.Fatal(err)
		}
	}
	c := &counted{Source: r}
	p := prove.New(c, 0)
	for range 3 {
		before := c.tiles.Load()
		ask(p, 69_995)
		if n := c.tiles.Load() - before; n < 6 || n > 12 {
			t.Errorf("two proofs without a cache read %d tiles", n)
		}
	}
	c = &counted{Source: r}
	p = prove.New(c, 4).WithNodes(openNodes(t, t.TempDir()))
	ask(p, 69_995)
	tiles := c.tiles.Load()
	if tiles > 6 {
		t.Errorf("%d tiles are read for two neighbours", tiles)
	}
	for size := uint64(69_995); size < 70_000; size++ {
		before := c.leaves.Load()
		ask(p, size)
		if n := c.leaves.Load() - before; n > 3*32 {
			t.Errorf("two proofs at size %d read %d leaves", size, n)
		}
	}
	if n := c.tiles.Load(); n != tiles {
		t.Errorf("%d tiles are read again", n-tiles)
	}
}

func TestNeighbours(t *testing.T) {
	r := &tree{}
	r.add(t, 66_000)
	c := &counted{Source: r}
	p := prove.New(c, 4)
	var indexes []uint64
	for i := range uint64(700) {
		indexes = append(indexes, 65_000+i)
	}
	indexes = append(indexes, 3, 65_999, 65_500, 65_500)
	seen := 0
	err := p.Inclusions(t.Context(), indexes, r.size, func(i int, leaf prove.Hash, hashes []prove.Hash) error {
		if i != seen {
			t.Errorf("call %d is for place %d", seen, i)
		}
		seen++
		wantLeaf, want, err := p.Inclusion(t.Context(), indexes[i], r.size)
		if err != nil {
			return err
		}
		if leaf != wantLeaf || !cmp.Equal(hashes, want) {
			t.Errorf("the proof of %d differs from the one that is asked for alone", indexes[i])
		}
		return nil
	})
	if err != nil || seen != len(indexes) {
		t.Errorf("%d proofs, %v", seen, err)
	}
	c = &counted{Source: r}
	p = prove.New(c, 4)
	if err := p.Inclusions(t.Context(), indexes[:700], r.size, func(int, prove.Hash, []prove.Hash) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n := c.leaves.Load(); n > 800 {
		t.Errorf("%d leaves are read for 700 neighbours", n)
	}
	stop := errors.New("stop")
	if err := p.Inclusions(t.Context(), indexes, r.size, func(int, prove.Hash, []prove.Hash) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the caller's becomes %v", err)
	}
	if err := p.Inclusions(t.Context(), []uint64{1, r.size}, r.size, func(int, prove.Hash, []prove.Hash) error { return nil }); !errors.Is(err, prove.ErrRange) {
		t.Errorf("an index beyond the tree: %v", err)
	}
}

// TestConcurrent asks for proofs of many sizes at once, with a cache that is too small and
// nodes that are not there yet.
func TestConcurrent(t *testing.T) {
	r := &tree{}
	r.add(t, 67_000)
	alone, shared := prove.New(r, 0), prove.New(r, 1).WithNodes(openNodes(t, t.TempDir()))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 200 {
				size := r.size - rnd.Uint64N(2000)
				i := 1 + rnd.Uint64N(size-1)
				_, got, err := shared.Inclusion(t.Context(), i, size)
				_, want, err2 := alone.Inclusion(t.Context(), i, size)
				if err := errors.Join(err, err2); err != nil || !cmp.Equal(got, want) {
					t.Error(fmt.Sprintf("Inclusion(%d, %d) differs", i, size), err)
				}
				got, err = shared.Consistency(t.Context(), i, size)
				want, err2 = alone.Consistency(t.Context(), i, size)
				if err := errors.Join(err, err2); err != nil || !cmp.Equal(got, want) {
					t.Error(fmt.Sprintf("Consistency(%d, %d) differs", i, size), err)
				}
			}
		})
	}
	wg.Wait()
}
