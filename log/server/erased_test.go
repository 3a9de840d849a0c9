package server_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// TestListErased asks what is erased in ranges that begin and end beside erased entries.
func TestListErased(t *testing.T) {
	t.Parallel()
	const n = 5000
	f := start(t, options{})
	for first := 0; first < n; first += 500 {
		f.append(t, first, first+500, "k")
	}
	var erased []uint64
	for i := uint64(100); i < 4400; i++ { // more than one response
		erased = append(erased, i)
	}
	erased = append(erased, n-1)
	if err := f.store.ErasePayloads(t.Context(), erased); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ start, end uint64 }{{0, n}, {0, 100}, {0, 101}, {100, 102}, {4399, n - 1}, {4400, n}, {n - 1, n}, {7, 7}} {
		var want, got []uint64
		for _, i := range erased {
			if c.start <= i && i < c.end {
				want = append(want, i)
			}
		}
		err := payloads.Erased(t.Context(), f, c.start, c.end, func(indexes []uint64) error {
			got = append(got, indexes...)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d to %d: %d erased, %v; want %d", c.start, c.end, len(got), err, len(want))
		}
	}
	// An end of 0 stands for all.
	stream, err := f.ListErased(t.Context(), &rpc.ListErasedRequest{Start: 4400})
	if err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil || !slices.Equal(res.GetIndexes(), []uint64{n - 1}) || res.GetNext() != n {
		t.Errorf("from 4400 on: %v, %v", res, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestListErasedRefuses(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 5, "k")
	for _, c := range []struct {
		start, end uint64
		want       codes.Code
	}{{0, 6, codes.OutOfRange}, {6, 0, codes.InvalidArgument}, {4, 3, codes.InvalidArgument}} {
		stream, err := f.ListErased(t.Context(), &rpc.ListErasedRequest{Start: c.start, End: c.end})
		if err == nil {
			_, err = stream.Recv()
		}
		if code(err) != c.want {
			t.Errorf("%d to %d: got %v, want %v", c.start, c.end, err, c.want)
		}
	}
}
