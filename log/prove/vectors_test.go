package prove_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/log/prove"
)

// TestMerkleVectors checks the tree of transparency-dev/merkle's test vectors: its leaves,
// its roots at every size, and the proofs that its reference tree gives.
func TestMerkleVectors(t *testing.T) {
	ref := testonly.New(rfc6962.DefaultHasher)
	ref.AppendData(testonly.LeafInputs()...)
	checkReference(t, ref, 1, leafInput)
	roots := testonly.RootHashes()
	p := prove.New(reference{ref, leafInput}, 0)
	for size, want := range roots {
		got, err := p.Root(t.Context(), uint64(size))
		if err != nil || !bytes.Equal(got[:], want) {
			t.Errorf("Root(%d) = %x, %v, want %x", size, got, err, want)
		}
	}
	for i, leaf := range testonly.LeafInputs() {
		got := prove.HashLeaf(leaf)
		if want := testonly.NodeHashes()[0][i]; !bytes.Equal(got[:], want) {
			t.Errorf("HashLeaf(%x) = %x, want %x", leaf, got, want)
		}
	}
}

// TestReferenceTreeTo600 compares with the reference tree at every size up to 600.
func TestReferenceTreeTo600(t *testing.T) {
	ref := testonly.New(rfc6962.DefaultHasher)
	for i := range 600 {
		ref.AppendData(plainLeaf(uint64(i)))
	}
	checkReference(t, ref, 29, plainLeaf)
}

func leafInput(i uint64) []byte { return testonly.LeafInputs()[i] }

func plainLeaf(i uint64) []byte { return fmt.Appendf(nil, "leaf %d", i) }

func checkReference(t *testing.T, ref *testonly.Tree, step uint64, leaf func(i uint64) []byte) {
	t.Helper()
	if os.Getenv("KEYTRAIL_LONG") != "" {
		step = 1
	}
	p := prove.New(reference{ref, leaf}, 8)
	for size := uint64(1); size <= ref.Size(); size++ {
		for i := size % step; i < size; i += step {
			_, got, err := p.Inclusion(t.Context(), i, size)
			if err != nil {
				t.Fatal(err)
			}
			want, err := ref.InclusionProof(i, size)
			if err != nil {
				t.Fatal(err)
			}
			compareProof(t, fmt.Sprintf("Inclusion(%d, %d)", i, size), got, want)
			if i == 0 {
				continue
			}
			if got, err = p.Consistency(t.Context(), i, size); err != nil {
				t.Fatal(err)
			}
			if want, err = ref.ConsistencyProof(i, size); err != nil {
				t.Fatal(err)
			}
			compareProof(t, fmt.Sprintf("Consistency(%d, %d)", i, size), got, want)
		}
	}
}

func compareProof(t *testing.T, what string, got []prove.Hash, want [][]byte) {
	t.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = bytes.Equal(got[i][:], want[i])
	}
	if !same {
		t.Fatalf("%s = %x, the reference tree gives %x", what, got, want)
	}
}

// reference renders the tiles of a reference tree of up to 65,535 leaves.
type reference struct {
	tree *testonly.Tree
	leaf func(i uint64) []byte
}

// Leaves as storage.Store.Leaves.
func (r reference) Leaves(_ context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	if end > r.tree.Size() {
		return fs.ErrNotExist
	}
	for i := start; i < end; i++ {
		if err := fn(i, r.leaf(i)); err != nil {
			return err
		}
	}
	return nil
}

// Tile as storage.Store.Tile.
func (r reference) Tile(_ context.Context, level uint8, index uint64, width int) ([]byte, error) {
	var b []byte
	for i := range uint64(width) {
		n := index*256 + i
		switch {
		case (n+1)<<(8*level) > r.tree.Size() || level > 1:
			return nil, fs.ErrNotExist
		case level == 0:
			b = append(b, r.tree.LeafHash(n)...)
		default:
			sub := testonly.New(rfc6962.DefaultHasher)
			for leaf := n * 256; leaf < (n+1)*256; leaf++ {
				sub.Append(r.tree.LeafHash(leaf))
			}
			b = append(b, sub.Hash()...)
		}
	}
	return b, nil
}
