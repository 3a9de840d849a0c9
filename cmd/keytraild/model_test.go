package main_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	logserver "github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// TestModelService drives the service over gRPC with operations and faults left to chance
// and compares every answer with a plain slice: appends in each form, new, sent before, with
// other content, malformed; entries, lists, histories, receipts; restarts, lost indexes, and
// writes that fail, done or not. KEYTRAIL_STEPS says how many operations (make soak: a million).
func TestModelService(t *testing.T) {
	t.Parallel()
	steps, checks, rare := 300, 10, 20 // starting a log takes longer than hundreds of steps
	if s := os.Getenv("KEYTRAIL_STEPS"); s != "" {
		var err error
		if steps, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		checks, rare = 100, 400
	} else if long() {
		steps, checks, rare = 50_000, 100, 200
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(checks)); err != nil {
		t.Fatal(err)
	}
	signers := logtest.NewDir(t).Signers
	counts, begin := make(map[string]int), time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		dir := &logtest.Dir{Path: t.TempDir(), Signers: signers}
		if err := ledger.Create(dir.Ledger(), logtest.Origin); err != nil {
			rt.Fatal(err)
		}
		m := &serviceModel{tb: t, t: rt, dir: dir, faults: storagetest.NewFaults(memstore.New()), byID: make(map[int]int), histories: make(map[string][]int), counts: counts, rare: rare}
		m.policy = &policy.Policy{Quorum: policy.None}
		for _, s := range signers {
			m.policy.Logs = append(m.policy.Logs, policy.Log{Key: s.VerifierKey()})
		}
		m.open()
		defer func() { m.close() }()
		for range max(1, steps/checks) {
			m.step()
		}
		m.settle()
		m.compare()
	})
	total := 0
	for _, n := range counts {
		total += n
	}
	t.Logf("%d steps in %v: %v", total, time.Since(begin).Round(time.Second), counts)
}

// serviceModel is a served log and what it must hold.
type serviceModel struct {
	tb     testing.TB
	t      *rapid.T
	dir    *logtest.Dir
	faults *storagetest.Faults
	policy *policy.Policy
	counts map[string]int
	// rare is how many steps there are to one restart or fault.
	rare int

	log     *logtest.Log
	client  rpc.LogServiceClient
	close   func()
	number  int
	entries []modelEvent
	byID    map[int]int // event number -> index
	// places are those of entries in the histories of their keys, which are in histories.
	places    []keyPlace
	histories map[string][]int
}

// modelEvent is an event: its number makes its id and its key, its variant its content.
type modelEvent struct{ number, variant int }

func (e modelEvent) key() string { return fmt.Sprint("key-", e.number%7) }

func (e modelEvent) event() *keytrailv1.KeyEvent {
	ev := logtest.Event(e.number, e.key())
	if e.variant != 0 {
		ev.Outcome = keytrailv1.Outcome_OUTCOME_DENIED
	}
	return ev
}

