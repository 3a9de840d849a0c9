package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytrail/keytrail/client/monitor/keychain"
	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

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
	ok, err := m.checkLeaves(ctx, f, tree, start, leaves)
	if err != nil {
		return false, err
	}
	return ok, m.chains.Commit()
}

// checkLeaves checks the payloads behind consecutive leaves. It reports whether all could
// be checked. The error is one of the monitor's own, or that ctx ended.
func (m *Monitor) checkLeaves(ctx context.Context, f *findings, tree *tiles.Tree, start uint64, leaves [][]byte) (bool, error) {
	r, err := payloads.Read(ctx, m.cfg.Payloads, start, start+uint64(len(leaves)))
	if err != nil {
		return false, m.failPayloads(ctx, f, err)
	}
	defer r.Close()
	for k, leaf := range leaves {
		payload, err := r.Next()
		if err != nil {
			return false, m.failPayloads(ctx, f, err)
		}
		if ok, err := m.checkPayload(ctx, f, tree, start+uint64(k), payload, leaf); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// failPayloads reports a server that does not give payloads.
func (m *Monitor) failPayloads(ctx context.Context, f *findings, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a := m.answerAlarm(err, "payloads")
	if errors.Is(err, payloads.ErrAnswer) {
		a.Kind = KindUnreadable
	}
	f.add(a)
	return nil
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
