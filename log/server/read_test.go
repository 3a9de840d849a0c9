package server_test

import (
	"bytes"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestListPages(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 25, "k")
	f.append(t, 25, 30, "other")
	for _, descending := range []bool{false, true} {
		var got, want []uint64
		req := &rpc.ListEntriesRequest{KeyRef: "k", PageSize: 10, Descending: descending}
		for page := 0; ; page++ {
			res, err := f.ListEntries(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if res.GetTreeSize() < 30 || page > 10 {
				t.Fatalf("page %d covers %d entries", page, res.GetTreeSize())
			}
			for _, e := range res.GetEntries() {
				got = append(got, e.GetIndex())
			}
			if page == 0 { // pages stay what they were when the log grows
				f.append(t, 1000+100*btoi(descending), 1003+100*btoi(descending), "k2")
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		for i := range uint64(25) {
			if descending {
				i = 24 - i
			}
			want = append(want, i)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("descending %v (-want +got):\n%s", descending, diff)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestListRefusesWrongArguments(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 5, "k")
	page, err := f.ListEntries(t.Context(), &rpc.ListEntriesRequest{PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		req   *rpc.ListEntriesRequest
	}{
		{"page_size", &rpc.ListEntriesRequest{PageSize: 1001}},
		{"page_size", &rpc.ListEntriesRequest{PageSize: math.MaxUint32}},
		{"page_token", &rpc.ListEntriesRequest{PageToken: "x"}},
		{"page_token", &rpc.ListEntriesRequest{PageToken: page.GetNextPageToken(), Tenant: "acme"}},
		{"time_from", &rpc.ListEntriesRequest{TimeFrom: &timestamppb.Timestamp{Nanos: -1}}},
		{"time_to", &rpc.ListEntriesRequest{TimeTo: &timestamppb.Timestamp{Seconds: math.MaxInt64}}},
	} {
		st := fails(t, second(f.ListEntries(t.Context(), c.req)), codes.InvalidArgument)
		if diff := cmp.Diff([]string{c.field}, violations(st)); diff != "" {
			t.Errorf("%v: violations (-want +got):\n%s", c.req, diff)
		}
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	ops := []keytrailv1.Operation{
		keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.Operation_OPERATION_KEY_DESTROY, keytrailv1.Operation_OPERATION_USE_SIGN,
	}
	req := &rpc.AppendBatchRequest{Wait: rpc.Wait_WAIT_PUBLISHED}
	for n, op := range ops {
		ev := logtest.Event(n, "k")
		ev.Operation = op
		req.Events = append(req.Events, ev)
	}
	if _, err := f.AppendBatch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var events []*rpc.HistoryEvent
	ask := &rpc.GetKeyHistoryRequest{Tenant: "acme", KeyRef: "k", PageSize: 1}
	for {
		res, err := f.GetKeyHistory(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, res.GetEvents()...)
		if ask.PageToken = res.GetNextPageToken(); ask.PageToken == "" {
			break
		}
	}
	if len(events) != 3 {
		t.Fatalf("%d events", len(events))
	}
	if s := events[1].GetStateAfter().GetState(); s != keytrailv1.KeyState_KEY_STATE_DESTROYED {
		t.Errorf("state after destruction: %v", s)
	}
	if len(events[0].GetFindings()) != 0 || len(events[2].GetFindings()) != 1 {
		t.Errorf("findings: %v", events)
	}
	fails(t, second(f.GetKeyHistory(t.Context(), &rpc.GetKeyHistoryRequest{Tenant: "globex", KeyRef: "k"})), codes.NotFound)
}

func TestBeyondThePublishedTree(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	ask := func(index uint64) map[string]error {
		return map[string]error{
			"entry":            second(f.GetEntry(t.Context(), &rpc.GetEntryRequest{Index: index})),
			"receipt":          second(f.GetReceipt(t.Context(), &rpc.GetReceiptRequest{Index: index})),
			"inclusion":        second(f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: index})),
			"inclusion at":     second(f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{TreeSize: max(index, 2)})),
			"inclusion out of": second(f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: index, TreeSize: 1})),
			"consistency from": second(f.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{FromSize: max(index, 2)})),
			"consistency to":   second(f.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{ToSize: max(index, 2)})),
			"consistency back": second(f.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{FromSize: max(index, 2), ToSize: 1})),
		}
	}
	for _, published := range []int{0, 1} {
		for _, index := range []uint64{1, 2, math.MaxInt64, math.MaxUint64} {
			for what, err := range ask(index) {
				if code(err) != codes.OutOfRange {
					t.Errorf("%s at %d of %d: %v", what, index, published, err)
				}
			}
		}
		f.append(t, 0, 1, "k")
	}
}

