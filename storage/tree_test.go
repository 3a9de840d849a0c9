package storage_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestEmptyHead(t *testing.T) {
	// The empty tree of RFC 6962 section 2.1, as in the vectors of transparency-dev/merkle.
	const want = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	h := storage.EmptyHead()
	if got := hex.EncodeToString(h.Root[:]); got != want || h.Size != 0 || !h.Time.IsZero() {
		t.Errorf("EmptyHead is %v at %v", h, h.Time)
	}
}

func TestHeadEqual(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	h := storage.Head{Size: 1, Time: at}
	if o := (storage.Head{Size: 1, Time: at.In(time.FixedZone("", 3600))}); !h.Equal(o) {
		t.Error("the same instant in another zone is another head")
	}
	for _, o := range []storage.Head{
		{Size: 2, Time: at},
		{Size: 1, Time: at.Add(1)},
		{Size: 1, Time: at, Root: [storage.HashSize]byte{31: 1}},
	} {
		if h.Equal(o) {
			t.Errorf("%v equals %v", h, o)
		}
	}
}

// TestFrontier compares the right edge with compact's at every size up to 600, read from
// a store that holds more, and at a size that has nodes of level 2.
func TestFrontier(t *testing.T) {
	ctx := context.Background()
	s := memstore.New()
	b := storagetest.NewBuilder()
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r := f.NewEmptyRange(0)
	heads := []storage.Head{b.Head}
	ranges := [][][]byte{nil}
	for size := uint64(0); size < 66_000; {
		n := 1
		if size >= 600 {
			n = 32_700
		}
		if err := s.Commit(ctx, b.Batch(t, n)); err != nil {
			t.Fatal(err)
		}
		for ; size < b.Head.Size; size++ {
			if err := r.Append(rfc6962.DefaultHasher.HashLeaf(storagetest.Entry(size).Leaf), nil); err != nil {
				t.Fatal(err)
			}
		}
		heads = append(heads, b.Head)
		ranges = append(ranges, append([][]byte(nil), r.Hashes()...))
	}
	for i, h := range heads {
		got, err := storage.Frontier(ctx, s, h)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(ranges[i]) {
			t.Fatalf("size %d: %d hashes, want %d", h.Size, len(got), len(ranges[i]))
		}
		for j := range got {
			if !bytes.Equal(got[j], ranges[i][j]) {
				t.Fatalf("size %d: hash %d differs from compact's", h.Size, j)
			}
		}
	}
	wrong := heads[300]
	wrong.Root[0] ^= 1
	if _, err := storage.Frontier(ctx, s, wrong); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("frontier of a wrong root: %v, want ErrCorrupt", err)
	}
	beyond := b.Head
	beyond.Size++
	if _, err := storage.Frontier(ctx, s, beyond); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("frontier beyond the tree: %v, want fs.ErrNotExist", err)
	}
}

// tampered is a store that answers something else than it holds.
type tampered struct {
	storage.Store
	head func(storage.Head) storage.Head
	tile func(level uint8, index uint64, tile []byte) []byte
	leaf func(index uint64, leaf []byte) []byte
	last uint64 // If not 0, leaves end here.
}

func (s *tampered) Head(ctx context.Context) (storage.Head, error) {
	h, err := s.Store.Head(ctx)
	if s.head != nil {
		h = s.head(h)
	}
	return h, err
}

func (s *tampered) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	tile, err := s.Store.Tile(ctx, level, index, width)
	if err == nil && s.tile != nil {
		tile = s.tile(level, index, tile)
	}
	return tile, err
}

func (s *tampered) Leaves(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	if s.last != 0 {
		end = min(end, s.last)
	}
	return s.Store.Leaves(ctx, start, end, func(i uint64, leaf []byte) error {
		if s.leaf != nil {
			leaf = s.leaf(i, leaf)
		}
		return fn(i, leaf)
	})
}

func TestVerifyFinds(t *testing.T) {
	ctx := context.Background()
	s := memstore.New()
	b := storagetest.NewBuilder()
	for _, n := range []int{65_536, 512, 300} { // Nodes of level 2; tile 0/259 has 44 leaves.
		if err := s.Commit(ctx, b.Batch(t, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := storage.Verify(ctx, &tampered{Store: s}); err != nil {
		t.Fatal(err)
	}
	flip := func(level uint8, index uint64, hash int) func(uint8, uint64, []byte) []byte {
		return func(l uint8, i uint64, tile []byte) []byte {
			if l == level && i == index && len(tile) > hash*storage.HashSize {
				tile[hash*storage.HashSize] ^= 1
			}
			return tile
		}
	}
	for _, c := range []struct {
		name string
		with tampered
		says string
	}{
		{"root", tampered{head: func(h storage.Head) storage.Head { h.Root[0] ^= 1; return h }}, "right edge"},
		{"size", tampered{head: func(h storage.Head) storage.Head { h.Size--; return h }}, "right edge"},
		{"last leaf's hash", tampered{tile: flip(0, 259, 43)}, "right edge"},
		{"hash of level 1 in the edge", tampered{tile: flip(1, 1, 2)}, "right edge"},
		{"hash of level 2", tampered{tile: flip(2, 0, 0)}, "right edge"},
		{"hash under the last node of level 1", tampered{tile: flip(0, 258, 9)}, "node 1/258"},
		{"hash under the last node of level 2", tampered{tile: flip(1, 0, 9)}, "node 2/0"},
		{"short tile", tampered{tile: func(l uint8, _ uint64, tile []byte) []byte {
			if l == 0 {
				return tile[:len(tile)-1]
			}
			return tile
		}}, "has 1407 bytes"},
		{"leaf", tampered{leaf: func(i uint64, leaf []byte) []byte {
			if i == 66_340 {
				leaf = []byte("another")
			}
			return leaf
		}}, "leaf 66340"},
		{"leaf missing", tampered{last: 66_340}, "leaves end at 66340"},
	} {
		c.with.Store = s
		err := storage.Verify(ctx, &c.with)
		if !errors.Is(err, storage.ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want ErrCorrupt saying %q", c.name, err, c.says)
		}
	}
}
