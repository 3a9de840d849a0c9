package prove_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/log/prove"
)

func openNodes(t testing.TB, dir string) *prove.Nodes {
	t.Helper()
	n, err := prove.OpenNodes(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// nodes returns the hashes of one height from number first to end.
func (r *tree) nodes(height int, first, end uint64) []prove.Hash {
	var out []prove.Hash
	for i := first; i < end; i++ {
		out = append(out, prove.Hash(r.hashes[tlog.StoredHashIndex(height, int64(i))]))
	}
	return out
}

// keep gives nodes what the log's writer gives them, in batches of random size.
func (r *tree) keep(n *prove.Nodes, rnd *rand.Rand) {
	for from := uint64(0); from < r.size; {
		to := min(r.size, from+1+rnd.Uint64N(300))
		n.Keep(from, r.nodes(0, from, to), r.nodes(prove.GroupHeight, from/32, to/32))
		from = to
	}
}

// TestNodesSaveReading: a proof in a complete tile reads no leaf when its nodes are kept, and
// the nodes that a proof had to make are kept.
func TestNodesSaveReading(t *testing.T) {
	r := &tree{}
	r.add(t, 70_000)
	fed, empty := openNodes(t, t.TempDir()), openNodes(t, t.TempDir())
	r.keep(fed, rand.New(rand.NewPCG(1, 1)))
	for name, n := range map[string]*prove.Nodes{"fed": fed, "empty": empty} {
		for round := range 2 {
			c := &counted{Source: r}
			p := prove.New(c, 1).WithNodes(n)
			for i := uint64(7); i < 69_888; i += 256 { // 69,888 are complete tiles
				if _, _, err := p.Inclusion(t.Context(), i, r.size); err != nil {
					t.Fatal(err)
				}
			}
			read := c.tiles.Load() > 100 || c.leaves.Load() > 0
			if want := name == "empty" && round == 0; read != want {
				t.Errorf("%s nodes, round %d: %d tiles and %d leaves are read", name, round, c.tiles.Load(), c.leaves.Load())
			}
		}
	}
}

// TestDamagedNodes: whatever the files hold, proofs are the same, and what is asked for is
// right in the files afterwards.
func TestDamagedNodes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const size = 66_000
	r := &tree{}
	r.add(t, size)
	for name, damage := range map[string]func(b []byte) []byte{
		"missing":   func([]byte) []byte { return nil },
		"cut short": func(b []byte) []byte { return b[:len(b)/3+5] },
		"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
		"shifted":   func(b []byte) []byte { return append(make([]byte, 32), b...) },
		"flipped": func(b []byte) []byte {
			for i := 0; i < len(b); i += 512 {
				b[i+rnd.IntN(min(512, len(b)-i))] ^= 1 << rnd.IntN(8)
			}
			return b
		},
	} {
		for _, files := range [][]string{{"leaves"}, {"groups"}, {"leaves", "groups"}} {
			if testing.Short() && len(files) == 1 {
				continue
			}
			t.Run(fmt.Sprint(name, files), func(t *testing.T) {
				dir := t.TempDir()
				n := openNodes(t, dir)
				r.keep(n, rnd)
				truth := map[string][]byte{}
				for _, f := range []string{"leaves", "groups"} {
					b, err := os.ReadFile(filepath.Join(dir, f))
					if err != nil {
						t.Fatal(err)
					}
					truth[f] = b
				}
				for _, f := range files {
					if err := os.WriteFile(filepath.Join(dir, f), damage(bytes.Clone(truth[f])), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				p := prove.New(r, 1).WithNodes(n)
				checkSize(t, p, r, size, 501)
				checkSize(t, p, r, size-1000, 5001)
				// Every group of the complete tiles that are not recent, which stay in memory.
				const asked = size - 1<<15 - 256
				for i := uint64(31); i < asked; i += 32 {
					if _, _, err := p.Inclusion(t.Context(), i, size); err != nil {
						t.Fatal(err)
					}
				}
				for f, want := range truth {
					got, err := os.ReadFile(filepath.Join(dir, f))
					if err != nil {
						t.Fatal(err)
					}
					end := asked / 256 * 256 * 32
					if f == "groups" {
						end /= 32
					}
					if len(got) < end || !bytes.Equal(got[:end], want[:end]) {
						t.Errorf("%s were not repaired", f)
					}
				}
			})
		}
	}
}

// TestNodesOfAnotherTree: the store was brought back from a backup and has grown otherwise.
func TestNodesOfAnotherTree(t *testing.T) {
	r, other := &tree{}, &tree{}
	r.add(t, 2000)
	other.add(t, 900)
	for range 1500 {
		hs, err := tlog.StoredHashes(int64(other.size), fmt.Appendf(nil, "other leaf %d", other.size), other)
		if err != nil {
			t.Fatal(err)
		}
		other.hashes = append(other.hashes, hs...)
		other.size++
	}
	n := openNodes(t, t.TempDir())
	other.keep(n, rand.New(rand.NewPCG(1, 1)))
	checkSize(t, prove.New(r, 1).WithNodes(n), r, 2000, 3)
}

// TestNodesFail: files that can be neither read nor written cost time and one message.
func TestNodesFail(t *testing.T) {
	var log bytes.Buffer
	n, err := prove.OpenNodes(t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	r := &tree{}
	r.add(t, 66_000)
	checkSize(t, prove.New(r, 1).WithNodes(n), r, r.size, 1001)
	n.Keep(0, r.nodes(0, 0, 64), nil)
	if got := strings.Count(log.String(), "file="); got != 2 { // one of each file
		t.Errorf("%d messages:\n%s", got, log.String())
	}
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := prove.OpenNodes(dir, nil); err == nil {
		t.Error("a file was opened as a directory")
	}
}
