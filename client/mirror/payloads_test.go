package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

// realLog is a log of this project that is served over HTTP and gRPC.
type realLog struct {
	*logtest.Log
	rpc.LogServiceClient
	store  storage.Store
	url    string
	policy *policy.Policy
}

func startLog(t *testing.T) *realLog {
	t.Helper()
	d := logtest.NewDir(t)
	r := &realLog{store: memstore.New(), policy: &policy.Policy{Quorum: policy.None}}
	for _, k := range d.Signers {
		r.policy.Logs = append(r.policy.Logs, policy.Log{Key: k.VerifierKey()})
	}
	r.Log = logtest.Open(t, d, r.store)
	srv := server.New(server.Config{Log: r.Log.Log})
	r.url = tilestest.Serve(t, srv.HTTP(prometheus.NewRegistry()))
	g, lis := srv.GRPC(nil), bufconn.Listen(1<<16)
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///log.test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r.LogServiceClient = rpc.NewLogServiceClient(conn)
	return r
}

// grow appends events until the log has size entries, and publishes them.
func (r *realLog) grow(t *testing.T, size uint64) {
	t.Helper()
	var events []log.Event
	for n := r.DurableSize(); n < size; n++ {
		events = append(events, logtest.Prepare(t, logtest.Event(int(n), fmt.Sprintf("k%d", n%7))))
	}
	if _, err := r.Log.Append(t.Context(), "", events); err != nil {
		t.Fatal(err)
	}
	r.AwaitPublished(t, size)
}

// open opens a mirror of the log with its payloads.
func (r *realLog) open(t *testing.T, dir string, from payloads.Service) *mirror.Mirror {
	t.Helper()
	l, err := tiles.Open(r.url, tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mirror.New(t.Context(), dir, mirror.Options{Log: l, Policy: r.policy, Payloads: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() }) // a test may have closed it
	return m
}

// checkPayloads holds the copy's payloads against the store's.
func (r *realLog) checkPayloads(t *testing.T, dir string, size uint64) {
	t.Helper()
	c, err := mirror.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.PayloadCount(); err != nil || n != size {
		t.Fatalf("%d payloads, %v; want %d", n, err, size)
	}
	for _, start := range []uint64{0, size / 2, size - 1, size} {
		next := start
		err := c.Payloads(t.Context(), start, size, func(i uint64, got []byte) error {
			if i != next {
				t.Fatalf("payload %d comes in place of %d", i, next)
			}
			next++
			return r.store.Payloads(t.Context(), i, i+1, func(_ uint64, want []byte) error {
				if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
					t.Errorf("payload %d has %d bytes, want %d", i, len(got), len(want))
				}
				return nil
			})
		})
		if err != nil || next != size {
			t.Errorf("from %d: payloads end at %d: %v", start, next, err)
		}
	}
}

func TestPayloads(t *testing.T) {
	r, dir := startLog(t), t.TempDir()
	r.grow(t, 300)
	if err := r.store.ErasePayloads(t.Context(), []uint64{0, 17, 255, 299}); err != nil {
		t.Fatal(err)
	}
	m := r.open(t, dir, r)
	if res := sync(t, m); res.Payloads != 300 || res.Erased != 4 {
		t.Errorf("%+v", res)
	}
	r.checkPayloads(t, dir, 300)
	for _, size := range []uint64{301, 511, 512, 513, 1000} {
		r.grow(t, size)
		if res := sync(t, m); res.Payloads != size {
			t.Errorf("size %d: %+v", size, res)
		}
		r.checkPayloads(t, dir, size)
	}
	modes(t, filepath.Join(dir, "private"))
	url := tilestest.Serve(t, m.Handler())
	for _, path := range []string{"/private/payloads/000", "/tile/../private/payloads/000", "/private/"} {
		if got := status(t, http.MethodGet, url+path); got != http.StatusNotFound {
			t.Errorf("%s: status %d", path, got)
		}
	}
}

// modes checks that nobody else can read what is private.
func modes(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		n++
		return nil
	})
	if err != nil || n < 5 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestPayloadsLater begins with the leaves alone, and goes on after a restart.
