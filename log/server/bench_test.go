package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// events are n events of about 500 bytes.
func benchEvents(n int) []*keytrailv1.KeyEvent {
	out := make([]*keytrailv1.KeyEvent, n)
	for i := range out {
		out[i] = logtest.Event(i, fmt.Sprint("arn:bench:eu-central-1:111122223333:key/", i))
		out[i].Attributes = []*keytrailv1.Attribute{{Name: "filler", Value: strings.Repeat("x", 300)}}
	}
	return out
}

// BenchmarkRead measures what a request costs from gRPC's buffers to events that the log
// takes; messages=true by way of messages, as every gRPC server does it.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1, 64} {
		in, err := proto.Marshal(&rpc.AppendStreamRequest{Events: benchEvents(n)})
		if err != nil {
			b.Fatal(err)
		}
		data := mem.BufferSlice{mem.SliceBuffer(in)}
		own, std := newCodec(), encoding.GetCodecV2("proto")
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := &appendRequest{}
				if err := own.Unmarshal(data, r); err != nil || len(r.events) != n {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("events=%d,messages=true", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := &rpc.AppendStreamRequest{}
				if err := std.Unmarshal(data, r); err != nil {
					b.Fatal(err)
				}
				now := time.Now()
				for _, ev := range r.GetEvents() {
					if _, err := log.Prepare(ev, now); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkAnswer measures an answer from the log's results to gRPC's buffers.
func BenchmarkAnswer(b *testing.B) {
	for _, n := range []int{1, 64} {
		results := make([]log.Result, n)
		for i := range results {
			results[i] = log.Result{Index: 1 << 22, LoggedAt: time.Unix(1_800_000_000, 123456789), KeySequence: 17, PreviousIndex: 1 << 21}
		}
		own, std := newCodec(), encoding.GetCodecV2("proto")
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				data, err := own.Marshal(&appendResponse{n: n, results: results})
				if err != nil {
					b.Fatal(err)
				}
				data.Free()
			}
		})
		b.Run(fmt.Sprintf("events=%d,messages=true", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				data, err := std.Marshal((&appendResponse{n: n, results: results}).message())
				if err != nil {
					b.Fatal(err)
				}
				data.Free()
			}
		})
	}
}
