// Package tilestest is a log for tests of its readers: it serves tlog-tiles from leaves in
// memory, with golang.org/x/mod/sumdb/tlog, and can be made to lie.
//
// A Log may be used concurrently. Nothing is durable. It is for tests only and shares no
// code with what it tests but the signing of checkpoints and the names of tiles.
package tilestest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/tile"
)

// Origin names the logs of this package.
const Origin = "tiles.test/log"

// Log is a log in memory.
type Log struct {
	t       testing.TB
	signers []*checkpoint.SignerKey

	mu     sync.Mutex
	leaves [][]byte
	stored []tlog.Hash
	size   int64 // published
	note   []byte
	lie    func(path string, answer []byte) []byte
	asked  []string
}

// New makes an empty log with keys of its own, and publishes it.
func New(t testing.TB) *Log {
	t.Helper()
	l := &Log{t: t}
	for _, generate := range []func(string, io.Reader) (*checkpoint.SignerKey, error){
		checkpoint.GenerateEd25519, checkpoint.GenerateMLDSA44,
	} {
		k, err := generate(Origin, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l.signers = append(l.signers, k)
	}
	l.Publish()
	return l
}

// Fork makes a log with the same keys and the first size leaves of l, published.
func (l *Log) Fork(size int) *Log {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &Log{
		t: l.t, signers: l.signers, leaves: append([][]byte(nil), l.leaves[:size]...),
		stored: append([]tlog.Hash(nil), l.stored[:tlog.StoredHashCount(int64(size))]...),
	}
	f.Publish()
	return f
}

// Leaf is the n-th leaf of a history: as large as keytrail's, and different in each.
func Leaf(history string, n int) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %d", history, n))
	return append([]byte{1}, h[:]...)
}

// Grow appends leaves of the history named "main" until there are size, and publishes them.
func (l *Log) Grow(size int) { l.GrowAs("main", size) }

// GrowAs is Grow with leaves of a named history.
func (l *Log) GrowAs(history string, size int) {
	l.t.Helper()
	l.mu.Lock()
	n := len(l.leaves)
	l.mu.Unlock()
	for ; n < size; n++ {
		l.Add(Leaf(history, n))
	}
	l.Publish()
}

// Add appends a leaf without publishing it.
func (l *Log) Add(leaf []byte) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	hashes, err := tlog.StoredHashes(int64(len(l.leaves)), leaf, tlog.HashReaderFunc(l.read))
	if err != nil {
		l.t.Fatal(err)
	}
	l.leaves = append(l.leaves, leaf)
	l.stored = append(l.stored, hashes...)
}

func (l *Log) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.stored[x]
	}
	return out, nil
}

// Later is a time after that of every checkpoint that Publish signs.
var Later = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// Publish signs a checkpoint of all leaves and serves it.
func (l *Log) Publish() { l.PublishAt(time.Now()) }

// PublishAt is Publish with another time in the signature.
func (l *Log) PublishAt(at time.Time) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size = int64(len(l.leaves))
	c := checkpoint.Checkpoint{Origin: Origin, Size: uint64(l.size), Root: l.root(l.size)}
	var err error
	if l.note, err = checkpoint.SignNote(c, at, l.signers...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *Log) root(size int64) [32]byte {
	if size == 0 {
		return checkpoint.EmptyRoot()
	}
	h, err := tlog.TreeHash(size, tlog.HashReaderFunc(l.read))
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// Root returns the root of the first size leaves.
func (l *Log) Root(size int) [32]byte {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.root(int64(size))
}

// Size returns how many leaves are published.
func (l *Log) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.size)
}

// Note returns the published checkpoint.
func (l *Log) Note() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.note)
}

// SetNote publishes another checkpoint than the log's own.
func (l *Log) SetNote(note []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note = note
}

// Policy knows the log and demands no witness.
func (l *Log) Policy() *policy.Policy {
	p := &policy.Policy{Quorum: policy.None}
	for _, k := range l.signers {
		p.Logs = append(p.Logs, policy.Log{Key: k.VerifierKey()})
	}
	return p
}

// Lie changes what is served from now on: fn returns the answer for a path, as "checkpoint"
// or "tile/0/000". Nil makes the log honest again.
func (l *Log) Lie(fn func(path string, answer []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = fn
}

// Flip lies about one path: the byte at offset has another value; below 0 it counts from
// the end.
func (l *Log) Flip(path string, offset int) {
	l.Lie(func(p string, b []byte) []byte {
		if p == path {
			b[(offset+len(b))%len(b)] ^= 1
		}
		return b
	})
}

// Asked returns the paths that were asked for since it was called last.
func (l *Log) Asked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

// Bytes returns what the honest log has at a path; nil when there is nothing.
func (l *Log) Bytes(path string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes(path)
}

func (l *Log) bytes(path string) []byte {
	if path == "checkpoint" {
		return bytes.Clone(l.note)
	}
	ref, err := tile.ParsePath(path)
	if err != nil || int64(ref.Width) > int64(tile.WidthAt(ref.Level, ref.Index, uint64(l.size))) {
		return nil
	}
	if ref.Entries {
		var b []byte
		start := int(ref.Index) * tile.Width
		for _, leaf := range l.leaves[start : start+ref.Width] {
			b = binary.BigEndian.AppendUint16(b, uint16(len(leaf)))
			b = append(b, leaf...)
		}
		return b
	}
	b, err := tlog.ReadTileData(tlog.Tile{H: 8, L: int(ref.Level), N: int64(ref.Index), W: ref.Width}, tlog.HashReaderFunc(l.read))
	if err != nil {
		l.t.Error(err)
	}
	return b
}

// ServeHTTP serves the log.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	l.mu.Lock()
	l.asked = append(l.asked, path)
	b, lie := l.bytes(path), l.lie
	l.mu.Unlock()
	if lie != nil {
		b = lie(path, b)
	}
	if b == nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b) // the reader may have gone
}

// Serve serves h until the test ends and returns its URL.
func Serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
