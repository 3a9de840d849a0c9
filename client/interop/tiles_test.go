package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/torchwood"
	formats "github.com/transparency-dev/formats/log"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// sizes are those at which something about tiles changes, and some between.
var sizes = []uint64{1, 2, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, 70000}

// TestTiles grows a log through sizes and has each judged by Tessera's fsck, Tessera's
// client, x/mod's sumdb/tlog and torchwood's client over the tile API. All must accept the
// log, and make the proofs that our gRPC service makes.
func TestTiles(t *testing.T) {
	t.Parallel()
	l := newLog(t, "interop.test/tiles")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	tf := tesseraFetcher(t, l.url)
	mirror := filepath.Join(t.TempDir(), "mirror")
	var tracker *client.LogStateTracker
	var trees []tlog.Tree
	for _, size := range sizes {
		l.grow(t, size)
		cp := published(ctx, t, l, l.ed25519(t))
		if again := published(ctx, t, l, l.mldsa(t)); cp.Size != size || again.Size != size {
			t.Fatalf("the log publishes %d, and %d to its other key; want %d", cp.Size, again.Size, size)
		}
		trees = append(trees, tlog.Tree{N: int64(size), Hash: tlog.Hash(cp.Hash)})
		if err := check(ctx, l.origin, l.ed25519(t), tf); err != nil {
			t.Errorf("size %d: Tessera's fsck: %v", size, err)
		}
		tracker = track(ctx, t, l, tracker)
		wantSameEntries(ctx, t, l, trees[len(trees)-1])
		if size == 257 || size == 1000 || size == 70000 {
			wantMirrored(ctx, t, l, mirror, trees[len(trees)-1])
		}
	}
	if err := check(ctx, l.origin, l.mldsa(t), tf); err != nil {
		t.Errorf("Tessera's fsck with the ML-DSA-44 key: %v", err)
	}
	// Now every earlier size is read from a log that has grown past it.
	for _, tree := range trees {
		wantSameProofs(ctx, t, l, tree, trees)
	}
	t.Run("lies", func(t *testing.T) { wantObjections(t, l) })
}

