package server

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// codec is protobuf's, and reads and writes the messages of appends by hand: they are what
// a log server does all day, and messages built of them would cost more than all that is
// done with the events.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*appendRequest); ok {
		return r.read(r.keep(data), time.Now())
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*appendResponse)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := a.size()
	if mem.IsBelowBufferPoolingThreshold(size) {
		return mem.BufferSlice{mem.SliceBuffer(a.append(make([]byte, 0, size)))}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	*buf = a.append((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// serviceDesc is the generated description of the service, with handlers for the appends
// that hand on what the codec reads.
func serviceDesc() *grpc.ServiceDesc {
	d := rpc.LogService_ServiceDesc
	d.Methods, d.Streams = slices.Clone(d.Methods), slices.Clone(d.Streams)
	for i := range d.Methods {
		switch m := &d.Methods[i]; m.MethodName {
		case "Append":
			m.Handler = unary(rpc.LogService_Append_FullMethodName, true, (*Server).append)
		case "AppendBatch":
			m.Handler = unary(rpc.LogService_AppendBatch_FullMethodName, false, (*Server).appendBatch)
		}
	}
	for i := range d.Streams {
		if d.Streams[i].StreamName == "AppendStream" {
			d.Streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
				return srv.(*Server).appendStream(stream)
			}
		}
	}
	return &d
}

// unary is a handler as protoc-gen-go-grpc writes it.
func unary(method string, single bool, f func(*Server, context.Context, *appendRequest) (*appendResponse, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, read func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := &appendRequest{single: single}
		if err := read(in); err != nil {
			return nil, err
		}
		if interceptor == nil {
			return f(srv.(*Server), ctx, in)
		}
		handler := func(ctx context.Context, req any) (any, error) {
			return f(srv.(*Server), ctx, req.(*appendRequest))
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, handler)
	}
}
