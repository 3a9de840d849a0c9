// Package payloads reads what stands behind a log's leaves, salt and record, over gRPC, and
// checks it from outside: each payload against its leaf, and the records against each other.
//
// A Reader and a Checker are for one goroutine at a time; Examine is a pure function.
// Nothing is made durable. A Reader is trusted with nothing: it hands out what the server
// sends, in order and bounded in size. Examine and Checker are trusted to find every
// payload that does not open its leaf, given leaves that have been verified.
package payloads

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
)

// Service is what is needed of a log; rpc.LogServiceClient has it.
type Service interface {
	ReadPayloads(context.Context, *rpc.ReadPayloadsRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error)
}

// ErrAnswer means that the server sent something else than the payloads that were asked for.
var ErrAnswer = errors.New("not the payloads that were asked for")

// Reader reads the payloads of consecutive entries.
type Reader struct {
	stream  grpc.ServerStreamingClient[rpc.ReadPayloadsResponse]
	cancel  context.CancelFunc
	next    uint64
	end     uint64
	waiting [][]byte
}

// Read asks for the payloads of the entries from start up to end, at most the published
// size. The caller closes the reader.
func Read(ctx context.Context, s Service, start, end uint64) (*Reader, error) {
	if start > end {
		return nil, fmt.Errorf("reading payloads: from %d to %d", start, end)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Reader{cancel: cancel, next: start, end: end}
	if start == end { // end 0 would ask for all
		return r, nil
	}
	var err error
	if r.stream, err = s.ReadPayloads(ctx, &rpc.ReadPayloadsRequest{Start: start, End: end}); err != nil {
		cancel()
		return nil, fmt.Errorf("reading payloads from %d: %w", start, err)
	}
	return r, nil
}

// Next returns the payload of the next entry, nil where it was erased, and io.EOF after the
// last one. The slice is the caller's.
func (r *Reader) Next() ([]byte, error) {
	if r.next == r.end {
		return nil, io.EOF
	}
	for len(r.waiting) == 0 {
		res, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: they end before entry %d", ErrAnswer, r.next)
		}
		if err != nil {
			return nil, fmt.Errorf("reading payloads from %d: %w", r.next, err)
		}
		n := uint64(len(res.GetPayloads()))
		if n == 0 || res.GetStart() != r.next || n > r.end-r.next {
			return nil, fmt.Errorf("%w: %d of them from entry %d, wanted are entries %d to %d", ErrAnswer, n, res.GetStart(), r.next, r.end)
		}
		r.waiting = res.GetPayloads()
	}
	p := r.waiting[0]
	switch {
	case len(p) > record.MaxPayloadSize:
		return nil, fmt.Errorf("%w: entry %d has %d bytes, more than %d", ErrAnswer, r.next, len(p), record.MaxPayloadSize)
	case len(p) == 0:
		p = nil
	}
	r.waiting = r.waiting[1:]
	r.next++
	return p, nil
}

// Close ends the reading.
func (r *Reader) Close() { r.cancel() }
