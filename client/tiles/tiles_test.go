package tiles_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
)

// open serves a handler and opens a log there.
func open(t *testing.T, h http.Handler) *tiles.Log {
	t.Helper()
	l, err := tiles.Open(tilestest.Serve(t, h), tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func answer(fn func(w http.ResponseWriter, r *http.Request)) http.Handler {
	return http.HandlerFunc(fn)
}

func TestFailuresThatPass(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	log.Grow(300)
	var n atomic.Int64
	l := open(t, answer(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			http.Error(w, "", http.StatusInternalServerError)
		case 2:
			http.Error(w, "", http.StatusServiceUnavailable)
		case 3: // half an answer, and the connection is gone
			w.Header().Set("Content-Length", "8192")
			_, _ = w.Write(make([]byte, 100))
		default:
			log.ServeHTTP(w, r)
		}
	}))
	b, err := l.Tile(t.Context(), 0, 0, 256)
	if err != nil || !bytes.Equal(b, log.Bytes("tile/0/000")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if n.Load() != 4 {
		t.Errorf("%d requests, want 4", n.Load())
	}
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	log := tilestest.New(t)
	var n atomic.Int64
	l := open(t, answer(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "", http.StatusTooManyRequests)
			return
		}
		log.ServeHTTP(w, r)
	}))
	begin := time.Now()
	if _, err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < time.Second {
		t.Errorf("asked again after %v; the server wants 1 s", d)
	}
}

func TestFailuresThatStay(t *testing.T) {
	for _, c := range []struct {
		status int
		asked  int64
	}{
		{http.StatusForbidden, 1}, {http.StatusNoContent, 1}, {http.StatusPartialContent, 1}, {http.StatusNotFound, 1},
	} {
		var n atomic.Int64
		l := open(t, answer(func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.WriteHeader(c.status)
		}))
		_, err := l.Tile(t.Context(), 0, 0, 256)
		if err == nil || n.Load() != c.asked {
			t.Errorf("status %d: %v after %d requests", c.status, err, n.Load())
		}
		if got := errors.Is(err, fs.ErrNotExist); got != (c.status == http.StatusNotFound) {
			t.Errorf("status %d: %v; is not there: %v", c.status, err, got)
		}
	}
}

// TestServerThatIsGone holds that asking ends, and when the caller wants it.
func TestServerThatIsGone(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	l := open(t, answer(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		http.Error(w, "", http.StatusBadGateway)
	}))
	if _, err := l.Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "502 (tried 5 times)") {
		t.Error(err)
	}
	if n.Load() != 5 {
		t.Errorf("asked %d times, want 5", n.Load())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	cancel(stop)
	if _, err := l.Checkpoint(ctx); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// TestSlowAnswer has a server that sends one byte now and then and never ends.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	url := tilestest.Serve(t, answer(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte{1})
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Millisecond)
		}
	}))
	l, err := tiles.Open(url, tiles.Options{Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "no whole answer within 20ms") {
		t.Error(err)
	}
}

func TestRedirects(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(3)
	elsewhere := tilestest.Serve(t, log)
	l := open(t, answer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusFound)
	}))
	if _, err := l.Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "redirect not followed: to another host") {
		t.Errorf("followed to another host: %v", err)
	}
	if got := log.Asked(); len(got) != 0 {
		t.Errorf("the other host was asked for %v", got)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/old/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.TrimPrefix(r.URL.Path, "/old"), http.StatusMovedPermanently)
	})
	mux.Handle("/", log)
	l, err := tiles.Open(tilestest.Serve(t, mux)+"/old/", tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := l.Checkpoint(t.Context()); err != nil || !bytes.Equal(b, log.Note()) {
		t.Errorf("within the host: %v", err)
	}
	l = open(t, answer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
	}))
	if _, err := l.Checkpoint(t.Context()); err == nil {
		t.Error("a redirect without end was followed")
	}
}

// TestPartialGone takes the full tile where a log has removed a partial one.
func TestPartialGone(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(300)
	log.Lie(func(path string, b []byte) []byte {
		if strings.Contains(path, ".p/") {
			return nil
		}
		return b
	})
	l := open(t, log)
	b, err := l.Tile(t.Context(), 0, 0, 44)
	if err != nil || !bytes.Equal(b, log.Bytes("tile/0/000.p/44")) {
		t.Errorf("tile: %d bytes, %v", len(b), err)
	}
	entries, err := l.Entries(t.Context(), 0, 44)
	if err != nil || len(entries) != 44 || !bytes.Equal(entries[43], tilestest.Leaf("main", 43)) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if _, err := l.Tile(t.Context(), 0, 1, 44); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tile/0/001.p/44") {
		t.Errorf("neither the partial nor the full tile: %v", err)
	}
}

func packed(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b) // to memory
	_ = w.Close()
	return z.Bytes()
}

