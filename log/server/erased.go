package server

import (
	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// A response of ListErased names at most this many entries, and says how far it has come
// after looking at so many.
const (
	erasedPerResponse   = 4096
	lookedAtPerResponse = 1 << 16
)

// ListErased implements rpc.LogServiceServer.
func (s *Server) ListErased(req *rpc.ListErasedRequest, stream grpc.ServerStreamingServer[rpc.ListErasedResponse]) error {
	ctx := stream.Context()
	start, end, err := s.payloadRange(req.GetStart(), req.GetEnd())
	if err != nil {
		return s.toStatus(ctx, err)
	}
	out, sent := new(rpc.ListErasedResponse), start
	send := func(next uint64) error {
		out.Next = next
		err := stream.Send(out)
		out, sent = new(rpc.ListErasedResponse), next
		return err
	}
	err = s.log.Payloads(ctx, start, end, func(i uint64, payload []byte) error {
		if payload == nil {
			out.Indexes = append(out.Indexes, i)
		}
		if len(out.Indexes) < erasedPerResponse && i+1-sent < lookedAtPerResponse {
			return nil
		}
		return send(i + 1)
	})
	if err == nil && sent < end {
		err = send(end)
	}
	return s.toStatus(ctx, err)
}