func TestEntryAndProofs(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 5, "k")
	early, err := f.GetCheckpoint(t.Context(), &rpc.GetCheckpointRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f.append(t, 5, 300, "k")

	e, err := f.GetEntry(t.Context(), &rpc.GetEntryRequest{Index: 3})
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(e.GetEntry().GetKeyEvent(), logtest.Event(3, "k")) || e.GetEntry().GetIndex() != 3 ||
		e.GetEntry().GetKeySequence() != 4 || e.GetEntry().GetPreviousIndex() != 2 || e.GetEntry().GetProducer() != "" {
		t.Errorf("entry: %v", e.GetEntry())
	}

	inc, err := f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: 3})
	if err != nil {
		t.Fatal(err)
	}
	cp, err := verify.Checkpoint(inc.GetCheckpoint(), f.policy(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, 3, cp.Size, inc.GetLeafHash(), inc.GetHashes(), cp.Root[:]); err != nil {
		t.Error(err)
	}
	if at, err := f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: 3, TreeSize: 5}); err != nil || at.GetCheckpoint() != nil {
		t.Errorf("at an earlier size: %v, %v", at, err)
	}

	old, _, err := checkpoint.ParseNote(early.GetCheckpoint())
	if err != nil {
		t.Fatal(err)
	}
	con, err := f.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{FromSize: old.Size})
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, con.GetToSize(), con.GetHashes(), old.Root[:], cp.Root[:]); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(con.GetCheckpoint(), inc.GetCheckpoint()) {
		t.Error("two checkpoints of one size")
	}
	if nothing, err := f.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{}); err != nil || len(nothing.GetHashes()) != 0 {
		t.Errorf("from the empty tree: %v, %v", nothing, err)
	}

	res, err := f.GetReceipt(t.Context(), &rpc.GetReceiptRequest{Index: 299})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Receipt(res.GetReceipt(), f.policy(t)); err != nil {
		t.Error(err)
	}
}

func TestErasedEntry(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 3, "k")
	if err := f.store.ErasePayloads(t.Context(), []uint64{1}); err != nil {
		t.Fatal(err)
	}
	fails(t, second(f.GetEntry(t.Context(), &rpc.GetEntryRequest{Index: 1})), codes.NotFound)
	fails(t, second(f.GetReceipt(t.Context(), &rpc.GetReceiptRequest{Index: 1})), codes.NotFound)
	// Its place is proven all the same, and a retry gets it.
	if _, err := f.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: 1}); err != nil {
		t.Error(err)
	}
	res, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(1, "k"), Wait: rpc.Wait_WAIT_PUBLISHED})
	if err != nil {
		t.Fatal(err)
	}
	if a := res.GetAck(); a.GetIndex() != 1 || !a.GetDuplicate() || a.GetReceipt() != nil {
		t.Errorf("answer: %v", a)
	}
}

func TestInternalErrorsShowOnlyARequestID(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 1, "k")
	f.store.FailNext(storagetest.OpPayloads, false)
	st := fails(t, second(f.GetEntry(t.Context(), &rpc.GetEntryRequest{Index: 0})), codes.Internal)
	if strings.Contains(st.Message(), "injected") {
		t.Errorf("the caller sees %q", st.Message())
	}
	_, id, ok := strings.Cut(st.Message(), "request_id ")
	if !ok || len(id) < 20 {
		t.Fatalf("no request id in %q", st.Message())
	}
	if logged := f.logged.String(); !strings.Contains(logged, id) || !strings.Contains(logged, "injected fault") {
		t.Errorf("the server logged %q", logged)
	}
}

func TestInfoHealthReflection(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 2, "k")
	info, err := f.GetLogInfo(t.Context(), &rpc.GetLogInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetOrigin() != logtest.Origin || info.GetPolicy() != "the policy" || info.GetVersion() != "v0-test" ||
		info.GetDurableSize() != 2 || info.GetPublishedSize() != 2 || len(info.GetVerifierKeys()) != 2 || info.GetPublicationProblem() != "" {
		t.Errorf("info: %v", info)
	}

	health := grpc_health_v1.NewHealthClient(f.conn)
	check := func() grpc_health_v1.HealthCheckResponse_ServingStatus {
		res, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "keytrail.v1.LogService"})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetStatus()
	}
	if s := check(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v", s)
	}

	refl, err := grpc_reflection_v1.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := refl.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "keytrail.v1.LogService"},
	}); err != nil {
		t.Fatal(err)
	}
	res, err := refl.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection: %v", res)
	}

	f.srv.Shutdown()
	if s := check(); s != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health after shutdown: %v", s)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.append(t, 0, 2, "k")
	r := prometheus.NewRegistry()
	r.MustRegister(f.log.Metrics()...)
	h := f.srv.HTTP(r)
	get := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if w := get(http.MethodGet, path); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "durable=2") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(http.MethodGet, "/metrics"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "keytrail_log_") {
		t.Errorf("/metrics: %d", w.Code)
	}
	if w := get(http.MethodGet, "/predecessor"); w.Code != http.StatusNotFound { // it continues no log
		t.Errorf("/predecessor: %d", w.Code)
	}
	if w := get(http.MethodGet, "/"); w.Code != http.StatusNotFound {
		t.Errorf("/: %d", w.Code)
	}
	if w := get(http.MethodPost, "/metrics"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d", w.Code)
	}
	f.store.FailNext(storagetest.OpCommit, false)
	fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(9, "k")})), codes.Unavailable)
	waitFor(t, "the failure on /healthz", func() bool {
		return get(http.MethodGet, "/healthz").Code == http.StatusServiceUnavailable
	})
	info, err := f.GetLogInfo(t.Context(), &rpc.GetLogInfoRequest{})
	if err != nil || info.GetPublicationProblem() == "" {
		t.Errorf("info of a failed log: %v, %v", info, err)
	}
}
