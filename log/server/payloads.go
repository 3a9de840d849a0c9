package server

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// A response of ReadPayloads holds at most this many payloads, and is sent as soon as it
// holds this many bytes: with the largest payload it stays far below the 4 MiB that gRPC
// clients take.
const (
	payloadsPerResponse = 1024
	bytesPerResponse    = 256 << 10
)

// ReadPayloads implements rpc.LogServiceServer.
func (s *Server) ReadPayloads(req *rpc.ReadPayloadsRequest, stream grpc.ServerStreamingServer[rpc.ReadPayloadsResponse]) error {
	ctx := stream.Context()
	start, end, err := s.payloadRange(req.GetStart(), req.GetEnd())
	if err != nil {
		return s.toStatus(ctx, err)
	}
	out := &rpc.ReadPayloadsResponse{Start: start}
	bytes := 0
	send := func(next uint64) error {
		err := stream.Send(out)
		out, bytes = &rpc.ReadPayloadsResponse{Start: next}, 0
		return err
	}
	err = s.log.Payloads(ctx, start, end, func(i uint64, payload []byte) error {
		out.Payloads = append(out.Payloads, append([]byte(nil), payload...))
		bytes += len(payload)
		if len(out.Payloads) < payloadsPerResponse && bytes < bytesPerResponse {
			return nil
		}
		return send(i + 1)
	})
	if err == nil && len(out.Payloads) > 0 {
		err = send(end)
	}
	return s.toStatus(ctx, err)
}

// payloadRange returns the published entries that a request asks for; an end of 0 stands for
// all from start on.
func (s *Server) payloadRange(start, end uint64) (uint64, uint64, error) {
	size := s.log.Published().Size
	switch {
	case end == 0:
		end = size
	case end > size:
		return 0, 0, fmt.Errorf("%w: end %d, published are %d", log.ErrUnpublished, end, size)
	}
	if start > end {
		return 0, 0, &fieldError{"start", fmt.Sprintf("is %d, beyond the end, %d", start, end)}
	}
	return start, end, nil
}
