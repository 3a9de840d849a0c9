package main_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// TestSlowHTTP lets clients of the tile API send their requests a byte at a time, send half of one,
// and read nothing of answers that they asked for many times: they are cut off or wait for
// themselves, and the others are served as ever, over HTTP and gRPC.
func TestSlowHTTP(t *testing.T) {
	t.Parallel()
	each := 20
	if long() {
		each = 100
	}
	c := newCluster(t, 0)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial}
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 300 })
	addr := c.log.addr["http"]
	const request = "GET /tile/entries/000 HTTP/1.1\r\nHost: log\r\n\r\n"
	halves := make([]net.Conn, each)
	for i := range each {
		halves[i] = rawConnection(t, addr, request[:20])
		trickle(t, rawConnection(t, addr, ""), request)
		greedy(t, rawConnection(t, addr, ""), request)
	}
	before := residentBytes(t, c.log)
	cl := c.dial()
	defer cl.Close()
	for i := range 50 {
		ev := newEvent(l.numbers.Add(1), i)
		l.book.send(ev)
		res, err := cl.Append(t.Context(), &rpc.AppendRequest{Event: ev, Wait: rpc.Wait_WAIT_PUBLISHED})
		if err != nil {
			t.Fatalf("append %d beside slow clients: %v", i, err)
		}
		l.book.acked(ev, res.GetAck(), rpc.Wait_WAIT_PUBLISHED)
		answer, err := http.Get("http://" + addr + "/checkpoint")
		if err != nil {
			t.Fatalf("checkpoint %d beside slow clients: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("checkpoint %d beside slow clients: %s, %v", i, answer.Status, err)
		}
		answer.Body.Close()
	}
	if grown := residentBytes(t, c.log) - before; grown > 100<<20 {
		t.Errorf("memory grew by %d MB", grown>>20)
	}
	// Half a request is cut off when its time is over (5 s): reading comes to an end.
	for i, conn := range halves {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Errorf("half a request %d is still waited for", i)
			}
		}
	}
	auditCluster(c, l.book, true)
	c.stop()
	t.Logf("%d slow clients; %v", 3*each, l.book)
}

// rawConnection opens a connection that ends with the test, and sends something.
func rawConnection(t *testing.T, addr, what string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, what); err != nil {
		t.Fatal(err)
	}
	return conn
}

// trickle sends a request a byte at a time.
func trickle(t *testing.T, conn net.Conn, request string) {
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range len(request) {
			if _, err := io.WriteString(conn, request[i:i+1]); err != nil {
				return
			}
			time.Sleep(100*time.Millisecond + rand.N(100*time.Millisecond))
		}
	})
	t.Cleanup(func() { conn.Close(); sending.Wait() })
}

// greedy asks again and again and reads nothing.
func greedy(t *testing.T, conn net.Conn, request string) {
	var sending sync.WaitGroup
	sending.Go(func() {
		for range 100_000 {
			if _, err := io.WriteString(conn, request); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { conn.Close(); sending.Wait() })
}
