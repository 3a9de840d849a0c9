package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	logserver "github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// modelFaults are the kinds of rare steps.
func modelFaults() []string { return []string{"restart", "fault", "power", "second"} }

// modelOutcomes are what must come of them now and then.
func modelOutcomes() []string {
	return []string{
		"index-lost", "views-lost", "commit-failed", "commit-failed-persisted", "swap-failed", "swap-failed-persisted",
		"unsynced-0", "unsynced-50", "unsynced-100", "in-flight-kept", "in-flight-lost",
	}
}

func (m *serviceModel) storeOptions() pebblestore.Options {
	return pebblestore.Options{FS: m.fsys, CacheBytes: 1 << 20, MemTableBytes: 128 << 10}
}

// open serves the log.
func (m *serviceModel) open() {
	store, err := pebblestore.Open("store", m.storeOptions())
	m.must(err)
	m.faults = storagetest.NewFaults(store)
	m.watched = m.world.Watch(m.tb, m.faults)
	m.dir.IndexFS = m.fsys
	l, err := logtest.TryOpen(m.tb, m.dir, m.watched)
	m.must(err)
	v, err := view.Open(context.Background(), "views", l.Log, view.Options{FS: m.fsys})
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
		_ = store.Close()
	}
}

// lose drops, or not, what can be derived from the log, which is closed.
func (m *serviceModel) lose() {
	switch m.draw(6, "lost") {
	case 2:
		m.also("index-lost")
		m.dir.IndexFS = m.fsys
		m.dir.DropIndex(m.tb)
	case 3:
		m.also("views-lost")
		m.must(m.fsys.RemoveAll("views"))
	}
}

// restart stops the log and starts it again, perhaps without its index or views.
func (m *serviceModel) restart() {
	m.close()
	m.lose()
	m.open()
}

// fault lets a write fail, sends events until the log has noticed, and starts it again.
// Whether those were recorded shows when they are sent again.
func (m *serviceModel) fault() {
	ways := []struct {
		op        storagetest.Op
		persisted bool
		kind      string
	}{
		{storagetest.OpCommit, false, "commit-failed"}, {storagetest.OpCommit, true, "commit-failed-persisted"},
		{storagetest.OpSwap, false, "swap-failed"}, {storagetest.OpSwap, true, "swap-failed-persisted"},
	}
	way := ways[m.draw(len(ways), "write")]
	m.also(way.kind)
	m.faults.FailNext(way.op, way.persisted)
	e := m.fresh()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := m.client.Append(ctx, &rpc.AppendRequest{Event: e.event(), Wait: rpc.Wait_WAIT_PUBLISHED})
	if err == nil {
		m.t.Fatalf("a receipt after %s has failed: %v", way.op, res)
	}
	m.restart()
	res, err = m.client.Append(ctx, &rpc.AppendRequest{Event: e.event()})
	m.must(err)
	if res.GetAck().GetIndex() != uint64(len(m.entries)) {
		m.t.Fatalf("event %+v was in flight after %d entries and gets %v", e, len(m.entries), res)
	}
	m.add(e)
}

// flights are requests that are under way when the power goes.
type flights struct {
	mu   sync.Mutex
	over bool // what comes now does not count
	// acked is what was acknowledged before: event number to index.
	acked map[int]uint64
	calls sync.WaitGroup
}

// send sends each event in a call of its own.
func (f *flights) send(ctx context.Context, client rpc.LogServiceClient, events []modelEvent) {
	for _, e := range events {
		f.calls.Go(func() {
			res, err := client.Append(ctx, &rpc.AppendRequest{Event: e.event()})
			f.mu.Lock()
			defer f.mu.Unlock()
			if err == nil && !f.over {
				f.acked[e.number] = res.GetAck().GetIndex()
			}
		})
	}
}

func (f *flights) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
}

// power cuts the power while events are under way, so that none, some or all of what was not
// synced is left, and starts the log on what is left: it holds all that was acknowledged,
// and of what was under way each event once or not at all.
func (m *serviceModel) power() {
	events := make([]modelEvent, m.draw(9, "events"))
	for i := range events {
		events[i] = m.fresh()
	}
	unsynced := []int{0, 50, 100}[m.draw(3, "unsynced")]
	m.also(fmt.Sprint("unsynced-", unsynced))
	delay := time.Duration(m.draw(1500, "delay")) * time.Microsecond
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "seed"), 0))

	f := &flights{acked: make(map[int]uint64)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f.send(ctx, m.client, events)
	time.Sleep(delay)
	var left *vfs.MemFS
	var led []byte
	m.watched.Crash(func() {
		f.end()
		left = m.fsys.Snapshot(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng})
		led = m.dir.ReadLedger(m.tb)
	})
	cancel()
	f.calls.Wait()
	m.close()
	m.fsys = storagetest.OverMem(left)
	m.must(os.WriteFile(m.dir.Ledger(), led, 0o600))
	m.lose()
	m.open()
	m.found(events, f.acked)
}

// found takes what is left of events that were under way: of each its entry, if it has one.
func (m *serviceModel) found(events []modelEvent, acked map[int]uint64) {
	maybe := make(map[string]modelEvent)
	for _, e := range events {
		maybe[e.event().GetEventId()] = e
	}
	size := m.log.DurableSize()
	if size < uint64(len(m.entries)) {
		m.t.Fatalf("%d entries are left of %d acknowledged", size, len(m.entries))
	}
	m.log.AwaitPublished(m.tb, size)
	for i := uint64(len(m.entries)); i < size; i++ {
		res, err := m.client.GetEntry(context.Background(), &rpc.GetEntryRequest{Index: i})
		m.must(err)
		e, ok := maybe[res.GetEntry().GetKeyEvent().GetEventId()]
		if !ok {
			m.t.Fatalf("entry %d is %v, which was not under way, or is there twice", i, res)
		}
		delete(maybe, e.event().GetEventId())
		m.add(e)
		m.holds(res.GetEntry())
		m.also("in-flight-kept")
	}
	if len(maybe) > 0 {
		m.also("in-flight-lost")
	}
	for number, index := range acked {
		if at, ok := m.byID[number]; !ok || uint64(at) != index {
			m.t.Fatalf("event %d was acknowledged at %d and is at %d, %v, after a power loss", number, index, at, ok)
		}
	}
	for _, e := range events { // what is there is a duplicate now, and what is not is new
		res, err := m.client.Append(context.Background(), &rpc.AppendRequest{Event: e.event()})
		m.must(err)
		m.took(e, res.GetAck(), codes.OK)
	}
}

// second opens what the log has open, as a second process would, and is refused.
func (m *serviceModel) second() {
	led, err := ledger.Open(m.dir.Ledger(), logtest.Origin)
	if !errors.Is(err, ledger.ErrLocked) {
		m.t.Fatalf("the ledger was opened twice: %v, %v", led, err)
	}
	if s, err := pebblestore.Open("store", m.storeOptions()); err == nil {
		m.t.Fatalf("the store was opened twice: %v", s)
	}
	if v, err := view.Open(context.Background(), "views", m.log.Log, view.Options{FS: m.fsys}); err == nil {
		m.t.Fatalf("the views were opened twice: %v", v)
	}
}
