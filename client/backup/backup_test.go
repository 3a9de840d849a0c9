package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keytrail/keytrail/client/backup"
	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
)

var errCut = errors.New("cut off")

// source is a log that is served over HTTP and gRPC, until it has answered so often.
type source struct {
	*logtest.Log
	rpc.LogServiceClient
	store  storage.Store
	policy *policy.Policy
	files  *tiles.Log
	left   atomic.Int64 // answers until it is cut off
}

func start(t *testing.T) *source {
	t.Helper()
	d := logtest.NewDir(t)
	s := &source{store: memstore.New(), policy: &policy.Policy{Quorum: policy.None}}
	s.left.Store(1 << 60)
	for _, k := range d.Signers {
		s.policy.Logs = append(s.policy.Logs, policy.Log{Key: k.VerifierKey()})
	}
	s.Log = logtest.Open(t, d, s.store)
	srv := server.New(server.Config{Log: s.Log.Log})
	web := srv.HTTP(prometheus.NewRegistry())
	url := tilestest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.left.Add(-1) < 0 {
			http.Error(w, "cut off", http.StatusForbidden)
			return
		}
		web.ServeHTTP(w, r)
	}))
	var err error
	if s.files, err = tiles.Open(url, tiles.Options{}); err != nil {
		t.Fatal(err)
	}
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
	s.LogServiceClient = rpc.NewLogServiceClient(conn)
	return s
}

// cutStream ends when the source is cut off.
type cutStream[T any] struct {
	grpc.ServerStreamingClient[T]
	left *atomic.Int64
}

func (c cutStream[T]) Recv() (*T, error) {
	if c.left.Add(-1) < 0 {
		return nil, errCut
	}
	return c.ServerStreamingClient.Recv()
}

func (s *source) ReadPayloads(ctx context.Context, req *rpc.ReadPayloadsRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	c, err := s.LogServiceClient.ReadPayloads(ctx, req, opts...)
	return cutStream[rpc.ReadPayloadsResponse]{c, &s.left}, err
}

func (s *source) ListErased(ctx context.Context, req *rpc.ListErasedRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ListErasedResponse], error) {
	c, err := s.LogServiceClient.ListErased(ctx, req, opts...)
	return cutStream[rpc.ListErasedResponse]{c, &s.left}, err
}

// grow appends events until the log has size entries, and publishes them.
func (s *source) grow(t *testing.T, size uint64) {
	t.Helper()
	var events []log.Event
	for n := s.DurableSize(); n < size; n++ {
		events = append(events, logtest.Prepare(t, logtest.Event(int(n), fmt.Sprintf("k%d", n%7))))
	}
	if _, err := s.Log.Append(t.Context(), "", events); err != nil {
		t.Fatal(err)
	}
	s.AwaitPublished(t, size)
}

func (s *source) erase(t *testing.T, indexes ...uint64) {
	t.Helper()
	if err := s.store.ErasePayloads(t.Context(), indexes); err != nil {
		t.Fatal(err)
	}
}

func (s *source) options() backup.Options {
	return backup.Options{Log: s.files, Policy: s.policy, Service: s, Contents: backup.Contents{Config: "origin: x\n", Policy: "p\n"}}
}

