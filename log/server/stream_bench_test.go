package server_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// BenchmarkStream measures events over one append stream, client and server in one process
// and the store in memory: what is left is what gRPC, the server and the log's own work
// cost.
func BenchmarkStream(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("events=%d", batch), func(b *testing.B) {
			f := start(b, options{})
			s, err := f.AppendStream(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			event := logtest.Event(0, "k")
			reqs := make([]*rpc.AppendStreamRequest, 0, b.N/batch+1)
			for n := 0; n < b.N; n += batch {
				req := &rpc.AppendStreamRequest{}
				for i := n; i < min(n+batch, b.N); i++ {
					ev := proto.Clone(event).(*keytrailv1.KeyEvent)
					ev.EventId = fmt.Sprint("event-", i)
					req.Events = append(req.Events, ev)
				}
				reqs = append(reqs, req)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var g errgroup.Group
			g.Go(func() error {
				for _, req := range reqs {
					if err := s.Send(req); err != nil {
						return nil // the receiver has the reason
					}
				}
				return s.CloseSend()
			})
			for range reqs {
				if _, err := s.Recv(); err != nil {
					b.Fatal(err)
				}
			}
			if err := g.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
