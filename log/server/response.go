package server

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// appendResponse is what the server answers to an append. It is written as an
// AppendResponse when it is single, and as an AppendBatchResponse or AppendStreamResponse,
// which look alike, when it is not.
type appendResponse struct {
	single bool
	// n is how many events the request had.
	n int
	// results are what became of the events that the log took, receipts their receipts if
	// the caller waited for these, and places where they stood in the request; nil when
	// all of them were taken.
	results  []log.Result
	receipts [][]byte
	places   []int
	// errors are those of single events, by their places in the request.
	errors map[int]*rpc.AppendError
}

func (a *appendResponse) fail(place int, e *rpc.AppendError) {
	if a.errors == nil {
		a.errors = make(map[int]*rpc.AppendError)
	}
	a.errors[place] = e
}

// each calls f for every event of the request, in order: with its result and receipt, or
// with its error.
func (a *appendResponse) each(f func(r *log.Result, receipt []byte, e *rpc.AppendError)) {
	next := 0
	for i := range a.n {
		var r *log.Result
		var receipt []byte
		if a.places == nil || next < len(a.places) && a.places[next] == i {
			r = &a.results[next]
			if a.receipts != nil {
				receipt = a.receipts[next]
			}
			next++
		}
		f(r, receipt, a.errors[i])
	}
}

// Tags of the fields of the answers.
const (
	tagResults = 1<<3 | byte(protowire.BytesType) // and ack of AppendResponse

	tagAck   = 1<<3 | byte(protowire.BytesType)
	tagError = 2<<3 | byte(protowire.BytesType)

	tagIndex         = 1<<3 | byte(protowire.VarintType)
	tagLoggedAt      = 2<<3 | byte(protowire.BytesType)
	tagKeySequence   = 3<<3 | byte(protowire.VarintType)
	tagPreviousIndex = 4<<3 | byte(protowire.VarintType)
	tagDuplicate     = 5<<3 | byte(protowire.VarintType)
	tagReceipt       = 6<<3 | byte(protowire.BytesType)

	tagSeconds = 1<<3 | byte(protowire.VarintType)
	tagNanos   = 2<<3 | byte(protowire.VarintType)
)

// size is the length of what append appends.
func (a *appendResponse) size() int {
	total := 0
	a.each(func(r *log.Result, receipt []byte, e *rpc.AppendError) {
		n := 0
		if e != nil {
			n = proto.Size(e)
		} else {
			n = ackSize(r, receipt)
		}
		if !a.single {
			n = 1 + protowire.SizeBytes(n)
		}
		total += 1 + protowire.SizeBytes(n)
	})
	return total
}

// append appends the encoding of the answer as protobuf gives it.
func (a *appendResponse) append(b []byte) []byte {
	a.each(func(r *log.Result, receipt []byte, e *rpc.AppendError) {
		n, tag := 0, tagAck
		if e != nil {
			n, tag = proto.Size(e), tagError
		} else {
			n = ackSize(r, receipt)
		}
		if !a.single {
			b = append(b, tagResults)
			b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(n)))
		}
		b = append(b, tag)
		b = protowire.AppendVarint(b, uint64(n))
		if e == nil {
			b = appendAck(b, r, receipt)
			return
		}
		// It cannot fail: all strings are the server's own, or validated.
		b, _ = proto.MarshalOptions{}.MarshalAppend(b, e)
	})
	return b
}

func ackSize(r *log.Result, receipt []byte) int {
	n := uintSize(r.Index) + uintSize(r.KeySequence) + uintSize(r.PreviousIndex)
	if !r.LoggedAt.IsZero() {
		n += 1 + protowire.SizeBytes(timeSize(r))
	}
	if r.Duplicate {
		n += 2
	}
	if len(receipt) > 0 {
		n += 1 + protowire.SizeBytes(len(receipt))
	}
	return n
}

func timeSize(r *log.Result) int {
	return uintSize(uint64(r.LoggedAt.Unix())) + uintSize(uint64(r.LoggedAt.Nanosecond()))
}

func appendAck(b []byte, r *log.Result, receipt []byte) []byte {
	b = appendUint(b, tagIndex, r.Index)
	if !r.LoggedAt.IsZero() {
		b = append(b, tagLoggedAt, byte(timeSize(r)))
		b = appendUint(b, tagSeconds, uint64(r.LoggedAt.Unix()))
		b = appendUint(b, tagNanos, uint64(r.LoggedAt.Nanosecond()))
	}
	b = appendUint(b, tagKeySequence, r.KeySequence)
	b = appendUint(b, tagPreviousIndex, r.PreviousIndex)
	if r.Duplicate {
		b = append(b, tagDuplicate, 1)
	}
	if len(receipt) > 0 {
		b = append(b, tagReceipt)
		b = protowire.AppendBytes(b, receipt)
	}
	return b
}

// appendUint leaves zero out, as proto3 does.
func appendUint(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, tag), v)
}

func uintSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}
