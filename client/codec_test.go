package client

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

func TestLettersAreProtobufs(t *testing.T) {
	evs := []*keytrailv1.KeyEvent{{EventId: "a"}, {}, {EventId: "b", Tenant: string(bytes.Repeat([]byte("x"), 300))}}
	for _, wait := range []rpc.Wait{0, 1, 3, 300} {
		m := &letters{wait: wait}
		for _, ev := range evs {
			b, err := event.Append(nil, ev)
			if err != nil {
				t.Fatal(err)
			}
			m.list = append(m.list, &letter{encoded: b})
		}
		want, err := proto.Marshal(&rpc.AppendStreamRequest{Events: evs, Wait: wait})
		if err != nil {
			t.Fatal(err)
		}
		data, err := newCodec().Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := data.Materialize(); !bytes.Equal(got, want) {
			t.Errorf("wait %d: %x, want %x", wait, got, want)
		}
		data.Free()
	}
}

// checkAnswers holds answers.read against protobuf.
func checkAnswers(t testing.TB, b []byte) {
	t.Helper()
	var want rpc.AppendStreamResponse
	wantErr := proto.Unmarshal(b, &want)
	var a answers
	if err := a.read(b); (err == nil) != (wantErr == nil) {
		t.Fatalf("%x: %v, want %v", b, err, wantErr)
	}
	if wantErr != nil {
		return
	}
	got := &rpc.AppendStreamResponse{Results: a.results}
	if diff := cmp.Diff(&rpc.AppendStreamResponse{Results: want.GetResults()}, got, protocmp.Transform()); diff != "" {
		t.Fatalf("%x (-want +got):\n%s", b, diff)
	}
}

func answersOf(t testing.TB) [][]byte {
	var all rpc.AppendStreamResponse
	ack := func(a *rpc.Ack) {
		all.Results = append(all.Results, &rpc.AppendResult{Result: &rpc.AppendResult_Ack{Ack: a}})
	}
	ack(&rpc.Ack{})
	ack(&rpc.Ack{Index: 1, LoggedAt: &timestamppb.Timestamp{Seconds: 1_800_000_000, Nanos: 5}, KeySequence: 3, PreviousIndex: 4, Duplicate: true})
	ack(&rpc.Ack{Index: math.MaxUint64, LoggedAt: &timestamppb.Timestamp{}})
	ack(&rpc.Ack{LoggedAt: &timestamppb.Timestamp{Seconds: -1, Nanos: -1}})
	ack(&rpc.Ack{Index: 2, Receipt: []byte("receipt")})
	all.Results = append(all.Results, &rpc.AppendResult{Result: &rpc.AppendResult_Error{Error: &rpc.AppendError{Code: 3, Message: "m"}}}, &rpc.AppendResult{})
	b, err := proto.Marshal(&all)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(ack ...byte) []byte {
		return protowire.AppendBytes([]byte{tagResults}, protowire.AppendBytes([]byte{tagAck}, ack))
	}
	return [][]byte{
		nil, b, wrap(tagIndex, 1, tagIndex, 2), wrap(tagDuplicate, 2), wrap(tagKeySequence, 1, tagIndex, 1), wrap(tagIndex),
		wrap(tagLoggedAt, 2, tagNanos, 1), wrap(tagLoggedAt, 4, tagNanos, 1, tagSeconds, 1), wrap(0x98, 6, 1), {tagResults},
		{0x98, 6, 1}, {tagResults, 0, 0x98, 6, 1}, {0xff}, wrap(tagLoggedAt, 0, tagLoggedAt, 2, tagSeconds, 1),
	}
}

func TestReadAnswers(t *testing.T) {
	for _, b := range answersOf(t) {
		checkAnswers(t, b)
		for i := range b {
			checkAnswers(t, b[:i])
			for _, x := range []byte{1, 2, 8, 0x10, 0x80, 0xff} {
				m := bytes.Clone(b)
				m[i] ^= x
				checkAnswers(t, m)
			}
		}
	}
}

// FuzzReadAnswers: answers come to the same as by way of protobuf.
func FuzzReadAnswers(f *testing.F) {
	for _, b := range answersOf(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkAnswers(t, b) })
}
