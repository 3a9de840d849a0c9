package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// streamWindow is how many requests of one append stream may be under way; past that the
// server reads on only as it answers, and gRPC's flow control holds the client.
const streamWindow = 64

// append is rpc.LogServiceServer's Append; see serviceDesc for how it is called.
func (s *Server) append(ctx context.Context, req *appendRequest) (*appendResponse, error) {
	if req.n == 0 {
		return nil, s.toStatus(ctx, &fieldError{"event", "is required"})
	}
	if err := s.checkWait(req.wait); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	if len(req.refused) > 0 {
		return nil, s.toStatus(ctx, prefixed(req.refused[0].err, "event."))
	}
	results, err := s.log.Append(ctx, producer(ctx), req.events)
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return s.recorded(ctx, results, req)
}

// appendBatch is rpc.LogServiceServer's AppendBatch.
func (s *Server) appendBatch(ctx context.Context, req *appendRequest) (*appendResponse, error) {
	if err := s.checkRequest(req); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	if len(req.refused) > 0 {
		all := &event.InvalidError{}
		for _, r := range req.refused {
			var invalid *event.InvalidError
			if errors.As(r.err, &invalid) {
				all.Violations = append(all.Violations, invalid.WithPrefix(fmt.Sprintf("events[%d].", r.place)).Violations...)
			}
		}
		return nil, s.toStatus(ctx, all)
	}
	results, err := s.log.Append(ctx, producer(ctx), req.events)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return s.recorded(ctx, results, req)
}

// recorded is the answer to a call all of whose events have a result.
func (s *Server) recorded(ctx context.Context, results []log.Result, req *appendRequest) (*appendResponse, error) {
	res := &appendResponse{single: req.single, n: req.n}
	if err := s.complete(ctx, res, results, req.wait); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return res, nil
}

// flight is one request of an append stream whose answer is due.
type flight struct {
	req appendRequest
	// answer has the errors of events that do not go into the log, and lacks the results
	// of the others until call is done; call is nil when there are no others.
	answer appendResponse
	call   *log.Call
}

// flights are those that were answered, for their memory.
var flights = sync.Pool{New: func() any { return new(flight) }}

// maxKeptRequest is the largest request whose memory is kept, in bytes.
const maxKeptRequest = 128 << 10

// release lets go of a flight that was answered.
func (f *flight) release() {
	if f.call != nil {
		f.call.Release()
	}
	f.answer, f.call = appendResponse{}, nil
	if cap(f.req.room) <= maxKeptRequest {
		f.req.reset()
		flights.Put(f)
	}
}

// appendStream is rpc.LogServiceServer's AppendStream.
func (s *Server) appendStream(stream grpc.ServerStream) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	due := make(chan *flight, streamWindow)
	received := make(chan error, 1)
	// The receiver may be waiting for the client when this function returns; gRPC then
	// ends its Recv.
	go func() { received <- s.receive(ctx, stream, due) }()
	for {
		var f *flight
		select {
		case f = <-due: // Mostly there is one, and then asking for nothing else is quicker.
		default:
			select {
			case f = <-due:
			case err := <-received:
				return s.finish(ctx, stream, due, err)
			case <-s.stopping:
				return s.finish(ctx, stream, due, log.ErrStopping)
			}
		}
		if err := s.answer(ctx, stream, f); err != nil {
			cancel(err)
			return s.toStatus(stream.Context(), err)
		}
		f.release()
	}
}

// finish answers what has been received and ends the stream because of err.
func (s *Server) finish(ctx context.Context, stream grpc.ServerStream, due <-chan *flight, err error) error {
	for {
		select {
		case f := <-due:
			if err := s.answer(ctx, stream, f); err != nil {
				return s.toStatus(stream.Context(), err)
			}
		default:
			return s.toStatus(stream.Context(), err)
		}
	}
}

// answer waits for the events of a request and sends their results.
func (s *Server) answer(ctx context.Context, stream grpc.ServerStream, f *flight) error {
	if f.call != nil {
		results, err := f.call.Wait(ctx)
		if err != nil {
			return err
		}
		if err := s.complete(ctx, &f.answer, results, f.req.wait); err != nil {
			return err
		}
	}
	return stream.SendMsg(&f.answer)
}