func (s *source) run(t *testing.T, dir string) *backup.Result {
	t.Helper()
	r, err := backup.Run(t.Context(), dir, s.options())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// check holds all of a backup of so many entries against the log's store, where nothing was
// erased meanwhile.
func (s *source) check(t *testing.T, dir string, size uint64) {
	t.Helper()
	b, err := backup.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size() != size || b.Origin() != logtest.Origin || b.Contents() != s.options().Contents {
		t.Fatalf("a backup of %s with %d entries and %+v, want %d", b.Origin(), b.Size(), b.Contents(), size)
	}
	n := uint64(0)
	err = b.Payloads(t.Context(), 0, size, func(i uint64, got []byte) error {
		n++
		return s.store.Payloads(t.Context(), i, i+1, func(_ uint64, want []byte) error {
			if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
				t.Errorf("payload %d has %d bytes, want %d", i, len(got), len(want))
			}
			return nil
		})
	})
	if err != nil || n != size {
		t.Errorf("%d payloads, %v", n, err)
	}
	leaves := uint64(0)
	if err := b.Leaves(t.Context(), 0, size, func(uint64, []byte) error { leaves++; return nil }); err != nil || leaves != size {
		t.Errorf("%d leaves, %v", leaves, err)
	}
	if err := b.Leaves(t.Context(), 0, size+1, nil); !errors.Is(err, tiles.ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := b.Payloads(t.Context(), 0, size+1, nil); !errors.Is(err, tiles.ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestRun copies what is new, and erases what was erased.
func TestRun(t *testing.T) {
	t.Parallel()
	s, dir := start(t), filepath.Join(t.TempDir(), "bk")
	s.grow(t, 300)
	s.erase(t, 3)
	if r := s.run(t, dir); r.Added != 300 || r.Erased != 1 || r.Dropped != 0 || r.VerifiedFrom != 0 {
		t.Errorf("%+v", r)
	}
	s.check(t, dir, 300)
	var secret []byte
	if err := s.store.Payloads(t.Context(), 17, 18, func(_ uint64, p []byte) error { secret = bytes.Clone(p[:32]); return nil }); err != nil {
		t.Fatal(err)
	}
	if !holds(t, dir, secret) {
		t.Fatal("the payload is not there")
	}
	s.erase(t, 17, 299)
	s.grow(t, 700)
	if r := s.run(t, dir); r.Added != 400 || r.Erased != 3 || r.Dropped != 1+0 && r.Dropped != 2 || r.VerifiedFrom != 256 {
		t.Errorf("%+v", r) // 299 stood in a group that was copied again
	}
	s.check(t, dir, 700)
	if holds(t, dir, secret) {
		t.Error("an erased payload is still there")
	}
	if r := s.run(t, dir); r.Added != 0 || r.Erased != 3 || r.Dropped != 0 || r.VerifiedFrom != 512 {
		t.Errorf("%+v", r)
	}
	o := s.options()
	o.VerifyAll = true
	if r, err := backup.Run(t.Context(), dir, o); err != nil || r.VerifiedFrom != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	s.check(t, dir, 700)
	err := filepath.WalkDir(filepath.Join(dir, "private"), func(path string, d fs.DirEntry, err error) error {
		if info, infoErr := d.Info(); err == nil && infoErr == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func holds(t *testing.T, dir string, want []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, want)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestCutOff ends a run after each answer of the log in turn. The backup is the one before,
// whole, and the next run finishes.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, before := range []uint64{0, 300} {
		s, dir := start(t), filepath.Join(t.TempDir(), "bk")
		s.grow(t, 300)
		if before > 0 {
			s.run(t, dir)
			s.erase(t, 5, 100)
		}
		s.grow(t, 900)
		cuts := 0
		step := int64(1)
		if testing.Short() {
			step = 3
		}
		for n := int64(0); ; n += step {
			if n > 100 {
				t.Fatal("it does not end")
			}
			at := dir
			if before == 0 {
				at = filepath.Join(t.TempDir(), "bk") // nothing is left of the run before
			}
			s.left.Store(n)
			_, err := backup.Run(t.Context(), at, s.options())
			s.left.Store(1 << 60)
			if err == nil {
				break
			}
			cuts++
			b, openErr := backup.Open(t.Context(), at)
			switch {
			case before == 0 && errors.Is(openErr, backup.ErrUnfinished): // as it must be
			case before == 0 && !exists(filepath.Join(at, "private")) && openErr != nil:
			case openErr != nil || b.Size() != before:
				t.Fatalf("cut after %d: %v, %v", n, err, openErr)
			}
			if openErr == nil {
				checkReadable(t, b)
			}
			if before == 0 {
				s.run(t, at)
				s.check(t, at, 900)
			}
		}
		if cuts < 3 {
			t.Errorf("only %d cuts", cuts)
		}
		if before > 0 {
			s.check(t, dir, 900)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkReadable reads all of a backup, and closes it.
func checkReadable(t *testing.T, b *backup.Backup) {
	t.Helper()
	if err := b.Payloads(t.Context(), 0, b.Size(), func(uint64, []byte) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestOneAtATime keeps others out of a backup that is written, and writers out of one that
// is read.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	s, dir := start(t), filepath.Join(t.TempDir(), "bk")
	s.grow(t, 10)
	s.run(t, dir)
	o := s.options()
	inside := 0
	o.Progress = func(string, uint64, uint64) {
		inside++
		if _, err := backup.Run(t.Context(), dir, s.options()); !errors.Is(err, mirror.ErrLocked) {
			t.Errorf("a second run: %v", err)
		}
		if _, err := backup.Open(t.Context(), dir); !errors.Is(err, mirror.ErrLocked) {
			t.Errorf("reading: %v", err)
		}
	}
	s.grow(t, 300)
	if _, err := backup.Run(t.Context(), dir, o); err != nil || inside == 0 {
		t.Errorf("%v; looked %d times", err, inside)
	}
	b, err := backup.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := backup.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), dir, s.options()); !errors.Is(err, mirror.ErrLocked) {
		t.Errorf("a run while it is read: %v", err)
	}
	checkReadable(t, b)
	checkReadable(t, other)
	s.run(t, dir)
}

// TestOtherTargets leaves alone what is no backup.
func TestOtherTargets(t *testing.T) {
	t.Parallel()
	s, dir := start(t), t.TempDir()
	s.grow(t, 10)
	s.run(t, dir) // an empty directory is fine
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "letter"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), full, s.options()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a directory with something else: %v", err)
	}
	if entries, err := os.ReadDir(full); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	// The backup of another log.
	other := start(t)
	other.grow(t, 20)
	if _, err := backup.Run(t.Context(), dir, other.options()); err == nil {
		t.Error("the backup of one log took another")
	}
	s.check(t, dir, 10)
}

// TestFlippedBits flips one bit in each file in turn: reading all of the backup or verifying
// all of it finds it and names a place.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	s, dir := start(t), filepath.Join(t.TempDir(), "bk")
	s.grow(t, 600)
	s.run(t, dir)
	flips := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == ".lock" {
			return err
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, at := range []int{len(whole) / 3, 0, len(whole) - 1} {
			if testing.Short() && at != len(whole)/3 {
				continue
			}
			b := bytes.Clone(whole)
			b[at] ^= 2
			if err := os.WriteFile(path, b, 0o600); err != nil {
				return err
			}
			flips++
			o := s.options()
			o.VerifyAll = true
			_, err := backup.Run(t.Context(), dir, o)
			if err == nil {
				t.Errorf("%s at %d: not found", path, at)
			} else if _, blamed := errors.AsType[*tiles.ContradictionError](err); blamed {
				t.Errorf("%s at %d: the log is blamed: %v", path, at, err)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || flips < 8 {
		t.Errorf("%d flips, %v", flips, err)
	}
	s.check(t, dir, 600)
	// A payload that was taken out is not one that the log has erased.
	path := filepath.Join(dir, "private", "payloads", "000")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := int(whole[0])<<8 | int(whole[1])
	if err := os.WriteFile(path, append([]byte{0, 0}, whole[2+n:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.grow(t, 650)
	o := s.options()
	o.VerifyAll = true
	_, err = backup.Run(t.Context(), dir, o)
	if b, err := backup.Open(t.Context(), dir); err != nil || b.Size() != 600 {
		t.Errorf("what did not verify is taken for a backup: %v", err)
	}
	if e, ok := errors.AsType[*backup.DamageError](err); !ok || !strings.Contains(e.Error(), "1 are missing, the log has erased 0") {
		t.Errorf("a payload is gone: %v", err)
	}
}
