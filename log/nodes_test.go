package log_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/storage/memstore"
)

// TestNodesFollowCommits: what the writer keeps for proofs is what the store's leaves give,
// over batches of many sizes and a restart; without it proofs are the same.
func TestNodesFollowCommits(t *testing.T) {
	d, s := logtest.NewDir(t), memstore.New()
	size := uint64(0)
	for _, batches := range [][]int{{1, 30, 1, 1, 300, 64, 7}, {31, 2, 500}} {
		l := logtest.Open(t, d, s)
		for _, n := range batches {
			events := make([]log.Event, n)
			for i := range events {
				events[i] = logtest.Prepare(t, logtest.Event(int(size)+i, "key"))
			}
			if _, err := l.Append(t.Context(), "", events); err != nil {
				t.Fatal(err)
			}
			size += uint64(n)
		}
		l.AwaitPublished(t, size)
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	var leaves, groups []byte
	err := s.Leaves(t.Context(), 0, size, func(i uint64, leaf []byte) error {
		h := prove.HashLeaf(leaf)
		leaves = append(leaves, h[:]...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]prove.Hash, 32)
	for at := 0; at+32*32 <= len(leaves); at += 32 * 32 {
		for i := range row {
			row[i] = prove.Hash(leaves[at+32*i:])
		}
		for n := 32; n > 1; n /= 2 {
			for i := range n / 2 {
				row[i] = prove.HashChildren(&row[2*i], &row[2*i+1])
			}
		}
		groups = append(groups, row[0][:]...)
	}
	for name, want := range map[string][]byte{"leaves": leaves, "groups": groups} {
		got, err := os.ReadFile(filepath.Join(d.Nodes(), name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d other ones", name, len(got), err, len(want))
		}
		// Half of it is lost and half of the rest damaged before the log is opened again.
		clear(want[len(want)/4 : len(want)/2])
		if err := os.WriteFile(filepath.Join(d.Nodes(), name), want[:len(want)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, plain := logtest.Open(t, d, s), prove.New(s, 0)
	for i := range size {
		hashes, leaf, _, _, err := l.Inclusion(t.Context(), i, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantLeaf, want, err := plain.Inclusion(t.Context(), i, size)
		if err != nil || leaf != wantLeaf || !slices.Equal(hashes, want) {
			t.Fatal(fmt.Sprintf("the proof of entry %d differs", i), err)
		}
	}
}
