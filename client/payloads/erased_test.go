package payloads_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// erasures answers with what it is given.
type erasures struct{ answers []*rpc.ListErasedResponse }

func (s *erasures) ListErased(context.Context, *rpc.ListErasedRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ListErasedResponse], error) {
	return &erasureStream{s: s}, nil
}

type erasureStream struct {
	grpc.ServerStreamingClient[rpc.ListErasedResponse]
	s *erasures
}

func (s *erasureStream) Recv() (*rpc.ListErasedResponse, error) {
	if len(s.s.answers) == 0 {
		return nil, io.EOF
	}
	a := s.s.answers[0]
	s.s.answers = s.s.answers[1:]
	return a, nil
}

// TestErased takes an answer about all of the range only, in order.
func TestErased(t *testing.T) {
	a := func(next uint64, indexes ...uint64) *rpc.ListErasedResponse {
		return &rpc.ListErasedResponse{Next: next, Indexes: indexes}
	}
	for _, c := range []struct {
		name    string
		answers []*rpc.ListErasedResponse
		want    []uint64
		ok      bool
	}{
		{"none", []*rpc.ListErasedResponse{a(20)}, nil, true},
		{"some", []*rpc.ListErasedResponse{a(15, 10, 14), a(17), a(20, 17, 19)}, []uint64{10, 14, 17, 19}, true},
		{"no answer", nil, nil, false},
		{"cut off", []*rpc.ListErasedResponse{a(15, 10)}, []uint64{10}, false},
		{"beyond the end", []*rpc.ListErasedResponse{a(21)}, nil, false},
		{"no progress", []*rpc.ListErasedResponse{a(10)}, nil, false},
		{"before the start", []*rpc.ListErasedResponse{a(20, 9)}, nil, false},
		{"after its own next", []*rpc.ListErasedResponse{a(15, 15)}, nil, false},
		{"twice", []*rpc.ListErasedResponse{a(20, 12, 12)}, nil, false},
		{"not ascending", []*rpc.ListErasedResponse{a(20, 13, 12)}, nil, false},
		{"of an earlier response", []*rpc.ListErasedResponse{a(15, 12), a(20, 13)}, []uint64{12}, false},
	} {
		var got []uint64
		err := payloads.Erased(t.Context(), &erasures{c.answers}, 10, 20, func(indexes []uint64) error {
			got = append(got, indexes...)
			return nil
		})
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, payloads.ErrAnswer)) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}
