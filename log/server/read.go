package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/witness/feed"
)

// viewWait is how long a list waits for the view to reach what was published when the
// call came, so that callers find what they have just appended. A view that is being
// rebuilt takes longer; the answer then covers less and says so in tree_size.
const viewWait = 2 * time.Second

// GetEntry implements rpc.LogServiceServer.
func (s *Server) GetEntry(ctx context.Context, req *rpc.GetEntryRequest) (*rpc.GetEntryResponse, error) {
	if pub := s.log.Published(); req.GetIndex() >= pub.Size {
		return nil, s.toStatus(ctx, fmt.Errorf("%w: index %d, published are %d", log.ErrUnpublished, req.GetIndex(), pub.Size))
	}
	var out *rpc.Entry
	err := s.log.Payloads(ctx, req.GetIndex(), req.GetIndex()+1, func(_ uint64, payload []byte) error {
		if payload == nil {
			return fmt.Errorf("%w: entry %d", log.ErrErased, req.GetIndex())
		}
		e, err := decode(payload)
		out = e
		return err
	})
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &rpc.GetEntryResponse{Entry: out}, nil
}

// decode makes an entry of a payload.
func decode(payload []byte) (*rpc.Entry, error) {
	_, b, err := record.Open(payload)
	if err != nil {
		return nil, err
	}
	r, err := record.Parse(b)
	if err != nil {
		return nil, err
	}
	ev, err := event.Parse(r.KeyEvent)
	if err != nil {
		return nil, err
	}
	return entry(&view.Entry{Record: r, Event: ev}), nil
}

func entry(e *view.Entry) *rpc.Entry {
	return &rpc.Entry{
		Index: e.Index, LoggedAt: timestamppb.New(e.LoggedAt), Producer: e.Producer,
		KeySequence: e.KeySequence, PreviousIndex: e.PreviousIndex,
		Body: &rpc.Entry_KeyEvent{KeyEvent: e.Event},
	}
}

// waitView lets the view catch up with what is published now, for a while.
func (s *Server) waitView(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, viewWait)
	defer cancel()
	if err := s.view.Wait(wait, s.log.Published().Size); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// ListEntries implements rpc.LogServiceServer.
func (s *Server) ListEntries(ctx context.Context, req *rpc.ListEntriesRequest) (*rpc.ListEntriesResponse, error) {
	f := view.Filter{
		Tenant: req.GetTenant(), KeyRef: req.GetKeyRef(), Actor: req.GetActor(),
		Operations: req.GetOperations(), Outcomes: req.GetOutcomes(), Descending: req.GetDescending(),
	}
	for _, t := range []struct {
		field string
		in    *timestamppb.Timestamp
		out   *time.Time
	}{{"time_from", req.GetTimeFrom(), &f.From}, {"time_to", req.GetTimeTo(), &f.To}} {
		if t.in == nil {
			continue
		}
		if err := t.in.CheckValid(); err != nil {
			return nil, s.toStatus(ctx, &fieldError{t.field, "is no valid time"})
		}
		*t.out = t.in.AsTime()
	}
	if err := s.waitView(ctx); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	page, err := s.view.List(ctx, f, int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	out := &rpc.ListEntriesResponse{NextPageToken: page.Next, TreeSize: page.Size}
	for _, e := range page.Entries {
		out.Entries = append(out.Entries, entry(e))
	}
	return out, nil
}

// GetKeyHistory implements rpc.LogServiceServer.
func (s *Server) GetKeyHistory(ctx context.Context, req *rpc.GetKeyHistoryRequest) (*rpc.GetKeyHistoryResponse, error) {
	if err := s.waitView(ctx); err != nil {
		return nil, s.toStatus(ctx, err)
	}
	page, err := s.view.History(ctx, req.GetTenant(), req.GetKeyRef(), int(req.GetPageSize()), req.GetPageToken())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "tenant %q has no events of key %q", req.GetTenant(), req.GetKeyRef())
	}
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	out := &rpc.GetKeyHistoryResponse{NextPageToken: page.Next, TreeSize: page.Size}
	for _, e := range page.Events {
		out.Events = append(out.Events, &rpc.HistoryEvent{Entry: entry(e.Entry), StateAfter: e.State, Findings: e.Findings})
	}
	return out, nil
}