func TestPacked(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(256)
	var send []byte
	coding := "gzip"
	l := open(t, answer(func(w http.ResponseWriter, r *http.Request) {
		want := "identity"
		if strings.HasPrefix(r.URL.Path, "/tile/entries") {
			want = "gzip"
		}
		if got := r.Header.Get("Accept-Encoding"); got != want {
			t.Errorf("%s: Accept-Encoding %q, want %q", r.URL.Path, got, want)
		}
		w.Header().Set("Content-Encoding", coding)
		_, _ = w.Write(send)
	}))
	whole := log.Bytes("tile/entries/000")
	send = packed(whole)
	entries, err := l.Entries(t.Context(), 0, 256)
	if err != nil || len(entries) != 256 || !bytes.Equal(entries[255], tilestest.Leaf("main", 255)) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	send = packed(log.Bytes("tile/0/000")) // not asked for, and allowed
	if b, err := l.Tile(t.Context(), 0, 0, 256); err != nil || !bytes.Equal(b, log.Bytes("tile/0/000")) {
		t.Errorf("tile: %v", err)
	}
	z := packed(whole)
	for name, bad := range map[string][]byte{
		"cut":       z[:len(z)-9],
		"flipped":   append(append(bytes.Clone(z[:60]), z[60]^1), z[61:]...),
		"more":      append(bytes.Clone(z), 'x'),
		"no gzip":   whole,
		"a bomb":    packed(make([]byte, 20<<20)),
		"two files": append(bytes.Clone(z), packed([]byte{0, 0})...),
		"nothing":   {},
	} {
		send = bad
		if _, err := l.Entries(t.Context(), 0, 256); !errors.Is(err, tiles.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	coding, send = "br", whole
	if _, err := l.Entries(t.Context(), 0, 256); !errors.Is(err, tiles.ErrMalformed) {
		t.Errorf("unknown coding: %v", err)
	}
}

// TestSizes refuses answers that are too short or too long, as soon as that shows.
func TestSizes(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(300)
	var change func([]byte) []byte
	log.Lie(func(_ string, b []byte) []byte {
		if b == nil {
			return nil
		}
		return change(b)
	})
	l := open(t, log)
	for name, fn := range map[string]func([]byte) []byte{
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"long":    func(b []byte) []byte { return append(b, 0) },
		"empty":   func([]byte) []byte { return []byte{} },
		"no tile": func([]byte) []byte { return []byte("<html>please log in</html>") },
		"huge":    func([]byte) []byte { return make([]byte, 17<<20) },
	} {
		change = fn
		for _, width := range []int{256, 7} {
			if _, err := l.Tile(t.Context(), 0, 0, width); !errors.Is(err, tiles.ErrMalformed) {
				t.Errorf("%s: tile of %d: %v, want ErrMalformed", name, width, err)
			}
			if _, err := l.Entries(t.Context(), 0, width); !errors.Is(err, tiles.ErrMalformed) {
				t.Errorf("%s: bundle of %d: %v, want ErrMalformed", name, width, err)
			}
		}
		if _, err := l.Checkpoint(t.Context()); name == "huge" && !errors.Is(err, tiles.ErrMalformed) {
			t.Errorf("%s: checkpoint: %v, want ErrMalformed", name, err)
		}
	}
}

func TestOpen(t *testing.T) {
	for _, from := range []string{
		"ftp://log.example/", "http://", "https:///log", "http://log.example/?x", "http://log.example/#x",
		"http://log.example:port/", "file://elsewhere/log", "/no/such/directory", "", "tiles.go", "file:///no/such/directory",
	} {
		if l, err := tiles.Open(from, tiles.Options{}); err == nil {
			t.Errorf("%q was opened as %v", from, l)
		}
	}
	l, err := tiles.Open("https://user:secret@log.example/prefix/", tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(l.String(), "secret") {
		t.Errorf("%v shows the password", l)
	}
	if _, err := tiles.Open("https://user:secret@log.example:x/", tiles.Options{}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v; it must not show the password", err)
	}
}

// TestDirectory reads the same log from files.
func TestDirectory(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(600)
	dir := t.TempDir()
	paths := []string{"checkpoint", "tile/1/000.p/2", "tile/0/002.p/88", "tile/entries/002.p/88"}
	for i := range 2 {
		paths = append(paths, fmt.Sprintf("tile/0/%03d", i), fmt.Sprintf("tile/entries/%03d", i))
	}
	for _, p := range paths {
		name := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, log.Bytes(p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{dir, "file://" + dir} {
		l, err := tiles.Open(from, tiles.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := l.Checkpoint(t.Context()); err != nil || !bytes.Equal(b, log.Note()) {
			t.Errorf("checkpoint: %v", err)
		}
		checkTree(t, log, l, 600)
		if _, err := l.Tile(t.Context(), 0, 3, 256); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a tile that is not there: %v", err)
		}
	}
}

func FuzzParseEntries(f *testing.F) {
	f.Add([]byte{0, 1, 7, 0, 0}, 2)
	f.Add([]byte{0, 2, 7}, 1)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		if width < 1 || width > 256 {
			return
		}
		entries, err := tiles.ParseEntries(b, width)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = tiles.AppendEntry(again, e)
		}
		if len(entries) != width || !bytes.Equal(again, b) {
			t.Errorf("%d entries; written again %x, want %x", len(entries), again, b)
		}
	})
}