func TestPayloadsLater(t *testing.T) {
	r, dir := startLog(t), t.TempDir()
	r.grow(t, 700)
	m := r.open(t, dir, nil)
	sync(t, m)
	c := m.Current()
	if n, err := c.PayloadCount(); n != 0 || err != nil {
		t.Errorf("%d payloads, %v", n, err)
	}
	if err := c.Payloads(t.Context(), 3, 4, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no payloads: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for i, step := range []string{"write private/payloads/000", "rename private/payloads/001", "write private/payloads/002.p/188", "rename private/payloads/002.p/188"} {
		m = r.open(t, dir, r)
		m.Cut(func(s string) error {
			if s == step {
				return errCut
			}
			return nil
		})
		if _, err := m.Sync(t.Context()); !errors.Is(err, errCut) {
			t.Fatalf("%s: %v", step, err)
		}
		want := []uint64{0, 256, 512, 512}[i]
		if n, err := m.Current().PayloadCount(); n != want || err != nil {
			t.Errorf("%s: %d payloads, %v; want %d", step, n, err, want)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m = r.open(t, dir, r)
	sync(t, m)
	r.checkPayloads(t, dir, 700)
	if err := m.Current().Payloads(t.Context(), 0, 701, nil); !errors.Is(err, tiles.ErrRange) {
		t.Error(err)
	}
}

// TestPrivateForOthers refuses payloads that others can read, and damaged ones.
func TestPrivateForOthers(t *testing.T) {
	r, dir := startLog(t), t.TempDir()
	r.grow(t, 300)
	sync(t, r.open(t, dir, r))
	c, err := mirror.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	read := func() error { return c.Payloads(t.Context(), 0, 300, func(uint64, []byte) error { return nil }) }
	path := filepath.Join(dir, "private", "payloads", "001.p", "44")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-1] ^= 1
	for name, b := range map[string][]byte{"flipped": flipped, "cut": whole[:len(whole)-1], "more": append(bytes.Clone(whole), 0), "empty": {}} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, mirror.ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(dir, "private"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := read(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("readable by others: %v", err)
	}
	if _, err := c.PayloadCount(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("readable by others: %v", err)
	}
}

// lyingService changes the answers of a log.
type lyingService struct {
	payloads.Service
	lie func(*rpc.ReadPayloadsResponse) error
}

func (s lyingService) ReadPayloads(ctx context.Context, req *rpc.ReadPayloadsRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	stream, err := s.Service.ReadPayloads(ctx, req, opts...)
	return lyingStream{stream, s.lie}, err
}

type lyingStream struct {
	grpc.ServerStreamingClient[rpc.ReadPayloadsResponse]
	lie func(*rpc.ReadPayloadsResponse) error
}

func (s lyingStream) Recv() (*rpc.ReadPayloadsResponse, error) {
	res, err := s.ServerStreamingClient.Recv()
	if err != nil {
		return nil, err
	}
	return res, s.lie(res)
}

// TestLyingPayloads keeps no payload that does not open its leaf, and takes no other answer
// for one.
func TestLyingPayloads(t *testing.T) {
	r := startLog(t)
	r.grow(t, 300)
	for _, c := range []struct {
		name     string
		lie      func(*rpc.ReadPayloadsResponse) error
		tampered bool
		want     string
	}{
		{"flipped", func(res *rpc.ReadPayloadsResponse) error { res.Payloads[5][40] ^= 1; return nil }, true, "payload 5"},
		{"swapped", func(res *rpc.ReadPayloadsResponse) error {
			res.Payloads[7], res.Payloads[8] = res.Payloads[8], res.Payloads[7]
			return nil
		}, true, "payload 7"},
		{"other start", func(res *rpc.ReadPayloadsResponse) error { res.Start++; return nil }, false, "not the payloads"},
		{"too many", func(res *rpc.ReadPayloadsResponse) error {
			res.Payloads = append(res.Payloads, make([][]byte, 300)...)
			return nil
		}, false, "not the payloads"},
		{"none", func(res *rpc.ReadPayloadsResponse) error { res.Payloads = nil; return nil }, false, "not the payloads"},
		{"too large", func(res *rpc.ReadPayloadsResponse) error {
			res.Payloads[0] = make([]byte, record.MaxPayloadSize+1)
			return nil
		}, false, "not the payloads"},
		{"ends", func(*rpc.ReadPayloadsResponse) error { return io.EOF }, false, "end before entry 0"},
	} {
		dir := t.TempDir()
		m := r.open(t, dir, lyingService{r, c.lie})
		_, err := m.Sync(t.Context())
		_, tampered := errors.AsType[*tiles.ContradictionError](err)
		if err == nil || tampered != c.tampered || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if n, err := m.Current().PayloadCount(); n != 0 || err != nil {
			t.Errorf("%s: %d payloads, %v", c.name, n, err)
		}
	}
}

func FuzzPayloadPath(f *testing.F) {
	f.Add("000")
	f.Add("x001/234.p/57")
	f.Fuzz(func(t *testing.T, path string) {
		group, width, ok := mirror.ParsePayloadPath(path)
		if !ok {
			return
		}
		if got := mirror.PayloadPath(group, width); got != filepath.Join("private", "payloads", path) {
			t.Errorf("%q is group %d with %d, whose path is %q", path, group, width, got)
		}
	})
}
