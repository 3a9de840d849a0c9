package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// Appender appends over one stream. It is for one goroutine at a time; a Queue is for many.
type Appender struct {
	stream grpc.ClientStream
	wait   rpc.Wait
}

// Stream opens an append stream, which lasts until ctx ends or Close.
func (c *Client) Stream(ctx context.Context, wait rpc.Wait) (*Appender, error) {
	s, err := c.openStream(ctx)
	if err != nil {
		return nil, err
	}
	return &Appender{stream: s, wait: wait}, nil
}

func (c *Client) openStream(ctx context.Context) (grpc.ClientStream, error) {
	desc := &grpc.StreamDesc{StreamName: "AppendStream", ServerStreams: true, ClientStreams: true}
	s, err := c.conn.NewStream(ctx, desc, rpc.LogService_AppendStream_FullMethodName, grpc.ForceCodecV2(newCodec()))
	if err != nil {
		return nil, fmt.Errorf("opening an append stream: %w", err)
	}
	return s, nil
}

// Append sends 1 to 1,000 events and waits for their results, one each, in order.
func (a *Appender) Append(_ context.Context, events []*keytrailv1.KeyEvent) ([]*rpc.AppendResult, error) {
	// When the server has ended the stream, sending says no more than that; receiving says why.
	_ = a.stream.SendMsg(&rpc.AppendStreamRequest{Events: events, Wait: a.wait})
	var res answers
	if err := a.stream.RecvMsg(&res); err != nil {
		return nil, err
	}
	return res.results, nil
}

// Close ends the stream.
func (a *Appender) Close() error { return a.stream.CloseSend() }
