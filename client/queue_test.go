package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/memstore"
)

// serve starts a log in memory and returns a client of it, and its gRPC server.
func serve(t testing.TB) (*client.Client, *grpc.Server) {
	t.Helper()
	l := logtest.Open(t, logtest.NewDir(t), memstore.New())
	g := server.New(server.Config{Log: l.Log}).GRPC(nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	c, err := client.Dial(lis.Addr().String(), client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if err := errors.Join(<-served, l.Stop()); err != nil {
			t.Error(err)
		}
	})
	return c, g
}

func TestAppender(t *testing.T) {
	c, _ := serve(t)
	a, err := c.Stream(t.Context(), rpc.Wait_WAIT_PUBLISHED)
	if err != nil {
		t.Fatal(err)
	}
	bad := logtest.Event(1, "k")
	bad.Tenant = ""
	got, err := a.Append(t.Context(), []*keytrailv1.KeyEvent{logtest.Event(0, "k"), bad})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[0].GetAck().GetReceipt()) == 0 || got[1].GetError().GetFieldViolations()[0].GetField() != "tenant" {
		t.Errorf("results: %v", got)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestQueue appends from many goroutines: each gets the answer to its own event.
func TestQueue(t *testing.T) {
	c, _ := serve(t)
	q, err := c.Queue(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 50, 40
	acks := make([]*rpc.Ack, callers*each)
	var g sync.WaitGroup
	for i := range callers {
		g.Go(func() {
			for n := i * each; n < (i+1)*each; n++ {
				ev := logtest.Event(n, fmt.Sprint("key-", n))
				if n%10 == 7 {
					ev.Tenant = ""
				}
				ack, err := q.Append(t.Context(), ev)
				var refused *client.RefusedError
				if bad := errors.As(err, &refused); bad != (n%10 == 7) || err != nil && !bad {
					t.Errorf("event %d: %v, %v", n, ack, err)
				}
				acks[n] = ack
			}
		})
	}
	g.Wait()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Append(t.Context(), logtest.Event(0, "k")); !errors.Is(err, client.ErrQueueClosed) {
		t.Errorf("after Close: %v", err)
	}
	for n, ack := range acks {
		if ack == nil {
			continue
		}
		// What stands there is what was sent: appending it alone finds it.
		res, err := c.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(n, fmt.Sprint("key-", n))})
		if err != nil {
			t.Fatal(err)
		}
		want := res.GetAck()
		want.Duplicate = false
		if diff := cmp.Diff(want, ack, protocmp.Transform()); diff != "" {
			t.Fatalf("event %d (-want +got):\n%s", n, diff)
		}
	}
}

// TestQueueEnds: whoever waits when the stream fails gets an error, and so does whoever
// comes later.
func TestQueueEnds(t *testing.T) {
	c, g := serve(t)
	q, err := c.Queue(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Append(t.Context(), logtest.Event(0, "k")); err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			for n := 1000 * (i + 1); ; n++ {
				ack, err := q.Append(t.Context(), logtest.Event(n, "k"))
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("event %d: %v", n, err)
					}
					return
				}
				if ack == nil {
					t.Errorf("event %d: neither ack nor error", n)
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	g.Stop()
	callers.Wait()
	if _, err := q.Append(t.Context(), logtest.Event(1, "k")); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
	if err := q.Close(); status.Code(err) != codes.Unavailable {
		t.Errorf("closing: %v", err)
	}
}

func TestQueueContexts(t *testing.T) {
	c, _ := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	q, err := c.Queue(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if ack, err := q.Append(gone, logtest.Event(0, "k")); err != nil && !errors.Is(err, context.Canceled) || err == nil && ack == nil {
		t.Errorf("a caller that has left: %v, %v", ack, err)
	}
	large := logtest.Event(1, "k")
	large.UserAgent = string(make([]byte, event.MaxSize))
	if _, err := q.Append(t.Context(), large); err == nil {
		t.Error("too large an event was sent")
	}
	if _, err := q.Append(t.Context(), logtest.Event(2, "k")); err != nil {
		t.Errorf("after it: %v", err)
	}
	cancel()
	if err := q.Close(); err == nil {
		t.Error("the stream's context ended, and Close says nothing")
	}
}

// BenchmarkClient measures appends of one event by 64 goroutines, client and server in one
// process: a call each, and by way of a queue.
func BenchmarkClient(b *testing.B) {
	for _, way := range []string{"unary", "queue"} {
		b.Run(way, func(b *testing.B) {
			c, _ := serve(b)
			q, err := c.Queue(b.Context(), 0)
			if err != nil {
				b.Fatal(err)
			}
			var mu sync.Mutex
			next := 0
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					next++
					ev := logtest.Event(next, "k")
					mu.Unlock()
					if way == "unary" {
						_, err = c.Append(b.Context(), &rpc.AppendRequest{Event: ev})
					} else {
						_, err = q.Append(b.Context(), ev)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			if err := q.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}
