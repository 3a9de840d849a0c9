package server_test

import (
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/tile"
)

// web serves the fixture's HTTP side.
func (f *fixture) web(t *testing.T) *httptest.Server {
	t.Helper()
	w := httptest.NewServer(f.srv.HTTP(prometheus.NewRegistry()))
	t.Cleanup(w.Close)
	return w
}

// grow appends events until the log has size entries, and publishes them.
func (f *fixture) grow(t *testing.T, size uint64) {
	t.Helper()
	var events []log.Event
	for n := f.log.DurableSize(); n < size; n++ {
		events = append(events, logtest.Prepare(t, logtest.Event(int(n), "k")))
		if len(events) == log.MaxEvents || n == size-1 {
			if _, err := f.log.Append(t.Context(), "", events); err != nil {
				t.Fatal(err)
			}
			events = nil
		}
	}
	if _, err := f.log.WaitPublished(t.Context(), size-1); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

// tileReader reads tiles over HTTP for x/mod/sumdb/tlog.
type tileReader struct {
	t   *testing.T
	url string
}

func (r tileReader) Height() int { return 8 }

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, x := range tiles {
		res, b := get(r.t, r.url+"/"+tile.Path(uint8(x.L), uint64(x.N), x.W))
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%v: %s", x, res.Status)
		}
		out = append(out, b)
	}
	return out, nil
}

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// TestTilesSatisfySumDB reads checkpoints, leaves and tiles as a client of x/mod/sumdb
// does, at sizes around every border, and verifies all of it against the root.
func TestTilesSatisfySumDB(t *testing.T) {
	f := start(t, options{})
	w := f.web(t)
	for _, size := range []uint64{1, 2, 255, 256, 257, 300, 511, 512, 513, 1000} {
		f.grow(t, size)
		res, note := get(t, w.URL+"/checkpoint")
		if ct := res.Header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
			t.Errorf("checkpoint is %q", ct)
		}
		cp, _, err := checkpoint.ParseNote(note)
		if err != nil || cp.Size != size {
			t.Fatalf("checkpoint: %+v, %v", cp, err)
		}
		tree := tlog.Tree{N: int64(size), Hash: tlog.Hash(cp.Root)}
		hr := tlog.TileHashReader(tree, tileReader{t, w.URL})
		for i, leaf := range readLeaves(t, w.URL, size) {
			if i%37 != 0 && uint64(i) != size-1 {
				continue
			}
			proof, err := tlog.ProveRecord(tree.N, int64(i), hr)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(i), tlog.RecordHash(leaf)); err != nil {
				t.Errorf("size %d: leaf %d: %v", size, i, err)
			}
		}
	}
}

func readLeaves(t *testing.T, url string, size uint64) [][]byte {
	t.Helper()
	var leaves [][]byte
	for n := uint64(0); n*256 < size; n++ {
		width := int(min(256, size-n*256))
		res, b := get(t, url+"/"+tile.EntriesPath(n, width))
		if res.StatusCode != http.StatusOK {
			t.Fatalf("bundle %d.p/%d: %s", n, width, res.Status)
		}
		for len(b) > 0 {
			l := int(binary.BigEndian.Uint16(b))
			leaves = append(leaves, b[2:2+l])
			b = b[2+l:]
		}
	}
	if uint64(len(leaves)) != size {
		t.Fatalf("%d leaves, want %d", len(leaves), size)
	}
	return leaves
}

// TestTilePaths holds what exists and what does not: a tile that still grows is never at a
// full path, and nothing unpublished is anywhere.
func TestTilePaths(t *testing.T) {
	f := start(t, options{})
	w := f.web(t)
	f.grow(t, 300)
	for path, want := range map[string]int{
		"tile/0/000": 200, "tile/0/000.p/255": 200, "tile/0/001.p/44": 200, "tile/0/001.p/1": 200,
		"tile/1/000.p/1": 200, "tile/entries/000": 200, "tile/entries/001.p/44": 200,
		"tile/0/001": 404, "tile/0/001.p/45": 404, "tile/1/000": 404, "tile/1/000.p/2": 404, "tile/2/000.p/1": 404,
		"tile/0/002.p/1": 404, "tile/entries/001": 404, "tile/entries/001.p/45": 404,
		"tile/0/0": 404, "tile/0/000.p/0": 404, "tile/0/000.p/256": 404, "tile/00/000": 404, "tile/0/x000/000": 404,
		"tile/64/000": 404, "tile/": 404, "tile/0/000?x": 200, "tile/0%2F000": 404, "tile/-1/000": 404,
	} {
		res, b := get(t, w.URL+"/"+path)
		if res.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
			continue
		}
		immutable := strings.Contains(res.Header.Get("Cache-Control"), "immutable")
		if immutable != (want == 200) {
			t.Errorf("%s: Cache-Control %q with status %d", path, res.Header.Get("Cache-Control"), want)
		}
		if strings.HasPrefix(path, "tile/0/000?") && len(b) != 8192 {
			t.Errorf("%s: %d bytes", path, len(b))
		}
	}
}

func TestTileRangesAndGzip(t *testing.T) {
	f := start(t, options{})
	w := f.web(t)
	f.grow(t, 256)
	_, whole := get(t, w.URL+"/tile/entries/000")
	res, part := get(t, w.URL+"/tile/entries/000", "Range", "bytes=35-69", "Accept-Encoding", "gzip")
	if res.StatusCode != http.StatusPartialContent || string(part) != string(whole[35:70]) {
		t.Errorf("range: %s, %d bytes", res.Status, len(part))
	}
	res, packed := get(t, w.URL+"/tile/entries/000", "Accept-Encoding", "br, gzip")
	if res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("gzip: %v", res.Header)
	}
	z, err := gzip.NewReader(strings.NewReader(string(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != string(whole) {
		t.Errorf("gzip gives %d bytes, %v; want %d", len(b), err, len(whole))
	}
	if res, _ := get(t, w.URL+"/tile/entries/000", "Accept-Encoding", "gzip;q=0"); res.Header.Get("Content-Encoding") != "" {
		t.Error("gzip although the client refuses it")
	}
	if res, _ := get(t, w.URL+"/checkpoint"); res.Header.Get("Cache-Control") != "max-age=1" {
		t.Errorf("checkpoint: %v", res.Header)
	}
}