func (m *serviceModel) must(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

// open serves the log.
func (m *serviceModel) open() {
	l, err := logtest.TryOpen(m.tb, m.dir, m.faults)
	m.must(err)
	v, err := view.Open(context.Background(), m.dir.Path+"/views", l.Log, view.Options{})
	m.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = v.Run(ctx) })
	srv := logserver.New(logserver.Config{Log: l.Log, View: v, Policy: m.policy.String(), Version: "test"})
	g := srv.GRPC(nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	m.must(err)
	running.Go(func() { _ = g.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	m.must(err)
	m.log, m.client = l, rpc.NewLogServiceClient(conn)
	m.close = func() {
		_ = conn.Close()
		g.Stop()
		_ = l.Stop() // an injected fault comes back here
		cancel()
		running.Wait()
		_ = v.Close()
	}
}

// draw picks one of a number of ways.
func (m *serviceModel) draw(n int, what string) int { return rapid.IntRange(0, n-1).Draw(m.t, what) }

// some draws an event: a new one, or one that was sent before, perhaps with other content.
func (m *serviceModel) some() modelEvent {
	if m.number == 0 || m.draw(3, "new") > 0 {
		m.number++
		return modelEvent{number: m.number}
	}
	return modelEvent{number: 1 + m.draw(m.number, "old"), variant: m.draw(5, "variant") / 4}
}

// step does one operation.
func (m *serviceModel) step() {
	ops := []struct {
		name string
		do   func()
	}{
		{"append", m.append}, {"append", m.append}, {"batch", m.batch}, {"batch", m.batch}, {"stream", m.stream},
		{"malformed", m.malformed}, {"entry", m.entry}, {"entry", m.entry}, {"list", m.list}, {"history", m.history}, {"receipt", m.receipt},
	}
	if m.draw(m.rare, "rare") == m.rare/3 { // the ends of a range are drawn more often
		ops = ops[:0]
		ops = append(ops, struct {
			name string
			do   func()
		}{"restart", m.restart}, struct {
			name string
			do   func()
		}{"fault", m.fault})
	}
	op := ops[m.draw(len(ops), "operation")]
	m.counts[op.name]++
	op.do()
}

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

// list reads two pages of what is denied or of all, and wants what the model has up to the
// size that the answer names.
func (m *serviceModel) list() {
	req := &rpc.ListEntriesRequest{PageSize: uint32(1 + m.draw(20, "page"))}
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
	m.same("list", got, size, func(e modelEvent) bool { return !denied || e.variant != 0 }, req.PageToken == "")
}

func (m *serviceModel) history() {
	key := fmt.Sprint("key-", m.draw(7, "key"))
	res, err := m.client.GetKeyHistory(context.Background(), &rpc.GetKeyHistoryRequest{Tenant: "acme", KeyRef: key, PageSize: 1000})
	if status.Code(err) == codes.NotFound {
		return // nothing of it is published
	}
	m.must(err)
	var got []int
	for _, e := range res.GetEvents() {
		m.holds(e.GetEntry())
		got = append(got, int(e.GetEntry().GetIndex()))
	}
	m.same("history of "+key, got, res.GetTreeSize(), func(e modelEvent) bool { return e.key() == key }, res.GetNextPageToken() == "")
}

// same compares indexes with those of the model that a filter takes: all up to a size, or the
// first of them.
func (m *serviceModel) same(what string, got []int, size uint64, take func(modelEvent) bool, all bool) {
	var want []int
	for i, e := range m.entries[:min(int(size), len(m.entries))] {
		if take(e) {
			want = append(want, i)
		}
	}
	if !all && len(got) < len(want) {
		want = want[:len(got)]
	}
	if !slices.Equal(got, want) {
		m.t.Fatalf("%s at size %d: %v, want %v", what, size, got, want)
	}
}

// restart stops the log and starts it again, perhaps without its index.
func (m *serviceModel) restart() {
	m.close()
	m.faults = m.faults.Reopen()
	if m.draw(3, "index") == 0 {
		m.dir.DropIndex(m.tb)
	}
	m.open()
}

// fault lets a write fail, sends events until the log has noticed, and starts it again.
// Whether those were recorded shows when they are sent again.
func (m *serviceModel) fault() {
	op := []storagetest.Op{storagetest.OpCommit, storagetest.OpSwap}[m.draw(2, "write")]
	m.faults.FailNext(op, m.draw(2, "persisted") == 1)
	m.number++
	e := modelEvent{number: m.number}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := m.client.Append(ctx, &rpc.AppendRequest{Event: e.event(), Wait: rpc.Wait_WAIT_PUBLISHED})
	if err == nil {
		m.t.Fatalf("a receipt after %s has failed: %v", op, res)
	}
	m.restart()
	res, err = m.client.Append(ctx, &rpc.AppendRequest{Event: e.event()})
	m.must(err)
	if res.GetAck().GetIndex() != uint64(len(m.entries)) {
		m.t.Fatalf("event %+v was in flight after %d entries and gets %v", e, len(m.entries), res)
	}
	m.add(e)
}

// settle waits until all is published.
func (m *serviceModel) settle() {
	if len(m.entries) > 0 {
		m.log.AwaitPublished(m.tb, uint64(len(m.entries)))
	}
}

// compare reads every entry.
func (m *serviceModel) compare() {
	for i := range m.entries {
		res, err := m.client.GetEntry(context.Background(), &rpc.GetEntryRequest{Index: uint64(i)})
		m.must(err)
		m.holds(res.GetEntry())
	}
	logtest.Check(m.tb, m.dir, m.faults)
}
