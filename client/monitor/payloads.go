package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/monitor/keychain"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// Payloads reads what is behind a log's leaves. Nothing about it is verified.
type Payloads interface {
	// ReadPayloads calls fn with the payloads from start up to end, in order; empty where
	// one was erased. A payload is good during the call.
	ReadPayloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error
}

// ServerPayloads reads payloads from a log's gRPC server.
type ServerPayloads struct{ Client *client.Client }

// ReadPayloads implements Payloads.
func (p ServerPayloads) ReadPayloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Ends the stream.
	stream, err := p.Client.ReadPayloads(ctx, &rpc.ReadPayloadsRequest{Start: start, End: end})
	if err != nil {
		return err
	}
	for next := start; ; {
		res, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && next == end:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: payloads from %d to %d end at %d", tiles.ErrMalformed, start, end, next)
		case err != nil:
			return err
		case res.GetStart() != next || uint64(len(res.GetPayloads())) > end-next:
			return fmt.Errorf("%w: payloads from %d, asked were those from %d to %d", tiles.ErrMalformed, res.GetStart(), next, end)
		}
		for _, b := range res.GetPayloads() {
			if err := fn(next, b); err != nil {
				return err
			}
			next++
		}
	}
}

// block is how many payloads are checked between two commits: with the largest payloads
// their keys and leaves take a few MiB, and a sync a block costs little.
const block = 1024

// checkPayloads checks payloads from where it stopped up to the end of the last tree; with
// a limit it stops when that much time has passed. It stops at a payload that is not what
// its leaf commits to, and asks again in the next round. s is nil when the log's checkpoint
// was not accepted.
func (m *Monitor) checkPayloads(ctx context.Context, f *findings, s *verify.Signed, limit time.Duration) error {
	begin := time.Now()
	for s != nil && m.chains.Next() < m.last.Size && (limit == 0 || time.Since(begin) < limit) {
		ok, err := m.checkBlock(ctx, f, m.chains.Next(), min(m.chains.Next()+block, m.last.Size))
		if err != nil {
			return err
		}
		if !ok {
			break
		}
	}
	counts := m.chains.Counts()
	for _, fault := range []keychain.Fault{keychain.FaultSequence, keychain.FaultOrder} {
		if n := counts.Faults[fault]; n > 0 {
			f.add(Alarm{Kind: KindChain, Severity: SeverityCritical, Subject: string(fault), same: fmt.Sprint(n),
				Detail: fmt.Sprintf("entries that contradict those before them: %d; the first: %s", n, counts.First[fault])})
		}
	}
	if counts.Unknown > 0 {
		f.add(Alarm{Kind: KindUnreadable, Severity: SeverityInfo, Subject: "payloads", same: fmt.Sprint(counts.Unknown),
			Detail: fmt.Sprintf("records of a kind that this version cannot read: %d", counts.Unknown)})
	}
	return nil
}

// errStop ends the reading of payloads after an alarm.
var errStop = errors.New("stop")

// checkBlock checks the payloads from start up to end and keeps the place. It reports
// whether it got to the end. The error is one of the monitor's own.
func (m *Monitor) checkBlock(ctx context.Context, f *findings, start, end uint64) (bool, error) {
	tree, err := m.treeOfLast(ctx)
	if err != nil {
		return false, m.fail(ctx, f, err)
	}
	leaves := make([][]byte, 0, end-start)
	err = tree.Leaves(ctx, start, end, func(_ uint64, leaf []byte) error {
		leaves = append(leaves, append([]byte(nil), leaf...))
		return nil
	})
	if err != nil {
		return false, m.fail(ctx, f, err)
	}
	var own error
	read := m.cfg.Payloads.ReadPayloads(ctx, start, end, func(i uint64, payload []byte) error {
		ok, err := m.checkPayload(ctx, f, tree, i, payload, leaves[i-start])
		own = err
		if err != nil || !ok {
			return errStop
		}
		return nil
	})
	if own != nil {
		return false, own
	}
	if err := m.chains.Commit(); err != nil {
		return false, err
	}
	switch {
	case read == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case !errors.Is(read, errStop):
		f.add(m.answerAlarm(read, "payloads"))
	}
	return false, nil
}

// checkPayload checks one payload. It reports whether the next one can be checked.
func (m *Monitor) checkPayload(ctx context.Context, f *findings, tree *tiles.Tree, i uint64, payload, leaf []byte) (bool, error) {
	if len(payload) == 0 {
		m.chains.Skip(true)
		return true, nil
	}
	if got := record.Leaf(payload); string(got[:]) != string(leaf) {
		f.add(Alarm{Kind: KindCommitment, Severity: SeverityCritical, Subject: "payloads", same: fmt.Sprint(i),
			Detail: fmt.Sprintf("the payload that the server gives for entry %d is not what the log committed to", i)})
		return false, nil
	}
	e, err := verify.OpenEntry(i, payload)
	if kindOf(err) == string(verify.ReasonNewer) {
		m.chains.Skip(false)
		return true, nil
	}
	if err != nil {
		return false, m.convictRecord(ctx, f, tree, i, payload, err)
	}
	return true, m.chains.Check(&e.Record, e.Event)
}

// convictRecord keeps the receipt of an entry that no log may write.
func (m *Monitor) convictRecord(ctx context.Context, f *findings, tree *tiles.Tree, i uint64, payload []byte, why error) error {
	proof, err := tree.Inclusion(ctx, i, m.last.Size)
	if err != nil {
		return m.fail(ctx, f, err)
	}
	r := receipt.Receipt{Index: i, Hashes: proof, Extra: payload, Checkpoint: m.last.Note}
	return m.keepConviction(f, KindCommitment, m.last.Size, &verify.TamperError{
		Kind: verify.KindRecord, Detail: fmt.Sprintf("entry %d: %v", i, why), Origin: m.last.Origin,
		New: m.last.Note, Proof: proof, File: r.Append(nil),
	})
}
