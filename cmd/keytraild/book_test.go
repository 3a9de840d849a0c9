package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
)

// complaints is where a book says what is wrong: a testing.TB or a rapid.T.
type complaints interface {
	Errorf(format string, args ...any)
	Helper()
}

// book is what the clients of one log know, through all its faults: what they sent, every
// acknowledgement, every receipt and every checkpoint that they were ever shown. It may be
// used concurrently.
//
// It is the judge of the fault suites: audit holds a log that serves against it.
type book struct {
	policy *policy.Policy
	tb     complaints

	mu     sync.Mutex
	events map[string]*sent
	owner  map[uint64]string   // index -> event id
	open   map[string]struct{} // event ids to be sent again by the next audit
	// roots are those of every checkpoint seen, by size; notes what clients were shown last
	// for that size. fresh are the sizes that no audit has looked at.
	roots map[uint64][32]byte
	notes map[uint64][]byte
	fresh map[uint64]struct{}

	acks, duplicates, receipts, failures, audits int
	walk                                         walk
}

// sent is one event.
type sent struct {
	event   *keytrailv1.KeyEvent
	encoded []byte
	acked   bool
	first   bool // acknowledged as new, not as a duplicate
	place   place
}

// place is what an acknowledgement says.
type place struct {
	index, sequence, previous uint64
	logged                    time.Time
}

// walk is how far audits have read the log.
type walk struct {
	tree   tiles.Builder
	chains map[[32]byte]chain
	last   time.Time
}

// chain is the history of a key.
type chain struct{ length, last uint64 }

func newBook(tb complaints, p *policy.Policy) *book {
	return &book{
		policy: p, tb: tb, events: make(map[string]*sent), owner: make(map[uint64]string), open: make(map[string]struct{}),
		roots: make(map[uint64][32]byte), notes: make(map[uint64][]byte), fresh: make(map[uint64]struct{}),
		walk: walk{chains: make(map[[32]byte]chain)},
	}
}

// String sums up, for the last line of a suite.
func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%d events, %d acknowledgements (%d of them as duplicates) and %d receipts checked, %d calls failed, %d checkpoints seen, %d audits",
		len(b.events), b.acks, b.duplicates, b.receipts, b.failures, len(b.roots), b.audits)
}

// send notes that events are about to be sent.
func (b *book) send(events ...*keytrailv1.KeyEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ev := range events {
		id := ev.GetEventId()
		if b.events[id] == nil {
			encoded, err := event.Append(nil, ev)
			if err != nil {
				b.tb.Errorf("encoding event %s: %v", id, err)
			}
			b.events[id] = &sent{event: ev, encoded: encoded}
		}
		b.open[id] = struct{}{}
	}
}

// again returns up to n events that were sent before, acknowledged or not.
func (b *book) again(n int) []*keytrailv1.KeyEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	var events []*keytrailv1.KeyEvent
	for _, s := range b.events { // in any order
		if len(events) == n {
			break
		}
		events = append(events, s.event)
	}
	return events
}

// failed takes the error of a call. Clients may be told to try again and that a log is
// gone; that an event is not as it should be would be wrong.
func (b *book) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	switch code := status.Code(err); code {
	case codes.InvalidArgument, codes.AlreadyExists, codes.Unimplemented, codes.NotFound, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated:
		b.tb.Errorf("a good request was refused: %v", err)
	default:
	}
}