// GetCheckpoint implements rpc.LogServiceServer.
func (s *Server) GetCheckpoint(ctx context.Context, _ *rpc.GetCheckpointRequest) (*rpc.GetCheckpointResponse, error) {
	pub := s.log.Published()
	if pub.Note == nil {
		return nil, s.toStatus(ctx, fmt.Errorf("%w: the log has no checkpoint", log.ErrUnpublished))
	}
	return &rpc.GetCheckpointResponse{Checkpoint: pub.Note, TreeSize: pub.Size}, nil
}

// GetInclusionProof implements rpc.LogServiceServer.
func (s *Server) GetInclusionProof(ctx context.Context, req *rpc.GetInclusionProofRequest) (*rpc.GetInclusionProofResponse, error) {
	hashes, leaf, size, pub, err := s.log.Inclusion(ctx, req.GetIndex(), req.GetTreeSize())
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	out := &rpc.GetInclusionProofResponse{Index: req.GetIndex(), TreeSize: size, LeafHash: leaf[:], Hashes: raw(hashes)}
	if size == pub.Size {
		out.Checkpoint = pub.Note
	}
	return out, nil
}

// GetConsistencyProof implements rpc.LogServiceServer.
func (s *Server) GetConsistencyProof(ctx context.Context, req *rpc.GetConsistencyProofRequest) (*rpc.GetConsistencyProofResponse, error) {
	hashes, size, pub, err := s.log.Consistency(ctx, req.GetFromSize(), req.GetToSize())
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	out := &rpc.GetConsistencyProofResponse{FromSize: req.GetFromSize(), ToSize: size, Hashes: raw(hashes)}
	if size == pub.Size {
		out.Checkpoint = pub.Note
	}
	return out, nil
}

func raw(hashes []prove.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// GetReceipt implements rpc.LogServiceServer.
func (s *Server) GetReceipt(ctx context.Context, req *rpc.GetReceiptRequest) (*rpc.GetReceiptResponse, error) {
	b, err := s.log.Receipt(ctx, req.GetIndex())
	if err != nil {
		return nil, s.toStatus(ctx, err)
	}
	return &rpc.GetReceiptResponse{Receipt: b}, nil
}

// GetLogInfo implements rpc.LogServiceServer.
func (s *Server) GetLogInfo(context.Context, *rpc.GetLogInfoRequest) (*rpc.GetLogInfoResponse, error) {
	pub := s.log.Published()
	out := &rpc.GetLogInfoResponse{
		Origin: s.log.Origin(), Policy: s.policy, Version: s.version, Predecessor: s.predecessor,
		DurableSize: s.log.DurableSize(), PublishedSize: pub.Size, ViewedSize: s.view.Size(),
		PublicationProblem: s.log.Problem(),
	}
	for _, w := range s.log.Witnesses() {
		out.Witnesses = append(out.Witnesses, witnessStatus(w))
	}
	if pub.Note != nil {
		out.PublishedAt = timestamppb.New(pub.At)
	}
	for _, k := range s.log.VerifierKeys() {
		out.VerifierKeys = append(out.VerifierKeys, k.String())
	}
	select {
	case <-s.log.Failed():
		out.PublicationProblem = "the log has stopped writing; the server's log says why"
	default:
	}
	return out, nil
}

func witnessStatus(w feed.Status) *rpc.WitnessStatus {
	out := &rpc.WitnessStatus{Names: w.Names, Url: w.URL, Size: w.Size, Problem: w.Problem, Conflict: w.Conflict}
	if !w.LastSuccess.IsZero() {
		out.LastSuccess = timestamppb.New(w.LastSuccess)
		out.Latency = durationpb.New(w.Latency)
	}
	if !w.RetryAt.IsZero() {
		out.RetryAt = timestamppb.New(w.RetryAt)
	}
	return out
}
