package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// dialed returns a client with a connection of its own.
func dialed(t *testing.T, addr string) rpc.LogServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return rpc.NewLogServiceClient(conn)
}

// TestCrowd lets clients that do nothing, or nothing good, sit on the server while others
// work: those are served as ever, memory stays bounded, and the server stops cleanly.
// KEYTRAIL_LONG makes 10,000 idle connections of 300.
func TestCrowd(t *testing.T) {
	t.Parallel()
	idle := 300
	if long() {
		idle = 10_000
	}
	if n := openFiles(t); idle > n-500 {
		t.Logf("%d open files allow fewer than %d connections", n, idle)
		idle = n - 500
	}
	c := newCluster(t, 0)
	c.log.mustStart()
	addr := c.log.addr["grpc"]
	work := dialed(t, addr)
	append1 := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := work.Append(ctx, &rpc.AppendRequest{Event: logtest.Event(n, "k")}); err != nil {
			t.Fatalf("append %d: %v", n, err)
		}
	}
	append1(0)
	before := residentBytes(t, c.log)
	for range idle {
		idleConnection(t, addr, true)
	}
	for range 50 {
		idleConnection(t, addr, false)
	}
	deaf(t, addr)
	for n := 1; n < 200; n++ {
		append1(n)
	}
	tooLarge(t, work)
	append1(200)
	grown := residentBytes(t, c.log) - before
	t.Logf("%d idle connections and 8 deaf clients: %d MB of memory more", idle, grown>>20)
	if limit := 150<<20 + int64(idle)*40<<10; grown > limit {
		t.Errorf("memory grew by %d MB, want at most %d", grown>>20, limit>>20)
	}
	c.log.stop()
}

// idleConnection opens a connection and leaves it: after HTTP/2's greeting, or before.
func idleConnection(t *testing.T, addr string, greet bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if !greet {
		return
	}
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // an empty SETTINGS frame
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings); err != nil {
		t.Fatal(err)
	}
	// The server's own settings show that it has taken the connection.
	if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil {
		t.Fatalf("an idle connection was not taken: %v", err)
	}
}

// deaf opens streams whose answers nobody reads, and sends on them until the server reads
// no more or 2,000 messages are sent.
func deaf(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	done := make(chan int)
	const streams = 8
	for i := range streams {
		s, err := dialed(t, addr).AppendStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			sent := 0
			defer func() { done <- sent }()
			for ; sent < 2000; sent++ {
				req := &rpc.AppendStreamRequest{Wait: rpc.Wait_WAIT_PUBLISHED}
				for k := range 20 {
					req.Events = append(req.Events, logtest.Event(1_000_000*(i+1)+20*sent+k, "deaf"))
				}
				if s.Send(req) != nil {
					return
				}
			}
		}()
	}
	// They are left hanging; what they could send in a moment is enough.
	select {
	case n := <-done:
		t.Logf("a client that reads nothing could send %d messages", n)
	case <-time.After(2 * time.Second):
	}
	t.Cleanup(func() {
		go func() {
			for range streams {
				<-done
			}
		}()
	})
}

// tooLarge sends what is beyond the limits: each is refused with what is wrong, and the
// connection goes on.
func tooLarge(t *testing.T, work rpc.LogServiceClient) {
	t.Helper()
	big := logtest.Event(9_000_000, "k")
	big.Raw = &keytrailv1.Raw{MediaType: "text/plain", Content: make([]byte, 5<<20)}
	many := &rpc.AppendBatchRequest{}
	for i := range 1001 {
		many.Events = append(many.Events, logtest.Event(9_000_001+i, "k"))
	}
	_, one := work.Append(t.Context(), &rpc.AppendRequest{Event: big})
	_, batch := work.AppendBatch(t.Context(), many)
	big.Raw.Content = make([]byte, 40<<10)
	_, event := work.Append(t.Context(), &rpc.AppendRequest{Event: big})
	for _, c := range []struct {
		what string
		err  error
		code codes.Code
		says string
	}{
		{"a message of 5 MiB", one, codes.ResourceExhausted, "larger than max"},
		{"1,001 events", batch, codes.InvalidArgument, "events has 1001 elements, more than 1000"},
		{"an event of 40 KiB", event, codes.InvalidArgument, "the limit is 32768"},
	} {
		if status.Code(c.err) != c.code || !strings.Contains(status.Convert(c.err).Message(), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.what, c.err, c.code, c.says)
		}
	}
}

// TestConnectionLimit: a client that comes when all places are taken is told at once, and
// served when there is one.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0)
	config := filepath.Join(c.logDir(), "config.yaml")
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "max_connections: 16384", "max_connections: 3", 1)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.log.mustStart()
	addr := c.log.addr["grpc"]
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	work := dialed(t, addr)
	_, err = work.GetLogInfo(t.Context(), &rpc.GetLogInfoRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a fourth connection: %v, want Unavailable", err)
	}
	conns[0].Close()
	for end := time.Now().Add(time.Minute); ; {
		_, err = work.GetLogInfo(t.Context(), &rpc.GetLogInfoRequest{}, grpc.WaitForReady(true))
		if err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Errorf("after a place was left: %v", err)
	}
	c.log.stop()
}

// TestQuota: a tenant that has used up its quota is refused with its name, the quota and
// when to come again; the others are served.
func TestQuota(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0)
	config := filepath.Join(c.logDir(), "config.yaml")
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("quota: {tenants: {flood: {per_second: 0.001, burst: 5}}}\n")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	c.log.mustStart()
	work := dialed(t, c.log.addr["grpc"])
	for n := range 20 {
		flood, other := logtest.Event(2*n, "k"), logtest.Event(2*n+1, "k")
		flood.Tenant = "flood"
		_, err := work.Append(t.Context(), &rpc.AppendRequest{Event: flood})
		st := status.Convert(err)
		if n < 5 && err != nil {
			t.Fatalf("event %d of a burst of 5: %v", n, err)
		}
		if n >= 5 {
			says := `tenant "flood" has used up its quota of 0.001 events a second`
			if st.Code() != codes.ResourceExhausted || !strings.Contains(st.Message(), says) {
				t.Errorf("event %d: %v, want ResourceExhausted with %q", n, err, says)
			}
			retry, ok := st.Details()[0].(*errdetails.RetryInfo)
			if !ok || retry.GetRetryDelay().AsDuration() < time.Minute {
				t.Errorf("event %d: details %v, want a delay of some minutes", n, st.Details())
			}
		}
		if _, err := work.Append(t.Context(), &rpc.AppendRequest{Event: other}); err != nil {
			t.Errorf("event %d of another tenant: %v", n, err)
		}
	}
	c.log.stop()
}

// openFiles is how many files this process may have open.
func openFiles(t *testing.T) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return int(min(l.Cur, 1<<20))
}

// residentBytes is the memory of a running server.
func residentBytes(t *testing.T, s *server) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs /proc")
	}
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
