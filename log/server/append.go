package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// streamWindow is how many requests of one append stream may be under way; past that the
// server reads on only as it answers, and gRPC's flow control holds the client.
const streamWindow = 64

// Append implements rpc.LogServiceServer.
func (s *Server) Append(ctx context.Context, req *rpc.AppendRequest) (*rpc.AppendResponse, error) {
	if req.GetEvent() == nil {
		return nil, s.toStatus(ctx, &fieldError{"event", "is required"})
	}
	if err := s.checkWait(req.GetWait()); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	ev, err := log.Prepare(req.GetEvent(), time.Now())
	if err != nil {
		return nil, s.toStatus(ctx, prefixed(err, "event."))
	}
	results, err := s.log.Append(ctx, producer(ctx), []log.Event{ev})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	a := ack(&results[0])
	if err := s.addReceipts(ctx, []*rpc.Ack{a}, req.GetWait()); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &rpc.AppendResponse{Ack: a}, nil
}

// AppendBatch implements rpc.LogServiceServer.
func (s *Server) AppendBatch(ctx context.Context, req *rpc.AppendBatchRequest) (*rpc.AppendBatchResponse, error) {
	if err := s.checkRequest(len(req.GetEvents()), req.GetWait()); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	now := time.Now()
	events := make([]log.Event, len(req.GetEvents()))
	all := &event.InvalidError{}
	for i, ev := range req.GetEvents() {
		var err error
		events[i], err = log.Prepare(ev, now)
		var invalid *event.InvalidError
		switch {
		case errors.As(err, &invalid):
			all.Violations = append(all.Violations, invalid.WithPrefix(fmt.Sprintf("events[%d].", i)).Violations...)
		case err != nil:
			return nil, s.toStatus(ctx, err)
		}
	}
	if len(all.Violations) > 0 {
		return nil, s.toStatus(ctx, all)
	}
	results, err := s.log.Append(ctx, producer(ctx), events)
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	out, err := s.results(ctx, results, req.GetWait())
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &rpc.AppendBatchResponse{Results: out}, nil
}

// flight is one request of an append stream whose answer is due.
type flight struct {
	// results has an entry for each event; those of events that go into the log are nil
	// until call is done, and places says which.
	results []*rpc.AppendResult
	places  []int
	call    *log.Call
	wait    rpc.Wait
}

// AppendStream implements rpc.LogServiceServer.
func (s *Server) AppendStream(stream rpc.LogService_AppendStreamServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	flights := make(chan *flight, streamWindow)
	received := make(chan error, 1)
	// The receiver may be waiting for the client when this function returns; gRPC then
	// ends its Recv.
	go func() { received <- s.receive(ctx, stream, flights) }()
	for {
		select {
		case f := <-flights:
			if err := s.answer(ctx, stream, f); err != nil {
				cancel(err)
				return s.toStatus(stream.Context(), err)
			}
		case err := <-received:
			return s.finish(ctx, stream, flights, err)
		case <-s.stopping:
			return s.finish(ctx, stream, flights, log.ErrStopping)
		}
	}
}

// finish answers what has been received and ends the stream because of err.
func (s *Server) finish(ctx context.Context, stream rpc.LogService_AppendStreamServer, flights <-chan *flight, err error) error {
	for {
		select {
		case f := <-flights:
			if err := s.answer(ctx, stream, f); err != nil {
				return s.toStatus(stream.Context(), err)
			}
		default:
			return s.toStatus(stream.Context(), err)
		}
	}
}

// answer waits for the events of a request and sends their results.
func (s *Server) answer(ctx context.Context, stream rpc.LogService_AppendStreamServer, f *flight) error {
	res, err := s.land(ctx, f)
	if err != nil {
		return err
	}
	return stream.Send(&rpc.AppendStreamResponse{Results: res})
}