// acked takes the acknowledgement of an event.
func (b *book) acked(ev *keytrailv1.KeyEvent, ack *rpc.Ack, wait rpc.Wait) {
	if ack == nil {
		b.tb.Errorf("event %s: no acknowledgement", ev.GetEventId())
		return
	}
	if wait >= rpc.Wait_WAIT_PUBLISHED || len(ack.GetReceipt()) > 0 {
		b.receipt(ev, ack)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acks++
	id := ev.GetEventId()
	s := b.events[id]
	now := place{ack.GetIndex(), ack.GetKeySequence(), ack.GetPreviousIndex(), ack.GetLoggedAt().AsTime()}
	if s.acked && s.place != now {
		b.tb.Errorf("event %s is at %+v, and was at %+v", id, now, s.place)
	}
	if other, ok := b.owner[now.index]; ok && other != id {
		b.tb.Errorf("index %d was given to event %s and to event %s", now.index, other, id)
	}
	if ack.GetDuplicate() {
		b.duplicates++
	} else {
		if s.first {
			b.tb.Errorf("event %s was recorded twice, the second time at %d", id, now.index)
		}
		s.first = true
	}
	s.acked, s.place, b.owner[now.index] = true, now, id
}

// receipt verifies the receipt of an event offline.
func (b *book) receipt(ev *keytrailv1.KeyEvent, ack *rpc.Ack) {
	res, err := verify.Receipt(ack.GetReceipt(), b.policy)
	if err != nil {
		b.tb.Errorf("the receipt of event %s: %v", ev.GetEventId(), err)
		return
	}
	if res.Entry.Index != ack.GetIndex() || res.Entry.Event.GetEventId() != ev.GetEventId() {
		b.tb.Errorf("the receipt of event %s at %d proves event %s at %d", ev.GetEventId(), ack.GetIndex(), res.Entry.Event.GetEventId(), res.Entry.Index)
	}
	b.root(res.Checkpoint.Size, res.Checkpoint.Root, nil)
	b.mu.Lock()
	b.receipts++
	b.mu.Unlock()
}

// answered takes the results of a request.
func (b *book) answered(events []*keytrailv1.KeyEvent, results []*rpc.AppendResult, wait rpc.Wait) {
	if len(results) != len(events) {
		b.tb.Errorf("%d results for %d events", len(results), len(events))
		return
	}
	for i, r := range results {
		if e := r.GetError(); e != nil {
			b.failed(status.Error(codes.Code(e.GetCode()), e.GetMessage()))
			continue
		}
		b.acked(events[i], r.GetAck(), wait)
	}
}

// saw takes a checkpoint that the log has published.
func (b *book) saw(note []byte) {
	cp, _, err := checkpoint.ParseNote(note)
	if err != nil {
		b.tb.Errorf("a published checkpoint: %v", err)
		return
	}
	b.mu.Lock()
	was := b.notes[cp.Size]
	b.mu.Unlock()
	if bytes.Equal(was, note) {
		return
	}
	if _, err := verify.Checkpoint(note, b.policy); err != nil {
		b.tb.Errorf("a published checkpoint of size %d: %v", cp.Size, err)
	}
	b.root(cp.Size, cp.Root, note)
}

// root takes the size and root of any tree that the log has signed.
func (b *book) root(size uint64, root [32]byte, note []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was, ok := b.roots[size]; ok && was != root {
		b.tb.Errorf("two roots of size %d were signed: %x and %x", size, was, root)
	}
	b.roots[size] = root
	b.fresh[size] = struct{}{}
	if note != nil {
		b.notes[size] = note
	}
}

// audit sends all that is open again, waits until it is published, and reads on from where
// the last audit ended; whole begins at the first entry and looks at every checkpoint ever
// seen. Nobody else may append meanwhile. The error says that the log could not be asked;
// what is wrong is complained of.
func (b *book) audit(ctx context.Context, c *client.Client, whole bool) error {
	b.tb.Helper()
	if err := b.resend(ctx, c); err != nil {
		return fmt.Errorf("sending events again: %w", err)
	}
	res, err := c.GetCheckpoint(ctx, &rpc.GetCheckpointRequest{})
	if err != nil {
		return fmt.Errorf("getting the checkpoint: %w", err)
	}
	b.saw(res.GetCheckpoint())
	if n := uint64(len(b.events)); res.GetTreeSize() != n {
		b.tb.Errorf("the log has %d entries, %d events were sent", res.GetTreeSize(), n)
		return nil
	}
	if whole {
		b.mu.Lock()
		b.walk = walk{chains: make(map[[32]byte]chain)}
		for size := range b.roots {
			b.fresh[size] = struct{}{}
		}
		b.mu.Unlock()
	}
	if err := b.prove(ctx, c, res.GetTreeSize()); err != nil {
		return err
	}
	if err := b.read(ctx, c, res.GetTreeSize()); err != nil {
		return fmt.Errorf("reading the payloads from %d on: %w", b.walk.tree.Size(), err)
	}
	b.mu.Lock()
	b.audits++
	b.mu.Unlock()
	return nil
}

// resend sends again what was sent since the last audit, in messages of up to 500 that gRPC
// servers take (4 MiB).
func (b *book) resend(ctx context.Context, c *client.Client) error {
	b.mu.Lock()
	ids := slices.Sorted(maps.Keys(b.open))
	b.mu.Unlock()
	for len(ids) > 0 {
		n, bytes := 0, 0
		for ; n < min(len(ids), 500) && bytes < 3<<20; n++ {
			bytes += len(b.events[ids[n]].encoded)
		}
		chunk := ids[:n]
		ids = ids[n:]
		events := make([]*keytrailv1.KeyEvent, len(chunk))
		known := make([]bool, len(chunk))
		for i, id := range chunk {
			events[i], known[i] = b.events[id].event, b.events[id].acked
		}
		res, err := c.AppendBatch(ctx, &rpc.AppendBatchRequest{Events: events, Wait: rpc.Wait_WAIT_DURABLE})
		if err != nil {
			return err
		}
		for i, r := range res.GetResults() {
			if known[i] && !r.GetAck().GetDuplicate() {
				b.tb.Errorf("event %s was acknowledged at %d and was not there when it was sent again", chunk[i], b.events[chunk[i]].place.index)
			}
		}
		b.answered(events, res.GetResults(), rpc.Wait_WAIT_DURABLE)
	}
	if all := len(b.owner); all > 0 { // the last entry's receipt means that all are published
		last := b.events[b.owner[uint64(all-1)]]
		if last == nil {
			b.tb.Errorf("%d indexes were given out, and not %d", all, all-1)
			return errors.New("indexes have a gap")
		}
		res, err := c.Append(ctx, &rpc.AppendRequest{Event: last.event, Wait: rpc.Wait_WAIT_PUBLISHED})
		if err != nil {
			return err
		}
		b.acked(last.event, res.GetAck(), rpc.Wait_WAIT_PUBLISHED)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.open)
	return nil
}

// prove asks for consistency proofs from checkpoints that were not looked at, of 50 at most,
// to the published one. (Their roots are all held against the leaves by read.)
func (b *book) prove(ctx context.Context, c *client.Client, size uint64) error {
	b.mu.Lock()
	var old [][]byte
	for s := range b.fresh {
		if note := b.notes[s]; note != nil && s > 0 && s <= size && len(old) < 50 {
			old = append(old, note)
		}
	}
	b.mu.Unlock()
	for _, note := range old {
		cp, _, err := checkpoint.ParseNote(note)
		if err != nil {
			return err
		}
		res, err := c.GetConsistencyProof(ctx, &rpc.GetConsistencyProofRequest{FromSize: cp.Size})
		if err != nil {
			return fmt.Errorf("getting a consistency proof from %d: %w", cp.Size, err)
		}
		bundle := consistency.Bundle{OldSize: cp.Size, Checkpoint: res.GetCheckpoint()}
		for _, h := range res.GetHashes() {
			bundle.Hashes = append(bundle.Hashes, [32]byte(h))
		}
		if _, err := verify.Consistency(bundle.Append(nil), note, b.policy); err != nil {
			b.tb.Errorf("the log does not extend its checkpoint of size %d: %v", cp.Size, err)
		}
	}
	return nil
}

// read reads the payloads up to size and builds the tree, which must give the root of every
// checkpoint that is fresh.
func (b *book) read(ctx context.Context, c *client.Client, size uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.fresh {
		if s > size {
			b.tb.Errorf("a tree of %d entries was signed, the log has %d", s, size)
		}
	}
	b.atSize()
	if b.walk.tree.Size() < size {
		stream, err := c.ReadPayloads(ctx, &rpc.ReadPayloadsRequest{Start: b.walk.tree.Size(), End: size})
		if err != nil {
			return err
		}
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			for _, payload := range res.GetPayloads() {
				if err := b.entry(payload); err != nil {
					return err
				}
			}
		}
	}
	if at := b.walk.tree.Size(); at != size {
		b.tb.Errorf("the log showed %d payloads of %d", at, size)
	}
	for s := range b.fresh { // an audit before this one has passed their sizes
		if s < size && b.notes[s] != nil {
			delete(b.fresh, s) // proven
		}
	}
	return nil
}

