package server_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// fixture is a log that is served in memory.
type fixture struct {
	rpc.LogServiceClient
	conn  *grpc.ClientConn
	log   *log.Log
	srv   *server.Server
	grpc  *grpc.Server
	store *storagetest.Faults
	dir   *logtest.Dir
	// logged is what the server has logged.
	logged    *lockedBuffer
	witnesses []*logtest.Witness
}

type options struct {
	maxPending     int
	witnesses      int // of which all but one must cosign
	server, client credentials.TransportCredentials
}

// start serves a new log until the test ends.
func start(t testing.TB, o options) *fixture {
	t.Helper()
	f := &fixture{dir: logtest.NewDir(t), store: storagetest.NewFaults(memstore.New()), logged: &lockedBuffer{}}
	x, err := index.Open(f.dir.Index(), index.Options{})
	if err != nil {
		t.Fatal(err)
	}
	led, err := ledger.Open(f.dir.Ledger(), logtest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	c := log.Config{
		Origin: logtest.Origin, Signers: f.dir.Signers, Store: f.store, Index: x, Ledger: led,
		MinInterval: time.Millisecond, MaxPending: o.maxPending,
	}
	for i := range o.witnesses {
		f.witnesses = append(f.witnesses, logtest.NewWitness(t, f.dir, fmt.Sprint("witness.test/", i)))
	}
	if o.witnesses > 0 {
		c.Policy = logtest.Policy(t, f.dir, o.witnesses-1, f.witnesses...)
	}
	f.log, err = log.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	v, err := view.Open(t.Context(), t.TempDir(), f.log, view.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = f.log.Run(ctx) }) // a test that makes it fail looks at Failed
	running.Go(func() { _ = v.Run(ctx) })

	f.srv = server.New(server.Config{
		Log: f.log, View: v, Policy: "the policy", Version: "v0-test",
		Logger: slog.New(slog.NewTextHandler(f.logged, nil)),
	})
	f.grpc = f.srv.GRPC(o.server)
	lis := bufconn.Listen(1 << 16)
	running.Go(func() {
		if err := f.grpc.Serve(lis); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		f.store.Before(storagetest.OpCommit, nil)
		f.grpc.Stop()
		cancel()
		running.Wait()
		for _, c := range []func() error{v.Close, x.Close, led.Close} {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	})
	if o.client == nil {
		o.client = insecure.NewCredentials()
	}
	f.conn, err = grpc.NewClient("passthrough:///log.test", grpc.WithTransportCredentials(o.client),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	f.LogServiceClient = rpc.NewLogServiceClient(f.conn)
	return f
}

// policy trusts the log's own keys.
func (f *fixture) policy(t *testing.T) *policy.Policy {
	t.Helper()
	var b strings.Builder
	for _, k := range f.log.VerifierKeys() {
		fmt.Fprintf(&b, "log %s\n", k)
	}
	b.WriteString("quorum none\n")
	p, err := policy.Parse([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// append records the events from first (inclusive) to last (exclusive), published.
func (f *fixture) append(t *testing.T, first, last int, key string) {
	t.Helper()
	req := &rpc.AppendBatchRequest{Wait: rpc.Wait_WAIT_PUBLISHED}
	for n := first; n < last; n++ {
		req.Events = append(req.Events, logtest.Event(n, key))
	}
	res, err := f.AppendBatch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res.GetResults() {
		if r.GetAck() == nil {
			t.Fatalf("event %d: %v", i, r)
		}
	}
}

// fails checks the code of an error and returns its status.
func fails(t *testing.T, err error, want codes.Code) *status.Status {
	t.Helper()
	st, ok := status.FromError(err)
	if err == nil || !ok || st.Code() != want {
		t.Fatalf("got %v, want %v", err, want)
	}
	return st
}

// violations returns the fields that a status blames.
func violations(st *status.Status) []string {
	var fields []string
	for _, d := range st.Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return fields
}

// within fails the test when fn takes longer.
func within(t *testing.T, d time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s takes longer than %v", what, d)
	}
}

// hold lets commits wait until the returned function is called.
func (f *fixture) hold(t *testing.T) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	f.store.Before(storagetest.OpCommit, func(context.Context) { <-gate })
	release = sync.OnceFunc(func() {
		f.store.Before(storagetest.OpCommit, nil)
		close(gate)
	})
	t.Cleanup(release)
	return release
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
