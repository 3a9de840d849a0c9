package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/client/verify"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"

	"github.com/keytrail/keytrail/log/logtest"
)

// TestWaitWitnessed appends by each call and verifies the receipt in the answer under the
// policy with its quorum.
func TestWaitWitnessed(t *testing.T) {
	t.Parallel()
	f := start(t, options{witnesses: 3})
	p := logtest.Policy(t, f.dir, 2, f.witnesses...)
	const wait = rpc.Wait_WAIT_WITNESSED
	check := func(what string, a *rpc.Ack, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		res, err := verify.Receipt(a.GetReceipt(), p)
		if err != nil {
			t.Fatalf("%s: receipt: %v", what, err)
		}
		if res.Entry.Index != a.GetIndex() || len(res.Checkpoint.Cosignatures) < 4 {
			t.Errorf("%s: receipt of entry %d, %d cosignatures", what, res.Entry.Index, len(res.Checkpoint.Cosignatures))
		}
	}
	one, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1, "k"), Wait: wait})
	check("Append", one.GetAck(), err)
	again, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1, "k"), Wait: wait})
	check("Append of a duplicate", again.GetAck(), err)
	batch, err := f.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: []*keytrailv1.KeyEvent{logtest.Event(2, "k")}, Wait: wait})
	check("AppendBatch", batch.GetResults()[0].GetAck(), err)
	stream, err := f.AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&rpc.AppendStreamRequest{Events: []*keytrailv1.KeyEvent{logtest.Event(3, "k")}, Wait: wait}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	check("AppendStream", res.GetResults()[0].GetAck(), err)
}

// TestWaitWitnessedNeedsWitnesses asks a log without witnesses for what it cannot give:
// nothing may be recorded.
func TestWaitWitnessedNeedsWitnesses(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	const wait = rpc.Wait_WAIT_WITNESSED
	events := []*keytrailv1.KeyEvent{logtest.Event(1, "k")}
	_, one := f.Append(t.Context(), &rpc.AppendRequest{Event: events[0], Wait: wait})
	_, batch := f.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: events, Wait: wait})
	stream, err := f.AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&rpc.AppendStreamRequest{Events: events, Wait: wait}); err != nil {
		t.Fatal(err)
	}
	_, streamed := stream.Recv()
	for what, err := range map[string]error{"Append": one, "AppendBatch": batch, "AppendStream": streamed} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "witness") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := f.log.DurableSize(); n != 0 {
		t.Errorf("%d entries were recorded", n)
	}
}

// TestLogInfoShowsWitnesses takes the quorum away: the backlog, the reason and the witnesses
// can be seen, and their end too.
func TestLogInfoShowsWitnesses(t *testing.T) {
	t.Parallel()
	f := start(t, options{witnesses: 3})
	f.append(t, 0, 3, "k")
	f.witnesses[0].Down()
	f.witnesses[1].Down()
	if _, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(9, "k"), Wait: rpc.Wait_WAIT_DURABLE}); err != nil {
		t.Fatal(err)
	}
	info := f.await(t, func(i *rpc.GetLogInfoResponse) bool { return i.GetPublicationProblem() != "" })
	if info.GetDurableSize() != 4 || info.GetPublishedSize() != 3 || len(info.GetWitnesses()) != 3 {
		t.Errorf("durable %d, published %d, %d witnesses", info.GetDurableSize(), info.GetPublishedSize(), len(info.GetWitnesses()))
	}
	for i, w := range info.GetWitnesses() {
		if w.GetUrl() != f.witnesses[i].URL || len(w.GetNames()) != 2 || w.GetLastSuccess() == nil || w.GetSize() < 3 {
			t.Errorf("witness %d: %v", i, w)
		}
		if down := i < 2; (w.GetProblem() != "") != down || w.GetConflict() {
			t.Errorf("witness %d, down %v: problem %q, conflict %v", i, down, w.GetProblem(), w.GetConflict())
		}
	}
	f.witnesses[0].Up()
	info = f.await(t, func(i *rpc.GetLogInfoResponse) bool { return i.GetPublishedSize() == 4 })
	if p := info.GetPublicationProblem(); p != "" {
		t.Errorf("problem after the publication: %q", p)
	}
}

// await asks for the log's state until it is as wanted.
func (f *fixture) await(t *testing.T, done func(*rpc.GetLogInfoResponse) bool) *rpc.GetLogInfoResponse {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		info, err := f.GetLogInfo(t.Context(), &rpc.GetLogInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if done(info) {
			return info
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log stays at %v", info)
		}
	}
}
