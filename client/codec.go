package client

import (
	"encoding/binary"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// codec is protobuf's for append streams: it writes requests from events that are encoded
// already, and reads answers into few allocations.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// letters is an AppendStreamRequest whose events are encoded.
type letters struct {
	list []*letter
	wait rpc.Wait
}

// Tags of AppendStreamRequest, AppendStreamResponse, AppendResult, Ack and Timestamp.
const (
	tagEvents = 1<<3 | byte(protowire.BytesType)
	tagWait   = 2<<3 | byte(protowire.VarintType)

	tagResults = 1<<3 | byte(protowire.BytesType)
	tagAck     = 1<<3 | byte(protowire.BytesType)

	tagIndex         = 1<<3 | byte(protowire.VarintType)
	tagLoggedAt      = 2<<3 | byte(protowire.BytesType)
	tagKeySequence   = 3<<3 | byte(protowire.VarintType)
	tagPreviousIndex = 4<<3 | byte(protowire.VarintType)
	tagDuplicate     = 5<<3 | byte(protowire.VarintType)

	tagSeconds = 1<<3 | byte(protowire.VarintType)
	tagNanos   = 2<<3 | byte(protowire.VarintType)
)

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*letters)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := 1 + protowire.SizeVarint(uint64(m.wait))
	for _, l := range m.list {
		size += 1 + protowire.SizeBytes(len(l.encoded))
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	b := (*buf)[:0]
	for _, l := range m.list {
		b = protowire.AppendBytes(append(b, tagEvents), l.encoded)
	}
	if m.wait != 0 {
		b = protowire.AppendVarint(append(b, tagWait), uint64(m.wait))
	}
	*buf = b
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// answers is an AppendStreamResponse.
type answers struct {
	results []*rpc.AppendResult
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*answers)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return a.read(buf.ReadOnlyData())
}

// read reads an AppendStreamResponse; what is not an ack as nearly all are, without a
// receipt and with its fields in order, is left to protobuf. It keeps nothing of b.
func (a *answers) read(b []byte) error {
	n := 0
	for rest := b; len(rest) > 0; n++ {
		_, size := field(rest, tagResults)
		if size == 0 {
			return a.decode(b)
		}
		rest = rest[size:]
	}
	a.results = make([]*rpc.AppendResult, n)
	acks := make([]struct {
		result rpc.AppendResult
		kind   rpc.AppendResult_Ack
		ack    rpc.Ack
		at     timestamppb.Timestamp
	}, n)
	for i := range n {
		result, size := field(b, tagResults)
		b = b[size:]
		s := &acks[i]
		a.results[i] = &s.result
		if ack, size := field(result, tagAck); size > 0 && size == len(result) && readAck(ack, &s.ack, &s.at) {
			s.kind.Ack = &s.ack
			s.result.Result = &s.kind
			continue
		}
		a.results[i] = new(rpc.AppendResult)
		if err := protobuf.Unmarshal(result, a.results[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *answers) decode(b []byte) error {
	var m rpc.AppendStreamResponse
	if err := protobuf.Unmarshal(b, &m); err != nil {
		return err
	}
	a.results = m.GetResults()
	return nil
}

// readAck reads an ack without a receipt. When it returns false, a and at mean nothing.
func readAck(b []byte, a *rpc.Ack, at *timestamppb.Timestamp) bool {
	a.Index, b = number(b, tagIndex)
	if t, size := field(b, tagLoggedAt); size > 0 {
		var seconds, nanos uint64
		seconds, t = number(t, tagSeconds)
		nanos, t = number(t, tagNanos)
		if len(t) > 0 || nanos >= 1e9 {
			return false
		}
		at.Seconds, at.Nanos = int64(seconds), int32(nanos)
		a.LoggedAt, b = at, b[size:]
	}
	a.KeySequence, b = number(b, tagKeySequence)
	a.PreviousIndex, b = number(b, tagPreviousIndex)
	var duplicate uint64
	duplicate, b = number(b, tagDuplicate)
	a.Duplicate = duplicate != 0
	return len(b) == 0
}

// field returns the value of a field with a length at the beginning of b, and the size of
// the field; 0 when another field stands there, or part of one.
func field(b []byte, tag byte) (value []byte, size int) {
	if len(b) < 2 || b[0] != tag {
		return nil, 0
	}
	length, n := binary.Uvarint(b[1:])
	if n < 1 || length > uint64(len(b)-1-n) {
		return nil, 0
	}
	size = 1 + n + int(length)
	return b[1+n : size], size
}

// number returns the value of a field that is a number at the beginning of b and what
// comes after it; 0 and b when another field stands there, or part of one.
func number(b []byte, tag byte) (v uint64, rest []byte) {
	if len(b) < 2 || b[0] != tag {
		return 0, b
	}
	v, n := binary.Uvarint(b[1:])
	if n < 1 {
		return 0, b
	}
	return v, b[1+n:]
}
