package server_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/receipt"
)

// TestReadPayloads reads all of a log, over more than one message, and holds each payload
// against the entry's receipt.
func TestReadPayloads(t *testing.T) {
	t.Parallel()
	const n = 1500
	f := start(t, options{})
	f.append(t, 0, n/2, "k")
	f.append(t, n/2, n, "k")
	for _, c := range []struct{ start, end, first, want uint64 }{
		{0, 0, 0, n}, {0, n, 0, n}, {n - 3, 0, n - 3, 3}, {7, 9, 7, 2}, {9, 9, 0, 0}, {n, 0, 0, 0},
	} {
		stream, err := f.ReadPayloads(t.Context(), &rpc.ReadPayloadsRequest{Start: c.start, End: c.end})
		if err != nil {
			t.Fatal(err)
		}
		next, got := c.start, uint64(0)
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if res.GetStart() != next || len(res.GetPayloads()) == 0 {
				t.Fatalf("response of %d payloads begins at %d, want %d", len(res.GetPayloads()), res.GetStart(), next)
			}
			for i, p := range res.GetPayloads() {
				if index := next + uint64(i); index%100 == 0 || index == n-1 {
					f.wantPayload(t, index, p)
				}
			}
			next += uint64(len(res.GetPayloads()))
			got += uint64(len(res.GetPayloads()))
		}
		if got != c.want {
			t.Errorf("%d to %d: %d payloads, want %d", c.start, c.end, got, c.want)
		}
	}
}

func (f *fixture) wantPayload(t *testing.T, index uint64, payload []byte) {
	t.Helper()
	res, err := f.GetReceipt(t.Context(), &rpc.GetReceiptRequest{Index: index})
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Parse(res.GetReceipt())
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Extra) != string(payload) {
		t.Errorf("payload %d is not that of its receipt", index)
	}
}

func TestReadPayloadsRefuses(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 5, "k")
	for _, c := range []struct {
		start, end uint64
		want       codes.Code
	}{{0, 6, codes.OutOfRange}, {6, 0, codes.InvalidArgument}, {4, 3, codes.InvalidArgument}} {
		t.Run(fmt.Sprint(c.start, "-", c.end), func(t *testing.T) {
			stream, err := f.ReadPayloads(t.Context(), &rpc.ReadPayloadsRequest{Start: c.start, End: c.end})
			if err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
