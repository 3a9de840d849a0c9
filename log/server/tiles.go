package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/tile"
)

// Caching of the tile API. A checkpoint is news for as long as the next one takes; a tile
// never changes.
const (
	cacheCheckpoint = "max-age=1"
	cacheTile       = "public, max-age=31536000, immutable"
)

// checkpoint serves GET /checkpoint (C2SP tlog-tiles).
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	pub := s.log.Published()
	if pub.Note == nil {
		http.Error(w, "nothing is published yet", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", cacheCheckpoint)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(pub.Note))
}

// tile serves GET /tile/… (C2SP tlog-tiles): tiles and bundles of leaves, as wide as they
// are in the published tree or less wide, rendered from the store. What is not published
// does not exist. A tile has one path only, so that no cache holds it twice, and a tile
// that still grows never stands at the path of a full one.
func (s *Server) tile(w http.ResponseWriter, r *http.Request) {
	ref, err := tile.ParsePath(strings.TrimPrefix(r.URL.EscapedPath(), "/"))
	if err != nil {
		http.Error(w, "no tile has this path; see c2sp.org/tlog-tiles", http.StatusNotFound)
		return
	}
	if tile.WidthAt(ref.Level, ref.Index, s.log.Published().Size) < ref.Width {
		http.Error(w, "the published tree has no such tile yet", http.StatusNotFound)
		return
	}
	b, err := s.render(r.Context(), ref)
	if err != nil {
		s.logger.ErrorContext(r.Context(), "tile cannot be served", slog.String("path", ref.Path()), slog.Any("error", err))
		http.Error(w, "internal error; the server's log has it", http.StatusInternalServerError)
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

// render makes the bytes of a tile or of an entry bundle.
func (s *Server) render(ctx context.Context, ref tile.Ref) ([]byte, error) {
	if !ref.Entries {
		return s.log.Tile(ctx, ref.Level, ref.Index, ref.Width)
	}
	start := ref.Index * tile.Width
	var b []byte
	err := s.log.Leaves(ctx, start, start+uint64(ref.Width), func(_ uint64, leaf []byte) error {
		b = binary.BigEndian.AppendUint16(b, uint16(len(leaf)))
		b = append(b, leaf...)
		return nil
	})
	return b, err
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
