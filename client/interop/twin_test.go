package interop_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

// wantObjections serves a log of 70,000 entries through a proxy that changes one byte of
// one answer. The readers must object, or their praise would mean nothing.
func wantObjections(t *testing.T, l *logProcess) {
	for _, lie := range []struct {
		name, path string
		offset     int  // of the byte; the checkpoint's is found
		unread     bool // by torchwood's client, which needs no node above what it reads
	}{
		{name: "none"},
		{name: "entry", path: "/tile/entries/007", offset: 5000},
		{name: "entry of the last bundle", path: "/tile/entries/273.p/112", offset: 40},
		{name: "leaf hash", path: "/tile/0/100", offset: 8191},
		{name: "leaf hash of the last tile", path: "/tile/0/273.p/112", offset: 0},
		{name: "node", path: "/tile/1/000", offset: 77},
		{name: "node of the last tile", path: "/tile/1/001.p/17", offset: 543},
		{name: "root's child", path: "/tile/2/000.p/1", offset: 31},
		{name: "checkpoint", path: "/checkpoint", unread: true},
	} {
		t.Run(lie.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			twin := newTwin(t, l.url, lie.path, lie.offset)
			err := check(ctx, l.origin, l.ed25519(t), tesseraFetcher(t, twin.URL))
			if (err != nil) != (lie.path != "") || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Tessera's fsck says: %v", err)
			}
			entries, err := readAll(ctx, t, l, twin.URL)
			if good := lie.path == "" || lie.unread; good != (err == nil) || good != (entries == 70000) {
				t.Errorf("torchwood's client: %d entries, %v", entries, err)
			}
		})
	}
}

// readAll reads the log's entries with torchwood's client.
func readAll(ctx context.Context, t *testing.T, l *logProcess, base string) (int, error) {
	t.Helper()
	raw, err := get(ctx, l.url+"/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(raw, note.VerifierList(l.ed25519(t)))
	if err != nil {
		t.Fatal(err)
	}
	cp, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	c := torchwoodClient(t, base)
	entries := 0
	for range c.AllEntries(ctx, cp.Tree, 0) {
		entries++
	}
	return entries, c.Err()
}

// newTwin serves what base serves but for one byte at a path.
func newTwin(t *testing.T, base, path string, offset int) *httptest.Server {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	lied := false
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path != path || r.StatusCode != http.StatusOK {
				return nil
			}
			b, err := drain(r.Body)
			if err != nil {
				return err
			}
			if path == "/checkpoint" {
				// The first character of the root hash.
				offset = bytes.IndexByte(b, '\n') + 1
				offset += bytes.IndexByte(b[offset:], '\n') + 1
			}
			if offset >= len(b) {
				return errors.New("the lie is beyond the end")
			}
			b[offset] ^= 1
			lied = true
			r.Body = io.NopCloser(bytes.NewReader(b))
			r.Header.Set("Content-Length", strconv.Itoa(len(b)))
			return nil
		},
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(func() {
		s.Close()
		if path != "" && !lied {
			t.Errorf("nobody asked for %s", path)
		}
	})
	return s
}