// receive reads requests, begins to record their events, and hands them on in order.
func (s *Server) receive(ctx context.Context, stream grpc.ServerStream, due chan<- *flight) error {
	who := producer(ctx)
	for {
		f := flights.Get().(*flight)
		err := stream.RecvMsg(&f.req)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-s.stopping:
			return log.ErrStopping
		default:
		}
		if err := s.checkRequest(&f.req); err != nil {
			return err
		}
		if err := s.board(ctx, who, f); err != nil {
			return err
		}
		select {
		case due <- f:
		default:
			select {
			case due <- f:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// board begins to record the events of a request; those that break a rule have their
// answer.
func (s *Server) board(ctx context.Context, who string, f *flight) (err error) {
	req := &f.req
	f.answer = appendResponse{n: req.n}
	for _, r := range req.refused {
		f.answer.fail(r.place, s.appendError(ctx, r.err))
	}
	if len(req.refused) > 0 {
		f.answer.places = make([]int, 0, len(req.events))
		for i := range req.n {
			if f.answer.errors[i] == nil {
				f.answer.places = append(f.answer.places, i)
			}
		}
	}
	if len(req.events) == 0 {
		return nil
	}
	if f.call, err = s.submit(ctx, who, req.events); errors.Is(err, log.ErrOverloaded) {
		for i := range req.n {
			if f.answer.errors[i] == nil {
				f.answer.fail(i, s.appendError(ctx, err))
			}
		}
		f.answer.places = []int{}
		return nil
	}
	return err
}

// overloadRetries and overloadPause bound how long a stream waits for room in the pool
// before it answers that there is none: a stream's sender is held back, not refused, by a
// burst that the next batches take.
const (
	overloadRetries = 50
	overloadPause   = 20 * time.Millisecond
)

func (s *Server) submit(ctx context.Context, who string, events []log.Event) (*log.Call, error) {
	for try := 0; ; try++ {
		call, err := s.log.Submit(ctx, who, events)
		if !errors.Is(err, log.ErrOverloaded) || try == overloadRetries {
			return call, err
		}
		select {
		case <-time.After(overloadPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// complete adds what became of events to an answer.
func (s *Server) complete(ctx context.Context, a *appendResponse, results []log.Result, wait rpc.Wait) error {
	a.results = results
	for i := range results {
		if err := results[i].Err; err != nil {
			place := i
			if a.places != nil {
				place = a.places[i]
			}
			a.fail(place, s.appendError(ctx, err))
		}
	}
	if wait != rpc.Wait_WAIT_PUBLISHED && wait != rpc.Wait_WAIT_WITNESSED {
		return nil
	}
	return s.addReceipts(ctx, a)
}

// addReceipts waits for the checkpoint, and adds the receipts: nothing is published
// without the quorum. An event that was recorded before and whose payload has been
// destroyed since has none.
func (s *Server) addReceipts(ctx context.Context, a *appendResponse) error {
	indexes := make([]uint64, 0, len(a.results))
	for i := range a.results {
		if a.results[i].Err == nil {
			indexes = append(indexes, a.results[i].Index)
		}
	}
	if len(indexes) == 0 {
		return nil
	}
	if _, err := s.log.WaitPublished(ctx, slices.Max(indexes)); err != nil {
		return err
	}
	receipts, err := s.log.Receipts(ctx, indexes)
	if err != nil {
		return err
	}
	a.receipts = make([][]byte, len(a.results))
	for i := range a.results {
		if a.results[i].Err == nil {
			a.receipts[i], receipts = receipts[0], receipts[1:]
		}
	}
	return nil
}

// checkRequest checks a request that may have several events.
func (s *Server) checkRequest(r *appendRequest) error {
	if r.n == 0 {
		return &fieldError{"events", "is empty"}
	}
	if r.n > log.MaxEvents {
		return &fieldError{"events", fmt.Sprintf("has %d elements, more than %d", r.n, log.MaxEvents)}
	}
	return s.checkWait(r.wait)
}

func (s *Server) checkWait(w rpc.Wait) error {
	if _, ok := rpc.Wait_name[int32(w)]; !ok {
		return &fieldError{"wait", fmt.Sprintf("has the unknown value %d", w)}
	}
	if w == rpc.Wait_WAIT_WITNESSED && !s.log.Witnessed() {
		return status.Error(codes.FailedPrecondition, "wait: the log's policy demands no witness, so nothing is ever witnessed; nothing was recorded")
	}
	return nil
}

// prefixed puts a path before the fields of an invalid event.
func prefixed(err error, prefix string) error {
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		return invalid.WithPrefix(prefix)
	}
	return err
}
