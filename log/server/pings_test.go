package server_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// frames counts the HTTP/2 frames of a type that pass (RFC 9113 section 4.1).
type frames struct {
	kind byte
	n    atomic.Int64
	all  atomic.Int64
}

// relay passes one direction of a connection on, frame by frame, after skip bytes.
func (f *frames) relay(w io.Writer, r io.Reader, skip int64) error {
	if _, err := io.CopyN(w, r, skip); err != nil {
		return err
	}
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		f.all.Add(1)
		if head[3] == f.kind {
			f.n.Add(1)
		}
		if _, err := w.Write(head[:]); err != nil {
			return err
		}
		length := int64(binary.BigEndian.Uint32(append([]byte{0}, head[:3]...)))
		if _, err := io.CopyN(w, r, length); err != nil {
			return err
		}
	}
}

// relayed serves a log on loopback behind a relay, and returns the relay's address.
func relayed(t *testing.T, f *fixture, toClient, toServer *frames) string {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // after the listeners are closed
	var lis [2]net.Listener
	for i := range lis {
		var err error
		if lis[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lis[i].Close() })
	}
	go func() { _ = f.grpc.Serve(lis[0]) }() // ends with the test
	wg.Go(func() {
		for {
			c, err := lis[1].Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", lis[0].Addr().String())
			if err != nil {
				t.Error(err)
				c.Close()
				return
			}
			preface := int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
			for _, way := range []func() error{
				func() error { return toClient.relay(c, s, 0) },
				func() error { return toServer.relay(s, c, preface) },
			} {
				wg.Go(func() {
					_ = way() // ends with the connection
					c.Close()
					s.Close()
				})
			}
		}
	})
	return lis[1].Addr().String()
}

// TestNoPings: neither side sends a PING beside a message, to calls that each wait for the last
// one's answer and to a stream, also with receipts.
func TestNoPings(t *testing.T) {
	f := start(t, options{})
	const ping = 6
	toClient, toServer := &frames{kind: ping}, &frames{kind: ping}
	c, err := client.Dial(relayed(t, f, toClient, toServer), client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const calls = 20
	for i := range calls {
		req := &rpc.AppendRequest{Event: logtest.Event(i, "k"), Wait: rpc.Wait_WAIT_PUBLISHED}
		if _, err := c.Append(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	q, err := c.Queue(t.Context(), rpc.Wait_WAIT_DURABLE)
	if err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		if _, err := q.Append(t.Context(), logtest.Event(calls+i, "k")); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for _, way := range []*frames{toClient, toServer} {
		if way.all.Load() < 2*calls {
			t.Errorf("%d frames passed for %d calls", way.all.Load(), 2*calls)
		}
		if n := way.n.Load(); n > 0 {
			t.Errorf("%d of %d frames are PINGs", n, way.all.Load())
		}
	}
}
