package main_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
)

// took compares one answer with what the model says of the event, and takes it.
func (m *serviceModel) took(e modelEvent, ack *rpc.Ack, code codes.Code) {
	index, known := m.byID[e.number]
	switch {
	case known && m.entries[index].variant != e.variant:
		if code != codes.AlreadyExists {
			m.t.Fatalf("event %+v contradicts entry %d and gets %v, %v", e, index, ack, code)
		}
	case code != codes.OK:
		m.t.Fatalf("event %+v gets %v", e, code)
	case known:
		if ack.GetIndex() != uint64(index) || !ack.GetDuplicate() {
			m.t.Fatalf("event %+v is entry %d and gets %v", e, index, ack)
		}
	default:
		if ack.GetIndex() != uint64(len(m.entries)) || ack.GetDuplicate() {
			m.t.Fatalf("event %+v is new, comes after %d entries, and gets %v", e, len(m.entries), ack)
		}
		if want := m.next(e.key()); (keyPlace{ack.GetKeySequence(), ack.GetPreviousIndex()}) != want {
			m.t.Fatalf("event %+v should be %+v of its key and gets %v", e, want, ack)
		}
		m.add(e)
	}
}

// keyPlace is where an entry stands in the history of its key.
type keyPlace struct{ sequence, previous uint64 }

// next is the place of the next entry of a key.
func (m *serviceModel) next(key string) keyPlace {
	h := m.histories[key]
	if len(h) == 0 {
		return keyPlace{sequence: 1}
	}
	return keyPlace{uint64(len(h) + 1), uint64(h[len(h)-1])}
}

// add takes a new entry.
func (m *serviceModel) add(e modelEvent) {
	m.places = append(m.places, m.next(e.key()))
	m.histories[e.key()] = append(m.histories[e.key()], len(m.entries))
	m.byID[e.number] = len(m.entries)
	m.entries = append(m.entries, e)
}

func (m *serviceModel) append() {
	e := m.some()
	res, err := m.client.Append(context.Background(), &rpc.AppendRequest{Event: e.event(), Wait: rpc.Wait(m.draw(3, "wait"))})
	m.took(e, res.GetAck(), status.Code(err))
}

// events draws up to six, of different numbers: of two in one request the first would decide.
func (m *serviceModel) events() (events []modelEvent, sent []*keytrailv1.KeyEvent) {
	for range 1 + m.draw(6, "events") {
		e := m.some()
		if slices.ContainsFunc(events, func(o modelEvent) bool { return o.number == e.number }) {
			continue
		}
		events, sent = append(events, e), append(sent, e.event())
	}
	return events, sent
}

func (m *serviceModel) tookAll(events []modelEvent, results []*rpc.AppendResult) {
	if len(results) != len(events) {
		m.t.Fatalf("%d results for %d events", len(results), len(events))
	}
	for i, r := range results {
		m.took(events[i], r.GetAck(), codes.Code(r.GetError().GetCode()))
	}
}

func (m *serviceModel) batch() {
	events, sent := m.events()
	res, err := m.client.AppendBatch(context.Background(), &rpc.AppendBatchRequest{Events: sent, Wait: rpc.Wait(m.draw(3, "wait"))})
	m.must(err)
	m.tookAll(events, res.GetResults())
}

// stream sends all its requests before it reads an answer.
func (m *serviceModel) stream() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := m.client.AppendStream(ctx)
	m.must(err)
	var flights [][]modelEvent
	for range 1 + m.draw(4, "requests") {
		events, sent := m.events()
		m.must(s.Send(&rpc.AppendStreamRequest{Events: sent}))
		flights = append(flights, events)
	}
	m.must(s.CloseSend())
	for _, events := range flights {
		res, err := s.Recv()
		m.must(err)
		m.tookAll(events, res.GetResults())
	}
}

// malformed sends a batch of which one event is malformed: nothing of it may be recorded.
func (m *serviceModel) malformed() {
	good, bad := modelEvent{number: m.number + 1}.event(), modelEvent{number: m.number + 2}.event()
	bad.Tenant = ""
	_, err := m.client.AppendBatch(context.Background(), &rpc.AppendBatchRequest{Events: []*keytrailv1.KeyEvent{good, bad}})
	if status.Code(err) != codes.InvalidArgument {
		m.t.Fatalf("a malformed event gets %v", err)
	}
}

// holds compares an entry that was read.
func (m *serviceModel) holds(e *rpc.Entry) {
	i := int(e.GetIndex())
	if i >= len(m.entries) || !proto.Equal(e.GetKeyEvent(), m.entries[i].event()) {
		m.t.Fatalf("entry %d of %d is %v", i, len(m.entries), e)
	}
	if got := (keyPlace{e.GetKeySequence(), e.GetPreviousIndex()}); got != m.places[i] {
		m.t.Fatalf("entry %d is %+v of its key, read as %v", i, m.places[i], e)
	}
}

// published draws an entry that is published; -1 when there is none.
func (m *serviceModel) published() int {
	if size := int(m.log.Published().Size); size > 0 {
		return m.draw(size, "entry")
	}
	return -1
}

func (m *serviceModel) entry() {
	i := m.published()
	if i < 0 {
		return
	}
	res, err := m.client.GetEntry(context.Background(), &rpc.GetEntryRequest{Index: uint64(i)})
	m.must(err)
	if res.GetEntry().GetIndex() != uint64(i) {
		m.t.Fatalf("entry %d is %v", i, res)
	}
	m.holds(res.GetEntry())
}

