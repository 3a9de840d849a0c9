package server

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// clock is the log's clock in these tests.
var clock = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// byMessage is what a request comes to by way of messages alone.
func byMessage(b []byte, single bool) (*appendRequest, error) {
	r := &appendRequest{single: single}
	var list []*keytrailv1.KeyEvent
	if single {
		var m rpc.AppendRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return nil, err
		}
		if r.wait = m.GetWait(); m.GetEvent() != nil {
			list = append(list, m.GetEvent())
		}
	} else {
		var m rpc.AppendBatchRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return nil, err
		}
		list, r.wait = m.GetEvents(), m.GetWait()
	}
	r.n = len(list)
	for i, ev := range list[:len(list)*max(0, min(1, log.MaxEvents+1-len(list)))] {
		p, err := log.Prepare(ev, clock)
		if err != nil {
			r.refused = append(r.refused, refusal{i, err})
			continue
		}
		r.events = append(r.events, p)
	}
	return r, nil
}

// checkRead holds read against byMessage.
func checkRead(t testing.TB, b []byte, single bool) {
	t.Helper()
	got := &appendRequest{single: single}
	err := got.read(bytes.Clone(b), clock)
	want, wantErr := byMessage(b, single)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%x: %v, want %v", b, err, wantErr)
	}
	if err != nil {
		return
	}
	if got.n != want.n || got.wait != want.wait {
		t.Fatalf("%x: %d events, wait %v; want %d, %v", b, got.n, got.wait, want.n, want.wait)
	}
	if len(got.events) != len(want.events) || len(got.events) > 0 && !reflect.DeepEqual(got.events, want.events) {
		t.Fatalf("%x: other events: %d, want %d", b, len(got.events), len(want.events))
	}
	text := func(list []refusal) (out []string) {
		for _, r := range list {
			out = append(out, fmt.Sprint(r.place, " ", r.err))
		}
		return out
	}
	if diff := cmp.Diff(text(want.refused), text(got.refused)); diff != "" {
		t.Fatalf("%x: refused (-want +got):\n%s", b, diff)
	}
}

// requests are encoded requests, as clients make them and otherwise.
func requests(t testing.TB) [][]byte {
	good, long := logtest.Event(1, "k"), logtest.Event(2, "")
	long.Attributes = []*keytrailv1.Attribute{{Name: "a", Value: string(make([]byte, 300))}}
	for i := range 300 {
		long.Attributes[0].Value = long.Attributes[0].Value[:i] + "x" + long.Attributes[0].Value[i+1:]
	}
	bad := logtest.Event(3, "k")
	bad.Tenant = ""
	late := logtest.Event(4, "k")
	late.Time.Seconds = clock.Unix() + 1e6
	foreign := logtest.Event(5, "k")
	foreign.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01})
	encode := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var out [][]byte
	for _, list := range [][]*keytrailv1.KeyEvent{
		nil, {good}, {long}, {bad}, {late}, {foreign}, {good, bad, long, late, foreign, {}, good}, {good, good},
	} {
		for _, wait := range []rpc.Wait{0, 1, 3, 9, 1 << 20, -1} {
			out = append(out, encode(&rpc.AppendStreamRequest{Events: list, Wait: wait}))
		}
	}
	many := &rpc.AppendStreamRequest{}
	for len(many.Events) < log.MaxEvents+1 {
		many.Events = append(many.Events, good)
	}
	out = append(out, encode(many))
	one, ev := encode(&rpc.AppendRequest{Event: good}), encode(good)
	backwards := append([]byte(nil), ev[2:]...)
	backwards = append(backwards, ev[:2]...)
	return append(out,
		protowire.AppendBytes([]byte{tagEvents}, backwards), // not canonical, and taken
		slices.Concat([]byte{tagWait, 1}, one),              // wait first
		slices.Concat(one, []byte{tagWait, 1, tagWait, 2}),  // twice
		slices.Concat(one, []byte{tagWait, 0x81, 0}),        // long
		slices.Concat(one, []byte{tagWait, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}),
		slices.Concat(one, []byte{0x98, 0x06, 0x01}), // unknown
		slices.Concat(one, []byte{tagEvents}),        // cut off
		slices.Concat(one, []byte{tagEvents, 5, 1}),
		slices.Concat([]byte{tagEvents, byte(len(ev)) | 0x80, byte(len(ev)>>7) | 0x80, 0}, ev),
		protowire.AppendBytes([]byte{tagEvents}, []byte{0x22, 1, 0xff}), // not UTF-8
		protowire.AppendBytes([]byte{tagEvents}, []byte{0xff}),
		[]byte{tagEvents, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		[]byte{0xff},
	)
}

func TestReadRequests(t *testing.T) {
	for _, b := range requests(t) {
		checkRead(t, b, true)
		checkRead(t, b, false)
	}
}

// TestReadCutRequests cuts a request at every byte, and changes every byte.
func TestReadCutRequests(t *testing.T) {
	b, err := proto.Marshal(&rpc.AppendBatchRequest{Events: []*keytrailv1.KeyEvent{logtest.Event(1, "k"), logtest.Event(2, "")}, Wait: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for _, single := range []bool{true, false} {
			checkRead(t, b[:i], single)
			for _, x := range []byte{1, 2, 0x10, 0x80, 0xff} {
				m := bytes.Clone(b)
				m[i] ^= x
				checkRead(t, m, single)
			}
		}
	}
}

// FuzzReadRequest: a request comes to the same as by way of messages.
func FuzzReadRequest(f *testing.F) {
	for _, b := range requests(f) {
		if len(b) < 1<<12 {
			f.Add(b, false)
			f.Add(b, true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, single bool) { checkRead(t, b, single) })
}

// TestReadKeepsNoBuffer: gRPC uses its buffers again as soon as a request is read.
func TestReadKeepsNoBuffer(t *testing.T) {
	want, err := log.Prepare(logtest.Event(1, "k"), clock)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&rpc.AppendRequest{Event: logtest.Event(1, "k")})
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, len(b) / 2} { // in one buffer, and in two
		buf := bytes.Clone(b)
		data := mem.BufferSlice{mem.SliceBuffer(buf[:cut]), mem.SliceBuffer(buf[cut:])}
		r := &appendRequest{single: true}
		if err := newCodec().Unmarshal(data, r); err != nil {
			t.Fatal(err)
		}
		clear(buf)
		if len(r.events) != 1 || !reflect.DeepEqual(r.events[0], want) {
			t.Errorf("cut at %d: the event changed with the buffer", cut)
		}
	}
}

// TestReadErrorIsProtobufs: callers see the same text as from any gRPC server.
func TestReadErrorIsProtobufs(t *testing.T) {
	for _, b := range [][]byte{{tagEvents, 3, 0x22, 1, 0xff}, {tagEvents, 1, 0xff}, {0xff}} {
		got, want := new(appendRequest).read(b, clock), proto.Unmarshal(b, new(rpc.AppendBatchRequest))
		if got == nil || got.Error() != want.Error() {
			t.Errorf("%x: %v, want %v", b, got, want)
		}
		var invalid *event.InvalidError
		if errors.As(got, &invalid) {
			t.Errorf("%x: %v names a field", b, got)
		}
	}
}