// entry takes the payload of the next entry.
func (b *book) entry(payload []byte) error {
	index := b.walk.tree.Size()
	_, raw, err := record.Open(payload)
	if err != nil {
		b.tb.Errorf("the payload of entry %d: %v", index, err)
		return err
	}
	r, err := record.Parse(raw)
	if err != nil {
		b.tb.Errorf("the record of entry %d: %v", index, err)
		return err
	}
	s := b.events[b.owner[index]]
	switch {
	case s == nil:
		b.tb.Errorf("entry %d is no event that was sent", index)
		return nil
	case !bytes.Equal(r.KeyEvent, s.encoded):
		b.tb.Errorf("entry %d does not hold event %s as it was sent", index, s.event.GetEventId())
	}
	if got := (place{r.Index, r.KeySequence, r.PreviousIndex, r.LoggedAt}); got != s.place {
		b.tb.Errorf("entry %d says %+v, the acknowledgement said %+v", index, got, s.place)
	}
	if r.LoggedAt.Before(b.walk.last) {
		b.tb.Errorf("entry %d was logged at %v, the one before at %v", index, r.LoggedAt, b.walk.last)
	}
	b.walk.last = r.LoggedAt
	if ref := s.event.GetKey().GetRef(); ref != "" {
		id := event.KeyID(s.event.GetTenant(), ref)
		k := b.walk.chains[id]
		if r.KeySequence != k.length+1 || r.PreviousIndex != k.last {
			b.tb.Errorf("entry %d is number %d of its key after %d, want number %d after %d", index, r.KeySequence, r.PreviousIndex, k.length+1, k.last)
		}
		b.walk.chains[id] = chain{k.length + 1, index}
	}
	leaf := record.Leaf(payload)
	if err := b.walk.tree.Add(tiles.HashLeaf(leaf[:])); err != nil {
		return err
	}
	b.atSize()
	return nil
}

// atSize holds the tree that was read against the checkpoint of its size.
func (b *book) atSize() {
	size := b.walk.tree.Size()
	if _, ok := b.fresh[size]; !ok || size == 0 {
		return
	}
	if got := b.walk.tree.Root(); got != b.roots[size] {
		b.tb.Errorf("root %x was signed for size %d, the payloads give %x", b.roots[size], size, got)
	}
	delete(b.fresh, size)
}
