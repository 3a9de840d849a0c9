package payloads

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// ErasureService is what is needed of a log to learn what it has erased;
// rpc.LogServiceClient has it.
type ErasureService interface {
	ListErased(context.Context, *rpc.ListErasedRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ListErasedResponse], error)
}

// Erased calls fn with the entries from start up to end, at most the published size, whose
// payload the log has erased: some at a time, ascending, each once. The log is taken at its
// word; ErrAnswer means that the answer is not about these entries, or not about all of them.
func Erased(ctx context.Context, s ErasureService, start, end uint64, fn func(indexes []uint64) error) error {
	if start >= end { // end 0 would ask for all
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.ListErased(ctx, &rpc.ListErasedRequest{Start: start, End: end})
	if err != nil {
		return fmt.Errorf("asking what was erased: %w", err)
	}
	for next := start; next < end; {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: they end before entry %d", ErrAnswer, next)
		}
		if err != nil {
			return fmt.Errorf("asking what was erased from %d on: %w", next, err)
		}
		if err := checkErased(res, next, end); err != nil {
			return err
		}
		if len(res.GetIndexes()) > 0 {
			if err := fn(res.GetIndexes()); err != nil {
				return err
			}
		}
		next = res.GetNext()
	}
	return nil
}

// checkErased sees that a response is about the entries from next on, and goes on.
func checkErased(res *rpc.ListErasedResponse, next, end uint64) error {
	if res.GetNext() <= next || res.GetNext() > end {
		return fmt.Errorf("%w: erased entries from %d to %d, wanted are those from %d to %d", ErrAnswer, next, res.GetNext(), next, end)
	}
	from := next
	for _, i := range res.GetIndexes() {
		if i < from || i >= res.GetNext() {
			return fmt.Errorf("%w: entry %d is out of place among the erased ones from %d to %d", ErrAnswer, i, next, res.GetNext())
		}
		from = i + 1
	}
	return nil
}
