package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/server"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	for n := range 3 {
		res, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(n, "k")})
		if err != nil {
			t.Fatal(err)
		}
		ack := res.GetAck()
		if ack.GetIndex() != uint64(n) || ack.GetKeySequence() != uint64(n+1) || ack.GetDuplicate() || ack.GetLoggedAt() == nil || ack.GetReceipt() != nil {
			t.Errorf("event %d: %v", n, ack)
		}
		if n > 0 && ack.GetPreviousIndex() != uint64(n-1) {
			t.Errorf("event %d: %v", n, ack)
		}
	}
	if f.log.DurableSize() != 3 {
		t.Errorf("acknowledged 3 events, durable are %d", f.log.DurableSize())
	}
	again, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1, "k")})
	if err != nil {
		t.Fatal(err)
	}
	if a := again.GetAck(); !a.GetDuplicate() || a.GetIndex() != 1 || a.GetKeySequence() != 2 || a.GetPreviousIndex() != 0 {
		t.Errorf("second time: %v", a)
	}
}

func TestAppendWaitPublishedBringsReceipt(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	for range 2 { // the second is a duplicate
		res, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(7, "k"), Wait: rpc.Wait_WAIT_PUBLISHED})
		if err != nil {
			t.Fatal(err)
		}
		got, err := verify.Receipt(res.GetAck().GetReceipt(), f.policy(t))
		if err != nil {
			t.Fatal(err)
		}
		if got.Entry.Index != 0 || got.Entry.Event.GetEventId() != "event-7" {
			t.Errorf("the receipt is of %v", got.Entry)
		}
	}
}

func TestAppendRefusesWhatBreaksRules(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	bad := logtest.Event(0, "a\x00b")
	bad.Tenant = ""
	st := fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: bad})), codes.InvalidArgument)
	if diff := cmp.Diff([]string{"event.tenant", "event.key.ref"}, violations(st)); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	st = fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{})), codes.InvalidArgument)
	if diff := cmp.Diff([]string{"event"}, violations(st)); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	st = fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(0, "k"), Wait: 99})), codes.InvalidArgument)
	if diff := cmp.Diff([]string{"wait"}, violations(st)); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	if f.log.DurableSize() != 0 {
		t.Errorf("%d entries were written", f.log.DurableSize())
	}
}

func TestAppendBatchIsRefusedWhole(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	req := &rpc.AppendBatchRequest{}
	for n := range 5 {
		req.Events = append(req.Events, logtest.Event(n, "k"))
	}
	req.Events[3].Tenant = ""
	req.Events[4].Key.Ref = strings.Repeat("x", 1<<14)
	st := fails(t, second(f.AppendBatch(t.Context(), req)), codes.InvalidArgument)
	if diff := cmp.Diff([]string{"events[3].tenant", "events[4].key.ref"}, violations(st)); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	// Status and details must fit into the headers that clients take.
	req.Events = nil
	for range 1000 {
		req.Events = append(req.Events, &keytrailv1.KeyEvent{})
	}
	st = fails(t, second(f.AppendBatch(t.Context(), req)), codes.InvalidArgument)
	if n := len(violations(st)); n == 0 || n > 50 || len(st.Message()) > 4096 || !strings.Contains(st.Message(), " more") {
		t.Errorf("%d violations, message of %d bytes: %s", n, len(st.Message()), st.Message())
	}
	for _, n := range []int{0, 1001} {
		req.Events = make([]*keytrailv1.KeyEvent, n)
		for i := range req.Events {
			req.Events[i] = logtest.Event(i, "k")
		}
		st = fails(t, second(f.AppendBatch(t.Context(), req)), codes.InvalidArgument)
		if diff := cmp.Diff([]string{"events"}, violations(st)); diff != "" {
			t.Errorf("%d events: violations (-want +got):\n%s", n, diff)
		}
	}
	if f.log.DurableSize() != 0 {
		t.Errorf("%d entries were written", f.log.DurableSize())
	}
}

func TestAppendConflict(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 3, "k")
	other := logtest.Event(2, "another key")
	st := fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: other})), codes.AlreadyExists)
	var info *errdetails.ErrorInfo
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			info = i
		}
	}
	if info.GetReason() != "EVENT_ID_CONFLICT" || info.GetMetadata()["index"] != "2" {
		t.Errorf("details: %v", info)
	}
	// Among several it concerns itself alone.
	res, err := f.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: []*keytrailv1.KeyEvent{
		logtest.Event(1, "k"), other, logtest.Event(3, "k"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := res.GetResults()
	if !r[0].GetAck().GetDuplicate() || r[0].GetAck().GetIndex() != 1 || r[2].GetAck().GetIndex() != 3 || r[2].GetAck().GetDuplicate() {
		t.Errorf("results: %v", r)
	}
	if e := r[1].GetError(); codes.Code(e.GetCode()) != codes.AlreadyExists || e.GetExistingIndex() != 2 || e.ExistingIndex == nil {
		t.Errorf("result: %v", r[1])
	}
}

func TestAppendPushesBackWhenThePoolIsFull(t *testing.T) {
	t.Parallel()
	const pending = 1000
	f := start(t, options{maxPending: pending})
	release := f.hold(t)
	batch := func(first int) *rpc.AppendBatchRequest {
		req := &rpc.AppendBatchRequest{}
		for n := range pending {
			req.Events = append(req.Events, logtest.Event(first+n, "k"))
		}
		return req
	}
	// The first batches are with the writer, the next fills the pool, and one must be refused.
	const batches = 5
	ended := make(chan error, batches)
	for i := range batches {
		go func() { ended <- second(f.AppendBatch(t.Context(), batch(i*pending))) }()
	}
	within(t, 10*time.Second, "the refusal", func() {
		st := fails(t, <-ended, codes.ResourceExhausted)
		var retry *errdetails.RetryInfo
		for _, d := range st.Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				retry = r
			}
		}
		if retry.GetRetryDelay().AsDuration() <= 0 {
			t.Errorf("details: %v", st.Details())
		}
	})
	release()
	written := 0
	for range batches - 1 {
		switch err := <-ended; code(err) {
		case codes.OK:
			written++
		default:
			fails(t, err, codes.ResourceExhausted)
		}
	}
	if f.log.DurableSize() != uint64(written*pending) || written == 0 {
		t.Errorf("%d batches of %d are acknowledged, the log has %d entries", written, pending, f.log.DurableSize())
	}
	// Room again.
	if _, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1<<20, "k")}); err != nil {
		t.Error(err)
	}
}

func TestAppendOversizeMessage(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	ev := logtest.Event(0, "k")
	ev.Raw = &keytrailv1.Raw{Content: make([]byte, server.MaxMessageSize)}
	fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: ev})), codes.ResourceExhausted)
	// An event that is larger than an event may be has a message of its own.
	ev.Raw.Content = make([]byte, 40<<10)
	st := fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: ev})), codes.InvalidArgument)
	if len(violations(st)) == 0 {
		t.Errorf("no field is named: %v", st)
	}
}
