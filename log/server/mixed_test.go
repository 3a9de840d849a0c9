package server_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// told is each result in a word or two.
func told(results []*rpc.AppendResult) []string {
	var out []string
	for _, r := range results {
		if e := r.GetError(); e != nil {
			out = append(out, codes.Code(e.GetCode()).String())
			continue
		}
		out = append(out, fmt.Sprintf("at %d, duplicate %v, receipt %v", r.GetAck().GetIndex(), r.GetAck().GetDuplicate(), len(r.GetAck().GetReceipt()) > 0))
	}
	return out
}

// TestStreamMixedResults: each event of a request has its own answer in its own place,
// whoever it comes from.
func TestStreamMixedResults(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	s := stream(t, f)
	send(t, s, 0, logtest.Event(0, "k"))
	receive(t, s)
	bad := logtest.Event(1, "k")
	bad.Tenant = ""
	other := logtest.Event(0, "another key")
	for _, wait := range []rpc.Wait{rpc.Wait_WAIT_PUBLISHED, rpc.Wait_WAIT_DURABLE} {
		n := 10 * int(wait)
		at := int(f.log.DurableSize())
		send(t, s, wait, bad, other, logtest.Event(n, "k"), bad, logtest.Event(0, "k"), logtest.Event(n+1, "k"))
		receipt := wait == rpc.Wait_WAIT_PUBLISHED
		want := []string{
			"InvalidArgument", "AlreadyExists", fmt.Sprintf("at %d, duplicate false, receipt %v", at, receipt),
			"InvalidArgument", fmt.Sprintf("at 0, duplicate true, receipt %v", receipt),
			fmt.Sprintf("at %d, duplicate false, receipt %v", at+1, receipt),
		}
		if diff := cmp.Diff(want, told(receive(t, s))); diff != "" {
			t.Errorf("wait %v (-want +got):\n%s", wait, diff)
		}
	}
}

// TestStreamOverload: the events for which there is no room have their answer, beside
// those that are wrong.
func TestStreamOverload(t *testing.T) {
	t.Parallel()
	f := start(t, options{maxPending: 2})
	s := stream(t, f)
	bad := logtest.Event(1, "k")
	bad.Tenant = ""
	send(t, s, 0, logtest.Event(2, "k"), bad, logtest.Event(3, "k"), logtest.Event(4, "k"))
	want := []string{"ResourceExhausted", "InvalidArgument", "ResourceExhausted", "ResourceExhausted"}
	if diff := cmp.Diff(want, told(receive(t, s))); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	send(t, s, 0, logtest.Event(2, "k"), logtest.Event(3, "k"), bad)
	want = []string{"at 0, duplicate false, receipt false", "at 1, duplicate false, receipt false", "InvalidArgument"}
	if diff := cmp.Diff(want, told(receive(t, s))); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}
