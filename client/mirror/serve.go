package mirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/tile"
)

// Caching of the tile API, as the log itself has it: a checkpoint is news for as long as
// the next one takes; a tile never changes.
const (
	cacheCheckpoint = "max-age=1"
	cacheTile       = "public, max-age=31536000, immutable"
)

// handler serves a copy as C2SP tlog-tiles: GET /checkpoint and /tile/…. Nothing else of
// the directory can be reached.
func handler(current func() *Copy) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, r *http.Request) {
		c := current()
		if c == nil {
			http.Error(w, "nothing is copied yet", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", cacheCheckpoint)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.note))
	})
	mux.HandleFunc("GET /tile/", func(w http.ResponseWriter, r *http.Request) {
		serveTile(w, r, current())
	})
	return mux
}

// serveTile serves a tile or a bundle of leaves, as wide as it is in the copy or less wide.
// A tile has one path only, and one that still grows never stands at the path of a full one.
func serveTile(w http.ResponseWriter, r *http.Request, c *Copy) {
	ref, err := tile.ParsePath(strings.TrimPrefix(r.URL.EscapedPath(), "/"))
	if err != nil {
		http.Error(w, "no tile has this path; see c2sp.org/tlog-tiles", http.StatusNotFound)
		return
	}
	if c == nil || tile.WidthAt(ref.Level, ref.Index, c.cp.Size) < ref.Width {
		http.Error(w, "the copy has no such tile yet", http.StatusNotFound)
		return
	}
	b, err := c.render(r.Context(), ref)
	if err != nil {
		http.Error(w, "the copy cannot be read; fsck says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", cacheTile)
	h.Set("X-Content-Type-Options", "nosniff")
	if ref.Entries {
		h.Set("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			serveGzip(w, b)
			return
		}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// render cuts a tile or a bundle from the one that the copy has on the disk.
func (c *Copy) render(ctx context.Context, ref tile.Ref) ([]byte, error) {
	width := tile.WidthAt(ref.Level, ref.Index, c.cp.Size)
	if !ref.Entries {
		b, err := c.files.Tile(ctx, ref.Level, ref.Index, width)
		if err != nil {
			return nil, err
		}
		return b[:ref.Width*len(tiles.Hash{})], nil
	}
	entries, err := c.files.Entries(ctx, ref.Index, width)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, e := range entries[:ref.Width] {
		b = tiles.AppendEntry(b, e)
	}
	return b, nil
}

// acceptsGzip says whether a client takes gzip, and asks for all of the bundle: ranges
// are of the bytes themselves.
func acceptsGzip(r *http.Request) bool {
	if r.Header.Get("Range") != "" {
		return false
	}
	for _, v := range r.Header.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(v, ",") {
			name, q, _ := strings.Cut(strings.TrimSpace(coding), ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.TrimSpace(q) != "q=0" {
				return true
			}
		}
	}
	return false
}

func serveGzip(w http.ResponseWriter, b []byte) {
	var z bytes.Buffer
	gz := gzip.NewWriter(&z)
	// Writing to memory does not fail.
	_, err := gz.Write(b)
	if err := errors.Join(err, gz.Close()); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	_, _ = w.Write(z.Bytes()) // the client may have gone
}
