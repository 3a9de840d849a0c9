package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/consistency"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
)

// TestKill kills the real server with SIGKILL at random moments, under load from several
// clients, and checks in the end that the log has kept what it promised: every
// acknowledged event is at its index, no index has two, a retry gets the original index,
// all checkpoints ever seen belong to one history, and fsck is content.
func TestKill(t *testing.T) {
	rounds, long := 10, os.Getenv("KEYTRAIL_LONG") != ""
	switch {
	case long:
		rounds = 200
	case testing.Short():
		rounds = 3
	}
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	k := &killed{
		dir: filepath.Join(t.TempDir(), "log"), sent: make(map[string]*keytrailv1.KeyEvent),
		acked: make(map[string]uint64), owner: make(map[uint64]string), first: make(map[string]bool), checkpoints: make(map[uint64][]byte),
	}
	d, err := logdir.Init(k.dir, "kill.test/log")
	if err != nil {
		t.Fatal(err)
	}
	if k.policy, err = policy.Parse([]byte(d.Policy)); err != nil {
		t.Fatal(err)
	}
	begin, done := time.Now(), 0
	for ; done < rounds && (long || done < 3 || time.Since(begin) < 15*time.Second); done++ { // a slow disk gets fewer
		k.round(t, done, rnd)
		if t.Failed() {
			t.FailNow()
		}
	}
	k.check(t)
	t.Logf("%d kills, %d events, %d of them acknowledged when they were recorded, %d checkpoints",
		done, len(k.sent), len(k.first), len(k.checkpoints))
}

// killed is what the clients of a log know that was killed again and again.
type killed struct {
	dir    string
	policy *policy.Policy

	mu    sync.Mutex
	sent  map[string]*keytrailv1.KeyEvent
	acked map[string]uint64 // event id -> index
	owner map[uint64]string // index -> event id
	first map[string]bool   // event ids that were acknowledged, not as duplicates
	// checkpoints by size; two different ones of a size are compared when they come.
	checkpoints map[uint64][]byte
}

// round starts the server, lets the clients work, and kills it.
func (k *killed) round(t *testing.T, round int, rnd *rand.Rand) {
	cmd, lines := k.start(t)
	delay := time.Duration(rnd.IntN(250)) * time.Millisecond
	if rnd.IntN(5) == 0 {
		// Killed while it starts, or just after.
		time.Sleep(delay / 4)
		kill(t, cmd)
		return
	}
	addr := ready(t, lines)
	c, err := client.Dial(addr, client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprintf("r%d-c%d", round, i)
		mine := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		work := k.stream
		if i%2 == 0 {
			work = k.unary
		}
		clients.Go(func() { work(ctx, t, c, name, mine) })
	}
	clients.Go(func() { k.watch(ctx, t, c) })
	time.Sleep(delay)
	kill(t, cmd)
	cancel()
	clients.Wait()
}

func (k *killed) start(t *testing.T) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	program, err := exec.LookPath("keytraild")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--dir", k.dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewReader(out)
}

func ready(t *testing.T, lines *bufio.Reader) (addr string) {
	t.Helper()
	line, err := readReady(lines)
	if err != nil {
		t.Fatalf("the server does not start again: %v", err)
	}
	addr, _, _ = strings.Cut(strings.TrimPrefix(line, "ready grpc="), " ")
	return addr
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the server ended by itself: %v", cmd.ProcessState)
	}
}

// next makes the events of one request: new ones, and now and then some that were sent
// before, acknowledged or not.
func (k *killed) next(name string, n *int, rnd *rand.Rand) []*keytrailv1.KeyEvent {
	k.mu.Lock()
	defer k.mu.Unlock()
	var events []*keytrailv1.KeyEvent
	if rnd.IntN(4) == 0 {
		for _, ev := range k.sent { // in any order
			if events = append(events, ev); len(events) == 5 {
				break
			}
		}
	}
	for range 1 + rnd.IntN(10) {
		*n++
		key := rnd.IntN(20)
		ev := &keytrailv1.KeyEvent{
			SchemaVersion: 1, EventId: fmt.Sprintf("%s-%d", name, *n), Source: &keytrailv1.Source{System: "kill"},
			Tenant: fmt.Sprintf("tenant-%d", key%3), Time: timestamppb.New(time.Unix(1_700_000_000+int64(*n), 0)),
			Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
			Key: &keytrailv1.Key{Ref: fmt.Sprintf("key-%d", key)},
		}
		k.sent[ev.EventId] = ev
		events = append(events, ev)
	}
	return events
}

// answered takes the result of one event.
func (k *killed) answered(t *testing.T, ev *keytrailv1.KeyEvent, ack *rpc.Ack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := ev.GetEventId()
	if at, ok := k.acked[id]; ok && at != ack.GetIndex() {
		t.Errorf("event %s is at index %d, and was at %d", id, ack.GetIndex(), at)
	}
	if other, ok := k.owner[ack.GetIndex()]; ok && other != id {
		t.Errorf("index %d is that of event %s and of event %s", ack.GetIndex(), other, id)
	}
	if !ack.GetDuplicate() {
		if k.first[id] {
			t.Errorf("event %s was recorded twice, the second time at %d", id, ack.GetIndex())
		}
		k.first[id] = true
	}
	k.acked[id], k.owner[ack.GetIndex()] = ack.GetIndex(), id
}

