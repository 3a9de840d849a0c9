package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestProfiles: only this user may open the socket, it gives out profiles and nothing else
// of package pprof, and it is gone after the stop.
func TestProfiles(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "p")
	stop, err := profiles(socket)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, want 0600", info.Mode().Perm())
	}
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	get := func(path string) (int, []byte) {
		t.Helper()
		res, err := c.Get("http://profiles/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b
	}
	for _, path := range []string{"allocs", "goroutine", "heap", "profile?seconds=1"} {
		// A profile is compressed.
		if status, b := get(path); status != http.StatusOK || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			t.Errorf("%s: status %d, %.60q", path, status, b)
		}
	}
	for _, path := range []string{"cmdline", "debug/pprof/cmdline", ""} {
		if status, _ := get(path); status != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, status)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
