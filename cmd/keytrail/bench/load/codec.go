// Package load offers events to a server over gRPC and measures when they are acknowledged.
//
// It shares the cores with what it measures, so it builds no messages: requests are bytes
// from package payload, answers are read as bytes, and buffers are used again. Its functions
// may be called concurrently; they make nothing durable and trust the server's answers.
package load

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// A Frame is one encoded message.
type Frame struct{ Bytes []byte }

// Codec hands frames on as they are. Its name is that of the codec of generated messages,
// so that the other side cannot tell.
type Codec struct{}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. The frame may be changed again once the answer to it
// has come.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		return nil, fmt.Errorf("encoding a %T as a frame", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.Bytes)}, nil
}

// Unmarshal implements encoding.CodecV2. It copies: gRPC takes its buffers back.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*Frame)
	if !ok {
		return fmt.Errorf("decoding a %T as a frame", v)
	}
	n := data.Len()
	if cap(f.Bytes) < n {
		f.Bytes = make([]byte, n)
	}
	f.Bytes = f.Bytes[:n]
	data.CopyTo(f.Bytes)
	return nil
}

var errRefused = errors.New("the log refused an event")

// results counts the results in an answer to a message with several events; one that is an
// error is an error.
func results(b []byte) (n int, err error) {
	err = Fields(b, func(num protowire.Number, result []byte) error {
		if num != 1 {
			return nil
		}
		n++
		return Fields(result, func(num protowire.Number, text []byte) error {
			if num == 2 {
				return fmt.Errorf("%w: %q", errRefused, text)
			}
			return nil
		})
	})
	return n, err
}

// Fields calls fn for each field of a message that has a length.
func Fields(b []byte, fn func(num protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := fn(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
