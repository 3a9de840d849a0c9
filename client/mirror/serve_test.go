package mirror_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/tile"
)

// withWitness demands the cosignature of a witness that never cosigns.
func withWitness(t *testing.T, p *policy.Policy) *policy.Policy {
	t.Helper()
	k, err := checkpoint.GenerateEd25519Cosigner("witness.test", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.Witnesses = []policy.Witness{{Name: "w", Key: k.VerifierKey()}}
	p.Quorum = "w"
	return p
}

func status(t *testing.T, method, url string) int {
	t.Helper()
	res, _ := do(t, method, url)
	return res.StatusCode
}

// do makes a request with the headers as they are given.
func do(t *testing.T, method, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
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

// TestServe holds the mirror's answers against the log's, for every width that the
// checkpoint implies, also where only a wider tile is on the disk.
func TestServe(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	m := open(t, dir, log)
	url := tilestest.Serve(t, m.Handler())
	for _, size := range []int{1, 44, 256, 300, 600} {
		log.Grow(size)
		sync(t, m)
		if _, b := do(t, http.MethodGet, url+"/checkpoint"); !bytes.Equal(b, log.Note()) {
			t.Errorf("size %d: another checkpoint", size)
		}
		for l := range uint8(2) {
			for i := uint64(0); i < 4; i++ {
				for _, width := range []int{1, 2, 43, 44, 87, 88, 89, 255, 256} {
					checkPath(t, log, url, tile.Path(l, i, width))
					if l == 0 {
						checkPath(t, log, url, tile.EntriesPath(i, width))
					}
				}
			}
		}
	}
	for _, path := range []string{
		"private/payloads/000", "evidence", ".pending", ".lock", "tile/0/../../.lock", "tile/0/000.p/88/..", "tile/entries/000.new",
		"tile/0/0", "tile/0/000.p/0", "tile/0/000.p/256", "tile/00/000", "tile/0/x000/000", "tile/64/000", "tile/", "tile/0%2F000", "",
	} {
		if got := status(t, http.MethodGet, url+"/"+path); got != http.StatusNotFound {
			t.Errorf("%q: status %d", path, got)
		}
	}
}

func checkPath(t *testing.T, log *tilestest.Log, url, path string) {
	t.Helper()
	want := log.Bytes(path)
	res, b := do(t, http.MethodGet, url+"/"+path)
	switch {
	case want == nil && res.StatusCode == http.StatusNotFound:
		if strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: its absence may be cached", path)
		}
	case want == nil, res.StatusCode != http.StatusOK, !bytes.Equal(b, want):
		t.Errorf("%s: %s with %d bytes, want %d", path, res.Status, len(b), len(want))
	case res.Header.Get("Cache-Control") != "public, max-age=31536000, immutable":
		t.Errorf("%s: Cache-Control %q", path, res.Header.Get("Cache-Control"))
	}
}

func TestServeRangesAndGzip(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(256)
	m := open(t, t.TempDir(), log)
	sync(t, m)
	url := tilestest.Serve(t, m.Handler()) + "/tile/entries/000"
	whole := log.Bytes("tile/entries/000")
	res, part := do(t, http.MethodGet, url, "Range", "bytes=35-69", "Accept-Encoding", "gzip")
	if res.StatusCode != http.StatusPartialContent || !bytes.Equal(part, whole[35:70]) {
		t.Errorf("range: %s, %d bytes", res.Status, len(part))
	}
	res, packed := do(t, http.MethodGet, url, "Accept-Encoding", "br, gzip")
	if res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("gzip: %v", res.Header)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("gzip gives %d bytes, %v", len(b), err)
	}
}

// TestMirrorOfMirror copies a copy.
func TestMirrorOfMirror(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(700)
	first := open(t, t.TempDir(), log)
	sync(t, first)
	dir := t.TempDir()
	second := openAs(t, dir, tilestest.Serve(t, first.Handler()), log.Policy())
	log.Grow(900)
	sync(t, second)
	checkCopy(t, dir, log, 700)
	sync(t, first)
	sync(t, second)
	checkCopy(t, dir, log, 900)
}

func TestHandlerIsReadOnly(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(300)
	m := open(t, dir, log)
	url := tilestest.Serve(t, m.Handler())
	if status(t, http.MethodGet, url+"/checkpoint") != http.StatusNotFound {
		t.Error("a checkpoint of nothing")
	}
	sync(t, m)
	for _, path := range []string{"/checkpoint", "/tile/0/000"} {
		if got := status(t, http.MethodPost, url+path); got != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, got)
		}
	}
}
