package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// second drops an answer that must not come.
func second[T any](_ T, err error) error { return err }

func code(err error) codes.Code { return status.Code(err) }

func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func stream(t *testing.T, f *fixture) rpc.LogService_AppendStreamClient {
	t.Helper()
	s, err := f.AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s rpc.LogService_AppendStreamClient, wait rpc.Wait, events ...*keytrailv1.KeyEvent) {
	t.Helper()
	if err := s.Send(&rpc.AppendStreamRequest{Events: events, Wait: wait}); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s rpc.LogService_AppendStreamClient) []*rpc.AppendResult {
	t.Helper()
	res, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return res.GetResults()
}

func TestStreamAnswersInOrder(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	s := stream(t, f)
	const requests = 300
	go func() {
		for n := range requests {
			good, bad := logtest.Event(2*n, "k"), logtest.Event(2*n+1, "k")
			bad.Tenant = ""
			var err error
			switch n % 3 {
			case 0:
				err = s.Send(&rpc.AppendStreamRequest{Events: []*keytrailv1.KeyEvent{good}})
			case 1:
				err = s.Send(&rpc.AppendStreamRequest{Events: []*keytrailv1.KeyEvent{bad, good}})
			case 2: // nothing for the log to write
				err = s.Send(&rpc.AppendStreamRequest{Events: []*keytrailv1.KeyEvent{bad}})
			}
			if err != nil {
				t.Errorf("sending %d: %v", n, err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	}()
	var got, want []string
	next := 0
	for n := range requests {
		for _, r := range receive(t, s) {
			if a := r.GetAck(); a != nil {
				got = append(got, fmt.Sprintf("%d: %d", n, a.GetIndex()))
				continue
			}
			e := r.GetError()
			got = append(got, fmt.Sprintf("%d: %v %s", n, codes.Code(e.GetCode()), e.GetFieldViolations()[0].GetField()))
		}
		if n%3 != 0 {
			want = append(want, fmt.Sprintf("%d: InvalidArgument tenant", n))
		}
		if n%3 != 2 {
			want = append(want, fmt.Sprintf("%d: %d", n, next))
			next++
		}
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

func TestStreamWaitLevels(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	s := stream(t, f)
	send(t, s, rpc.Wait_WAIT_PUBLISHED, logtest.Event(0, "k"), logtest.Event(1, "k"))
	for i, r := range receive(t, s) {
		res, err := verify.Receipt(r.GetAck().GetReceipt(), f.policy(t))
		if err != nil {
			t.Fatal(err)
		}
		if res.Entry.Index != uint64(i) {
			t.Errorf("receipt %d is of entry %d", i, res.Entry.Index)
		}
	}
	send(t, s, rpc.Wait_WAIT_DURABLE, logtest.Event(2, "k"))
	if a := receive(t, s)[0].GetAck(); a.GetIndex() != 2 || a.GetReceipt() != nil {
		t.Errorf("answer: %v", a)
	}
}

func TestStreamEndsAfterAWrongRequest(t *testing.T) {
	t.Parallel()
	for name, req := range map[string]*rpc.AppendStreamRequest{
		"events": {},
		"wait":   {Events: []*keytrailv1.KeyEvent{logtest.Event(9, "k")}, Wait: 9},
	} {
		f := start(t, options{})
		s := stream(t, f)
		send(t, s, 0, logtest.Event(0, "k"))
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
		// What came before is answered.
		if a := receive(t, s)[0].GetAck(); a == nil || a.GetIndex() != 0 {
			t.Errorf("answer: %v", a)
		}
		st := fails(t, second(s.Recv()), codes.InvalidArgument)
		if diff := cmp.Diff([]string{name}, violations(st)); diff != "" {
			t.Errorf("violations (-want +got):\n%s", diff)
		}
	}
}

// A stream that waits for the log gets its error even if it sends nothing more.
func TestStreamEndsWhenTheLogFails(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	s := stream(t, f)
	f.store.FailNext(storagetest.OpCommit, false)
	send(t, s, 0, logtest.Event(0, "k"))
	within(t, 10*time.Second, "the answer", func() {
		st := fails(t, second(s.Recv()), codes.Unavailable)
		if st.Message() != "log: writing has stopped" {
			t.Errorf("the caller sees %q", st.Message())
		}
	})
	fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1, "k")})), codes.Unavailable)
}

func TestStopEndsStreamsPromptly(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	idle, busy := stream(t, f), stream(t, f)
	send(t, idle, 0, logtest.Event(0, "k"))
	receive(t, idle)
	release := f.hold(t)
	send(t, busy, 0, logtest.Event(1, "k"))
	waitFor(t, "the commit", func() bool { return f.store.Calls(storagetest.OpCommit) >= 1 && f.log.DurableSize() == 1 })
	time.Sleep(50 * time.Millisecond) // the request is with the log
	stopped := make(chan struct{})
	go func() {
		f.srv.Shutdown()
		f.srv.Shutdown() // twice does no harm
		f.grpc.GracefulStop()
		close(stopped)
	}()
	within(t, 5*time.Second, "the idle stream's end", func() {
		fails(t, second(idle.Recv()), codes.Unavailable)
	})
	release()
	// What was taken is answered before the end.
	if a := receive(t, busy)[0].GetAck(); a == nil || a.GetIndex() != 1 {
		t.Errorf("answer: %v", a)
	}
	fails(t, second(busy.Recv()), codes.Unavailable)
	within(t, 5*time.Second, "the stop", func() { <-stopped })
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// A client that never reads its answers is held back by flow control: it costs no memory
// that grows, and others do not wait for it.
func TestStreamThatIsNotReadIsHeldBack(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	deaf := stream(t, f)
	sent := make(chan int, 1)
	ctx, cancel := contextFor(t, 2*time.Second)
	defer cancel()
	go func() {
		n := 0
		defer func() { sent <- n }()
		for ; ctx.Err() == nil; n++ {
			var events []*keytrailv1.KeyEvent
			for i := range 100 {
				events = append(events, logtest.Event(1000+100*n+i, "k"))
			}
			done := make(chan error, 1)
			go func() { done <- deaf.Send(&rpc.AppendStreamRequest{Events: events}) }()
			select {
			case err := <-done:
				if err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	n := <-sent
	if n < 10 {
		t.Fatalf("only %d requests could be sent", n)
	}
	if n > 1000 {
		t.Errorf("%d requests were taken from a client that reads no answer", n)
	}
	// What the windows hold is still written; then nothing more is taken.
	var before uint64
	waitFor(t, "the end of what the deaf client sends", func() bool {
		before = f.log.DurableSize()
		time.Sleep(500 * time.Millisecond)
		return f.log.DurableSize() == before
	})
	within(t, 10*time.Second, "an append beside it", func() {
		if _, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(0, "other")}); err != nil {
			t.Error(err)
		}
	})
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 256<<20 {
		t.Errorf("heap is %d MB", m.HeapAlloc>>20)
	}
	if got := f.log.DurableSize(); got != before+1 {
		t.Errorf("the log grew from %d to %d: the deaf client is still served", before, got)
	}
}