// receive reads requests, begins to record their events, and hands them on in order.
func (s *Server) receive(ctx context.Context, stream rpc.LogService_AppendStreamServer, flights chan<- *flight) error {
	who := producer(ctx)
	for {
		req, err := stream.Recv()
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
		if err := s.checkRequest(len(req.GetEvents()), req.GetWait()); err != nil {
			return err
		}
		f, events := s.board(ctx, req.GetEvents())
		f.wait = req.GetWait()
		if len(events) > 0 {
			if f.call, err = s.submit(ctx, who, events); err != nil {
				if !errors.Is(err, log.ErrOverloaded) {
					return err
				}
				for _, i := range f.places {
					f.results[i] = s.appendError(ctx, err)
				}
				f.places = nil
			}
		}
		select {
		case flights <- f:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// board prepares the events of a request; those that break a rule have their answer.
func (s *Server) board(ctx context.Context, in []*keytrailv1.KeyEvent) (*flight, []log.Event) {
	f := &flight{results: make([]*rpc.AppendResult, len(in))}
	events := make([]log.Event, 0, len(in))
	now := time.Now()
	for i, ev := range in {
		e, err := log.Prepare(ev, now)
		if err != nil {
			f.results[i] = s.appendError(ctx, err)
			continue
		}
		events = append(events, e)
		f.places = append(f.places, i)
	}
	return f, events
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

// land waits for a request's events and completes its answer.
func (s *Server) land(ctx context.Context, f *flight) ([]*rpc.AppendResult, error) {
	if f.call == nil {
		return f.results, nil
	}
	results, err := f.call.Wait(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.results(ctx, results, f.wait)
	if err != nil {
		return nil, err
	}
	for i, place := range f.places {
		f.results[place] = done[i]
	}
	return f.results, nil
}

func (s *Server) results(ctx context.Context, in []log.Result, wait rpc.Wait) ([]*rpc.AppendResult, error) {
	out := make([]*rpc.AppendResult, len(in))
	acks := make([]*rpc.Ack, 0, len(in))
	for i := range in {
		if in[i].Err != nil {
			out[i] = s.appendError(ctx, in[i].Err)
			continue
		}
		a := ack(&in[i])
		acks = append(acks, a)
		out[i] = &rpc.AppendResult{Result: &rpc.AppendResult_Ack{Ack: a}}
	}
	return out, s.addReceipts(ctx, acks, wait)
}

// ack makes the answer for one recorded event.
func ack(r *log.Result) *rpc.Ack {
	a := &rpc.Ack{
		Index: r.Index, KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex, Duplicate: r.Duplicate,
	}
	if !r.LoggedAt.IsZero() {
		a.LoggedAt = timestamppb.New(r.LoggedAt)
	}
	return a
}

// addReceipts waits, with WAIT_PUBLISHED and WAIT_WITNESSED, for the checkpoint, and adds
// the receipts: nothing is published without the quorum. An event that was recorded before
// and whose payload has been destroyed since has none.
func (s *Server) addReceipts(ctx context.Context, acks []*rpc.Ack, wait rpc.Wait) error {
	if len(acks) == 0 || (wait != rpc.Wait_WAIT_PUBLISHED && wait != rpc.Wait_WAIT_WITNESSED) {
		return nil
	}
	indexes := make([]uint64, len(acks))
	for i, a := range acks {
		indexes[i] = a.GetIndex()
	}
	if _, err := s.log.WaitPublished(ctx, slices.Max(indexes)); err != nil {
		return err
	}
	receipts, err := s.log.Receipts(ctx, indexes)
	if err != nil {
		return err
	}
	for i := range acks {
		acks[i].Receipt = receipts[i]
	}
	return nil
}

func (s *Server) checkRequest(events int, wait rpc.Wait) error {
	if events == 0 {
		return &fieldError{"events", "is empty"}
	}
	if events > log.MaxEvents {
		return &fieldError{"events", fmt.Sprintf("has %d elements, more than %d", events, log.MaxEvents)}
	}
	return s.checkWait(wait)
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
