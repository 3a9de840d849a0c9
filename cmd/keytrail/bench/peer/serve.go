package peer

import (
	"context"
	"errors"
	"io"

	"github.com/transparency-dev/tessera"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// streamWindow is as many messages as keytrail's server keeps under way on a stream.
const streamWindow = 64

// service records events behind keytrail's append service.
type service interface {
	// begin starts to record an event that it may keep, and returns what waits for its index.
	begin(ctx context.Context, event []byte) func() (uint64, error)
}

// echo records nothing: it is what gRPC alone takes.
type echo struct{}

func (echo) begin(context.Context, []byte) func() (uint64, error) {
	return func() (uint64, error) { return 1 << 20, nil }
}

// front is Tessera behind a network.
type front struct{ *tesseraLog }

func (f front) begin(ctx context.Context, event []byte) func() (uint64, error) {
	future := f.Add(ctx, tessera.NewEntry(event))
	return func() (uint64, error) { return f.wait(ctx, future) }
}

// NewServer returns a gRPC server for a system: "echo" or "tessera", and what closes the
// system once the server has stopped.
func NewServer(ctx context.Context, system, dir string, o Options) (*grpc.Server, func() error, error) {
	var s service = echo{}
	end := func() error { return nil }
	if system == "tessera" {
		l, err := openTessera(ctx, dir, o)
		if err != nil {
			return nil, nil, err
		}
		s, end = front{l}, l.Close
	} else if system != "echo" {
		return nil, nil, errors.New("only echo and tessera are served here")
	}
	// Windows as keytraild has them: fixed, so that no PING is sent beside each call.
	g := grpc.NewServer(grpc.ForceServerCodecV2(load.Codec{}), grpc.MaxRecvMsgSize(4<<20), grpc.MaxConcurrentStreams(1024),
		grpc.StaticStreamWindowSize(512<<10), grpc.StaticConnWindowSize(1<<20))
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: rpc.LogService_ServiceDesc.ServiceName,
		HandlerType: (*service)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Append", Handler: handleAppend}},
		Streams:     []grpc.StreamDesc{{StreamName: "AppendStream", Handler: handleStream, ServerStreams: true, ClientStreams: true}},
	}, s)
	return g, end, nil
}

func handleAppend(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s, ok := srv.(service)
	if !ok {
		return nil, errors.New("not a service")
	}
	var req load.Frame
	if err := decode(&req); err != nil {
		return nil, err
	}
	var wait func() (uint64, error)
	if err := load.Fields(req.Bytes, func(num protowire.Number, event []byte) error {
		if num == 1 {
			wait = s.begin(ctx, event)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if wait == nil {
		return nil, errors.New("no event")
	}
	index, err := wait()
	if err != nil {
		return nil, err
	}
	return &load.Frame{Bytes: appendAck(nil, index)}, nil
}

// appendAck appends an Ack as field 1, as both kinds of answer have it.
func appendAck(b []byte, index uint64) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(1)+protowire.SizeVarint(index)))
	return protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), index)
}

func handleStream(srv any, stream grpc.ServerStream) error {
	s, ok := srv.(service)
	if !ok {
		return errors.New("not a service")
	}
	flights := make(chan []func() (uint64, error), streamWindow)
	received := make(chan error, 1)
	go func() {
		defer close(flights)
		received <- receive(s, stream, flights)
	}()
	var ack []byte
	for waits := range flights {
		res := load.Frame{}
		for _, wait := range waits {
			index, err := wait()
			if err != nil {
				return err
			}
			ack = appendAck(ack[:0], index)
			res.Bytes = protowire.AppendBytes(protowire.AppendTag(res.Bytes, 1, protowire.BytesType), ack)
		}
		if err := stream.SendMsg(&res); err != nil {
			return err
		}
	}
	return <-received
}

// receive begins to record what comes.
func receive(s service, stream grpc.ServerStream, flights chan<- []func() (uint64, error)) error {
	for {
		var req load.Frame // a new one each time: begin keeps the events
		if err := stream.RecvMsg(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var waits []func() (uint64, error)
		if err := load.Fields(req.Bytes, func(num protowire.Number, event []byte) error {
			if num == 1 {
				waits = append(waits, s.begin(stream.Context(), event))
			}
			return nil
		}); err != nil {
			return err
		}
		select {
		case flights <- waits:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