// wantMirrored has our mirror copy the log, and the copy read from its files by Tessera's
// fsck and torchwood's client.
func wantMirrored(ctx context.Context, t *testing.T, l *logProcess, dir string, tree tlog.Tree) {
	t.Helper()
	run(t, "keytrail", "mirror", "--url", l.url, "--dir", dir, "--policy", filepath.Join(l.dir, "policy"))
	if err := check(ctx, l.origin, l.ed25519(t), client.FileFetcher{Root: dir}); err != nil {
		t.Errorf("size %d: Tessera's fsck of the mirror: %v", tree.N, err)
	}
	files, err := torchwood.NewTileFS(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(files, torchwood.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for range c.AllEntries(ctx, tree, 0) {
		n++
	}
	if err := c.Err(); err != nil || n != tree.N {
		t.Errorf("size %d: torchwood reads %d entries from the mirror: %v", tree.N, n, err)
	}
}

// published reads the checkpoint over HTTP and verifies it with formats.
func published(ctx context.Context, t *testing.T, l *logProcess, v note.Verifier) *formats.Checkpoint {
	t.Helper()
	raw, err := tesseraFetcher(t, l.url).ReadCheckpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cp, _, _, err := formats.ParseCheckpoint(raw, l.origin, v)
	if err != nil {
		t.Fatalf("formats refuses the checkpoint: %v\n%s", err, raw)
	}
	return cp
}

// check runs Tessera's fsck, which derives every tile and the root from the entries.
//
// A worker of fsck v1.0.4 ends at the first bad tile that it meets, and Check waits for
// ever once all have ended: there must be more workers than a test has bad tiles.
func check(ctx context.Context, origin string, v note.Verifier, f fsck.Fetcher) error {
	hash := func(bundle []byte) ([][]byte, error) {
		entries, err := split(bundle)
		var hashes [][]byte
		for _, e := range entries {
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return hashes, err
	}
	done := make(chan error, 1)
	go func() { done <- fsck.New(origin, v, f, hash, fsck.Opts{N: 8}).Check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("fsck does not end: %w", ctx.Err())
	}
}

// split takes an entry bundle apart with Tessera's code.
func split(bundle []byte) ([][]byte, error) {
	var b api.EntryBundle
	err := b.UnmarshalText(bundle)
	return b.Entries, err
}

// track brings Tessera's tracker to the log's size; it proves consistency on the way.
func track(ctx context.Context, t *testing.T, l *logProcess, lst *client.LogStateTracker) *client.LogStateTracker {
	t.Helper()
	f := tesseraFetcher(t, l.url)
	if lst == nil {
		v := l.ed25519(t)
		lst, err := client.NewLogStateTracker(ctx, f.ReadTile, nil, v, l.origin, client.UnilateralConsensus(f.ReadCheckpoint))
		if err != nil {
			t.Fatalf("Tessera's tracker: %v", err)
		}
		return lst
	}
	was := lst.Latest().Size
	if _, _, _, err := lst.Update(ctx); err != nil {
		t.Fatalf("Tessera's tracker: %v", err)
	}
	if now := lst.Latest().Size; now != l.size || now <= was {
		t.Errorf("Tessera's tracker went from %d to %d; the log is at %d", was, now, l.size)
	}
	return lst
}

// wantSameEntries reads all entries with Tessera's and torchwood's clients, which must find
// the same, and as many as the tree has.
func wantSameEntries(ctx context.Context, t *testing.T, l *logProcess, tree tlog.Tree) {
	t.Helper()
	f := tesseraFetcher(t, l.url)
	size := func(context.Context) (uint64, error) { return uint64(tree.N), nil }
	var theirs [][]byte
	for e, err := range client.Entries(client.EntryBundles(ctx, 2, size, f.ReadEntryBundle, 0, uint64(tree.N)), split) {
		if err != nil {
			t.Fatalf("Tessera's client: %v", err)
		}
		theirs = append(theirs, e.Entry)
	}
	c := torchwoodClient(t, l.url)
	n := 0
	for i, entry := range c.AllEntries(ctx, tree, 0) {
		if i != int64(n) || n >= len(theirs) || !bytes.Equal(entry, theirs[n]) {
			t.Fatalf("torchwood's client finds another entry %d than Tessera's", i)
		}
		n++
	}
	if err := c.Err(); err != nil {
		t.Fatalf("torchwood's client: %v", err)
	}
	if int64(n) != tree.N || len(theirs) != n {
		t.Errorf("torchwood's client finds %d entries and Tessera's %d, want %d", n, len(theirs), tree.N)
	}
}

func torchwoodClient(t *testing.T, base string) *torchwood.Client {
	t.Helper()
	f, err := torchwood.NewTileFetcher(base, torchwood.WithConcurrencyLimit(8))
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(f, torchwood.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantSameProofs compares the proofs in a tree and between it and earlier ones.
func wantSameProofs(ctx context.Context, t *testing.T, l *logProcess, tree tlog.Tree, trees []tlog.Tree) {
	t.Helper()
	size := uint64(tree.N)
	builder, err := client.NewProofBuilder(ctx, size, tesseraFetcher(t, l.url).ReadTile)
	if err != nil {
		t.Fatalf("size %d: Tessera's proof builder: %v", size, err)
	}
	reader := tlog.TileHashReader(tree, tileReader{ctx, l.url})
	tw := torchwoodClient(t, l.url)
	for _, i := range indexes(size) {
		leaf, ours := l.inclusion(t, i, size)
		theirs, err := builder.InclusionProof(ctx, i)
		wantSame(t, fmt.Sprintf("Tessera: inclusion of %d in %d", i, size), ours, theirs, err)
		record, err := tlog.ProveRecord(tree.N, int64(i), reader)
		wantSame(t, fmt.Sprintf("x/mod: inclusion of %d in %d", i, size), ours, hashes(record), err)
		if err := tlog.CheckRecord(record, tree.N, tree.Hash, int64(i), tlog.Hash(leaf)); err != nil {
			t.Errorf("x/mod: record %d in %d: %v", i, size, err)
		}
		if err := merkle.VerifyInclusion(rfc6962.DefaultHasher, i, size, leaf[:], ours, tree.Hash[:]); err != nil {
			t.Errorf("merkle: record %d in %d: %v", i, size, err)
		}
		entry, record, err := tw.Entry(ctx, tree, int64(i))
		wantSame(t, fmt.Sprintf("torchwood: inclusion of %d in %d", i, size), ours, hashes(record), err)
		if tlog.RecordHash(entry) != tlog.Hash(leaf) {
			t.Errorf("torchwood: entry %d does not hash to our leaf", i)
		}
	}
	for _, old := range trees {
		if old.N >= tree.N {
			break
		}
		from := uint64(old.N)
		ours := l.consistency(t, from, size)
		theirs, err := builder.ConsistencyProof(ctx, from, size)
		wantSame(t, fmt.Sprintf("Tessera: from %d to %d", from, size), ours, theirs, err)
		proof, err := tlog.ProveTree(tree.N, old.N, reader)
		wantSame(t, fmt.Sprintf("x/mod: from %d to %d", from, size), ours, hashes(proof), err)
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			t.Errorf("x/mod: from %d to %d: %v", from, size, err)
		}
		if err := merkle.VerifyConsistency(rfc6962.DefaultHasher, from, size, ours, old.Hash[:], tree.Hash[:]); err != nil {
			t.Errorf("merkle: from %d to %d: %v", from, size, err)
		}
	}
}

// indexes are the entries whose proofs are compared.
func indexes(size uint64) []uint64 {
	var is []uint64
	for _, i := range []uint64{0, 1, 254, 255, 256, 511, 65535, 65536, size / 2, size - 1} {
		if i < size {
			is = append(is, i)
		}
	}
	return is
}

func hashes[P ~[]tlog.Hash](p P) [][]byte {
	var b [][]byte
	for _, h := range p {
		b = append(b, h[:])
	}
	return b
}

func wantSame(t *testing.T, what string, ours, theirs [][]byte, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if len(ours) != len(theirs) || !bytes.Equal(bytes.Join(ours, nil), bytes.Join(theirs, nil)) {
		t.Errorf("%s: ours %x, theirs %x", what, ours, theirs)
	}
}

// tileReader reads tiles for x/mod, whose own paths are of another scheme.
type tileReader struct {
	ctx  context.Context
	base string
}

func (r tileReader) Height() int { return 8 }

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		p := layout.TilePath(uint64(tile.L), uint64(tile.N), uint8(tile.W%256))
		b, err := get(r.ctx, r.base+"/"+p)
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// get fetches what must be there.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := drain(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return b, err
}