func (m *serviceModel) receipt() {
	i := m.published()
	if i < 0 {
		return
	}
	res, err := m.client.GetReceipt(context.Background(), &rpc.GetReceiptRequest{Index: uint64(i)})
	m.must(err)
	r, err := verify.Receipt(res.GetReceipt(), m.policy)
	m.must(err)
	if r.Entry.Index != uint64(i) || !proto.Equal(r.Entry.Event, m.entries[i].event()) {
		m.t.Fatalf("the receipt of entry %d proves %+v", i, r.Entry)
	}
}

// list reads two pages of what is denied or of all, from either end, and wants what the model
// has up to the size that the answer names.
func (m *serviceModel) list() {
	req := &rpc.ListEntriesRequest{PageSize: uint32(1 + m.draw(20, "page")), Descending: m.draw(2, "descending") == 1}
	denied := m.draw(2, "filter") == 1
	if denied {
		req.Outcomes = []keytrailv1.Outcome{keytrailv1.Outcome_OUTCOME_DENIED}
	}
	var got []int
	var size uint64
	for range 2 {
		page, err := m.client.ListEntries(context.Background(), req)
		m.must(err)
		size = page.GetTreeSize()
		for _, e := range page.GetEntries() {
			m.holds(e)
			got = append(got, int(e.GetIndex()))
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	m.same("list", got, size, req.GetDescending(), func(i int) bool { return !denied || m.entries[i].variant != 0 }, req.PageToken == "")
}

// history reads the beginning of a key's history, or all of it.
func (m *serviceModel) history() {
	key := modelEvent{number: m.draw(modelKeys, "key")}.key()
	page := []uint32{1, 20, 100, 1000}[m.draw(4, "page")]
	res, err := m.client.GetKeyHistory(context.Background(), &rpc.GetKeyHistoryRequest{Tenant: "acme", KeyRef: key, PageSize: page})
	if status.Code(err) == codes.NotFound {
		return // nothing of it is published
	}
	m.must(err)
	var got []int
	for _, e := range res.GetEvents() {
		m.holds(e.GetEntry())
		got = append(got, int(e.GetEntry().GetIndex()))
	}
	var want []int
	for _, i := range m.histories[key] {
		if uint64(i) < res.GetTreeSize() {
			want = append(want, i)
		}
	}
	if res.GetNextPageToken() != "" && len(got) < len(want) {
		want = want[:len(got)]
	}
	if !slices.Equal(got, want) {
		m.t.Fatalf("history of %s at size %d: %v, want %v", key, res.GetTreeSize(), got, want)
	}
}

// same compares indexes with those of the model below a size that a filter takes: all of
// them, or as many as there are.
func (m *serviceModel) same(what string, got []int, size uint64, descending bool, take func(i int) bool, all bool) {
	var want []int
	n := min(int(size), len(m.entries))
	for k := range n {
		if !all && len(want) == len(got) {
			break
		}
		i := k
		if descending {
			i = n - 1 - k
		}
		if take(i) {
			want = append(want, i)
		}
	}
	if !slices.Equal(got, want) {
		m.t.Fatalf("%s at size %d, descending %v: %v, want %v", what, size, descending, got, want)
	}
}

// consistency proves that the log extends a tree that was published before.
func (m *serviceModel) consistency() {
	from := m.published() + 1
	if from == 0 {
		return
	}
	res, err := m.client.GetConsistencyProof(context.Background(), &rpc.GetConsistencyProofRequest{FromSize: uint64(from)})
	m.must(err)
	cp, _, err := checkpoint.ParseNote(res.GetCheckpoint())
	m.must(err)
	before, err := m.log.RootAt(context.Background(), uint64(from))
	m.must(err)
	if m.seen[from] == [32]byte{} {
		m.seen[from] = before
	}
	before = m.seen[from]
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(from), cp.Size, res.GetHashes(), before[:], cp.Root[:]); err != nil {
		m.t.Fatalf("size %d does not extend size %d: %v", cp.Size, from, err)
	}
}

// compare waits until all is published and holds all of the log against the model, and what
// it has ever published against its leaves.
func (m *serviceModel) compare() {
	n := uint64(len(m.entries))
	if n == 0 {
		return
	}
	m.log.AwaitPublished(m.tb, n)
	stream, err := m.client.ReadPayloads(context.Background(), &rpc.ReadPayloadsRequest{End: n})
	m.must(err)
	at := 0
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		m.must(err)
		for _, payload := range res.GetPayloads() {
			m.isEntry(at, payload)
			at++
		}
	}
	if at != len(m.entries) {
		m.t.Fatalf("%d payloads of %d were read", at, n)
	}
	logtest.Check(m.tb, m.dir, m.watched)
	m.world.Check(m.tb, m.watched)
	if m.tb.Failed() {
		m.t.Fatal("what the checks say")
	}
}

// isEntry compares a payload with an entry.
func (m *serviceModel) isEntry(i int, payload []byte) {
	_, b, err := record.Open(payload)
	m.must(err)
	r, err := record.Parse(b)
	m.must(err)
	want, err := event.Append(nil, m.entries[i].event())
	m.must(err)
	if got := (keyPlace{r.KeySequence, r.PreviousIndex}); r.Index != uint64(i) || got != m.places[i] || !bytes.Equal(r.KeyEvent, want) {
		m.t.Fatalf("entry %d is %+v of its key with event %+v, and is recorded as %+v", i, m.places[i], m.entries[i], r)
	}
}
