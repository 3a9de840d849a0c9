package server

import (
	"bytes"
	"context"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// message is the answer as protobuf's message.
func (a *appendResponse) message() proto.Message {
	m := &rpc.AppendStreamResponse{}
	a.each(func(r *log.Result, receipt []byte, e *rpc.AppendError) {
		if e != nil {
			m.Results = append(m.Results, &rpc.AppendResult{Result: &rpc.AppendResult_Error{Error: e}})
			return
		}
		ack := &rpc.Ack{Index: r.Index, KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex, Duplicate: r.Duplicate, Receipt: receipt}
		if !r.LoggedAt.IsZero() {
			ack.LoggedAt = timestamppb.New(r.LoggedAt)
		}
		m.Results = append(m.Results, &rpc.AppendResult{Result: &rpc.AppendResult_Ack{Ack: ack}})
	})
	if a.single {
		return &rpc.AppendResponse{Ack: m.Results[0].GetAck()}
	}
	return m
}

func TestResponseIsProtobufs(t *testing.T) {
	var results []log.Result
	for _, n := range []uint64{0, 1, 127, 128, 1 << 40, math.MaxUint64} {
		for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(1, 0), time.Unix(1_800_000_000, 999_999_999), time.Unix(253402300799, 1)} {
			results = append(results, log.Result{Index: n, LoggedAt: at, KeySequence: n / 2, PreviousIndex: n / 3, Duplicate: n%2 == 1})
		}
	}
	receipts := make([][]byte, len(results))
	for i := range receipts {
		receipts[i] = make([]byte, i*i*3)
	}
	fail := map[int]*rpc.AppendError{
		0: {Code: 3, Message: "ä", FieldViolations: []*rpc.FieldViolation{{Field: "f", Description: "d"}}},
		3: {Code: 6, ExistingIndex: proto.Uint64(0)},
		4: {},
	}
	cases := []*appendResponse{
		{}, {n: len(results), results: results}, {n: len(results), results: results, receipts: receipts},
		{n: 5, results: results[:2], places: []int{1, 2}, errors: fail},
		{n: 5, results: results[:5], errors: fail}, // conflicts: the log took them, and refused
		{n: 1, places: []int{}, errors: fail},
	}
	for i := range results {
		cases = append(cases, &appendResponse{single: true, n: 1, results: results[i : i+1], receipts: receipts[i : i+1]})
	}
	for i, a := range cases {
		want, err := proto.Marshal(a.message())
		if err != nil {
			t.Fatal(err)
		}
		if got := a.append(nil); !bytes.Equal(got, want) || a.size() != len(want) {
			t.Errorf("case %d, size %d of %d:\n%x, want\n%x", i, a.size(), len(want), got, want)
		}
		data, err := newCodec().Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if got := data.Materialize(); !bytes.Equal(got, want) {
			t.Errorf("case %d from the codec: %x", i, got)
		}
		data.Free()
	}
}

// TestCodecLeavesOthersAlone: all messages but those of appends are protobuf's business.
func TestCodecLeavesOthersAlone(t *testing.T) {
	in := &rpc.GetEntryRequest{Index: 7}
	data, err := newCodec().Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := &rpc.GetEntryRequest{}
	if err := newCodec().Unmarshal(data, out); err != nil || !proto.Equal(in, out) {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := newCodec().Marshal("text"); err == nil {
		t.Error("wrote a string")
	}
	if err := newCodec().Unmarshal(mem.BufferSlice{}, new(int)); err == nil {
		t.Error("read a number")
	}
	if name := newCodec().Name(); name != "proto" {
		t.Errorf("the codec is called %q", name)
	}
}

// TestUnaryInterceptors: a handler of ours calls interceptors as generated ones do.
func TestUnaryInterceptors(t *testing.T) {
	own, generated := serviceDesc(), &rpc.LogService_ServiceDesc
	if len(own.Methods) != len(generated.Methods) || len(own.Streams) != len(generated.Streams) ||
		own.ServiceName != generated.ServiceName || own.Metadata != generated.Metadata {
		t.Fatal("another service")
	}
	replaced := 0
	for i, m := range own.Methods {
		if m.MethodName != generated.Methods[i].MethodName {
			t.Errorf("method %d is %s", i, m.MethodName)
		}
		if m.MethodName != "Append" && m.MethodName != "AppendBatch" {
			continue
		}
		replaced++
		var called string
		_, err := m.Handler(&Server{}, t.Context(), func(v any) error {
			v.(*appendRequest).n = 1
			return nil
		}, func(_ context.Context, req any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			called = info.FullMethod
			if r := req.(*appendRequest); r.n != 1 || r.single != (m.MethodName == "Append") {
				t.Errorf("%s: request %+v", m.MethodName, r)
			}
			return nil, nil
		})
		if want := "/keytrail.v1.LogService/" + m.MethodName; err != nil || called != want {
			t.Errorf("called %q, %v; want %q", called, err, want)
		}
	}
	if replaced != 2 {
		t.Errorf("%d methods", replaced)
	}
}