func (k *killed) results(t *testing.T, events []*keytrailv1.KeyEvent, results []*rpc.AppendResult) {
	if len(results) != len(events) {
		t.Errorf("%d results for %d events", len(results), len(events))
		return
	}
	for i, r := range results {
		if r.GetAck() == nil {
			t.Errorf("event %s is refused: %v", events[i].GetEventId(), r.GetError())
			return
		}
		k.answered(t, events[i], r.GetAck())
	}
}

// unary appends in calls of one and of several until the server is gone.
func (k *killed) unary(ctx context.Context, t *testing.T, c *client.Client, name string, rnd *rand.Rand) {
	for n := 0; ; {
		events := k.next(name, &n, rnd)
		wait := rpc.Wait(rnd.IntN(3))
		if rnd.IntN(2) == 0 {
			res, err := c.AppendBatch(ctx, &rpc.AppendBatchRequest{Events: events, Wait: wait})
			if err != nil {
				return
			}
			k.results(t, events, res.GetResults())
			continue
		}
		for _, ev := range events {
			res, err := c.Append(ctx, &rpc.AppendRequest{Event: ev, Wait: wait})
			if err != nil {
				return
			}
			k.answered(t, ev, res.GetAck())
		}
	}
}

// stream appends over a stream with several requests under way.
func (k *killed) stream(ctx context.Context, t *testing.T, c *client.Client, name string, rnd *rand.Rand) {
	s, err := c.AppendStream(ctx)
	if err != nil {
		return
	}
	flights := make(chan []*keytrailv1.KeyEvent, 8)
	go func() {
		defer close(flights)
		for n := 0; ; {
			events := k.next(name, &n, rnd)
			if s.Send(&rpc.AppendStreamRequest{Events: events, Wait: rpc.Wait(rnd.IntN(2))}) != nil {
				return
			}
			select {
			case flights <- events:
			case <-s.Context().Done():
				return
			}
		}
	}()
	for events := range flights {
		res, err := s.Recv()
		if err != nil {
			return
		}
		k.results(t, events, res.GetResults())
	}
}

// watch collects checkpoints.
func (k *killed) watch(ctx context.Context, t *testing.T, c *client.Client) {
	for ctx.Err() == nil {
		res, err := c.GetCheckpoint(ctx, &rpc.GetCheckpointRequest{})
		if err != nil {
			continue // not yet, or not any more
		}
		k.saw(t, res.GetCheckpoint())
		time.Sleep(time.Millisecond)
	}
}

// saw verifies a checkpoint and compares it with others of its size.
func (k *killed) saw(t *testing.T, note []byte) {
	cp, err := verify.Checkpoint(note, k.policy)
	if err != nil {
		t.Errorf("a checkpoint that was published: %v", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if other, ok := k.checkpoints[cp.Size]; ok && !bytes.Equal(other, note) {
		if was, err := verify.Checkpoint(other, k.policy); err != nil || was.Root != cp.Root {
			t.Errorf("two roots of size %d", cp.Size)
		}
	}
	k.checkpoints[cp.Size] = note
}

// check sends everything again to a server that lives, compares the whole log with what
// the clients know, and ends with fsck.
func (k *killed) check(t *testing.T) {
	cmd, lines := k.start(t)
	c, err := client.Dial(ready(t, lines), client.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	known := len(k.acked)
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(k.sent)), 1000) {
		var events []*keytrailv1.KeyEvent
		for _, id := range ids {
			events = append(events, k.sent[id])
		}
		res, err := c.AppendBatch(t.Context(), &rpc.AppendBatchRequest{Events: events, Wait: rpc.Wait_WAIT_PUBLISHED})
		if err != nil {
			t.Fatal(err)
		}
		k.results(t, events, res.GetResults())
	}
	if len(k.owner) != len(k.sent) || known == 0 {
		t.Errorf("%d events have %d indexes; %d were acknowledged before", len(k.sent), len(k.owner), known)
	}
	k.compareEntries(t, c)
	k.compareCheckpoints(t, c)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the last stop: %v", err)
	}
	if out, err := exec.Command("keytrail", "fsck", "--dir", k.dir).CombinedOutput(); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
}

// compareEntries reads the whole log.
func (k *killed) compareEntries(t *testing.T, c *client.Client) {
	req := &rpc.ListEntriesRequest{PageSize: 1000}
	next := uint64(0)
	for {
		page, err := c.ListEntries(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEntries() {
			if id := e.GetKeyEvent().GetEventId(); e.GetIndex() != next || k.owner[next] != id {
				t.Fatalf("entry %d is event %s; index %d was given to %s", e.GetIndex(), id, next, k.owner[next])
			}
			next++
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if next != uint64(len(k.sent)) {
		t.Errorf("the log has %d entries, %d events were sent", next, len(k.sent))
	}
}

// compareCheckpoints proves that the log extends every checkpoint that was seen.
func (k *killed) compareCheckpoints(t *testing.T, c *client.Client) {
	for size, note := range k.checkpoints {
		res, err := c.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{FromSize: size})
		if err != nil {
			t.Fatal(err)
		}
		b := consistency.Bundle{OldSize: size, Checkpoint: res.GetCheckpoint()}
		for _, h := range res.GetHashes() {
			b.Hashes = append(b.Hashes, [32]byte(h))
		}
		if _, err := verify.Consistency(b.Append(nil), note, k.policy); err != nil {
			t.Errorf("the checkpoint of size %d: %v", size, err)
		}
	}
	if len(k.checkpoints) == 0 {
		t.Error("no checkpoint was seen")
	}
}
