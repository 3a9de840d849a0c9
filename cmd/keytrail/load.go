package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// load appends made-up events over streams and measures when they are acknowledged.
type load struct {
	benchConfig
	filler int    // bytes of random text that bring an event to its size
	text   string // where that text is taken from, at random places
	acked  atomic.Int64

	mu    sync.Mutex
	times []uint32 // microseconds from send, or from when it was due, to answer, one a message
}

// textSize is large enough that pieces of the text do not meet in one block of a store,
// which would be compressed better than chance allows.
const textSize = 8 << 20

func newLoad(c benchConfig) *load {
	l := &load{benchConfig: c}
	ev := l.event(rand.New(rand.NewPCG(0, 0)), 0)
	// An event always encodes.
	b, _ := event.Append(nil, ev)
	l.filler = max(0, c.Size-len(b))
	raw := make([]byte, textSize*3/4)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(raw) // never fails
	l.text = base64.RawStdEncoding.EncodeToString(raw)
	return l
}

// event makes the n-th event.
func (l *load) event(rnd *rand.Rand, n int) *keytrailv1.KeyEvent {
	filler := "" // of the first event, which is only measured
	if l.filler > 0 {
		at := rnd.IntN(textSize - l.filler)
		filler = l.text[at : at+l.filler]
	}
	key := rnd.IntN(l.Keys)
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       fmt.Sprintf("%016x-%08x", rnd.Uint64(), n),
		Source:        &keytrailv1.Source{System: "bench", Account: "111122223333", Region: "eu-central-1"},
		Tenant:        fmt.Sprintf("tenant-%d", key%16),
		Time:          timestamppb.New(time.Unix(1_767_225_600+int64(n/1000), int64(n%1000)*1e6)),
		Operation:     keytrailv1.Operation_OPERATION_USE_DECRYPT,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key:           &keytrailv1.Key{Ref: fmt.Sprintf("arn:bench:eu-central-1:111122223333:key/%08d", key)},
		Actor:         &keytrailv1.Actor{Id: fmt.Sprintf("arn:bench:iam::111122223333:role/service-%d", key%97), Type: keytrailv1.Actor_TYPE_WORKLOAD},
		SourceIp:      "10.20.30.40",
		RequestId:     fmt.Sprintf("%016x", rnd.Uint64()),
		Attributes:    []*keytrailv1.Attribute{{Name: "filler", Value: filler}},
	}
}

// run appends all events; tenth is called whenever another tenth is acknowledged.
func (l *load) run(ctx context.Context, c *client.Client, tenth func()) error {
	wait, err := parseWait(l.Wait)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for next := 1; next <= 10; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for ; next <= 10 && l.acked.Load() >= int64(l.Events*next/10); next++ {
					tenth()
				}
			}
		}
	}()
	var g errgroup.Group
	for i := range l.Streams {
		first, last := l.Events*i/l.Streams, l.Events*(i+1)/l.Streams
		g.Go(func() error { return l.stream(ctx, c, wait, first, last) })
	}
	err = g.Wait()
	if err == nil {
		<-sampled
	}
	return err
}

// stream appends the events from first to last.
func (l *load) stream(ctx context.Context, c *client.Client, wait rpc.Wait, first, last int) error {
	s, err := c.AppendStream(ctx)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, l.Window) // a message under way holds one
	sent := make(chan time.Time, l.Window)
	var g errgroup.Group
	g.Go(func() error {
		defer close(sent)
		rnd := rand.New(rand.NewPCG(uint64(first), uint64(time.Now().UnixNano())))
		begin := time.Now()
		for n := first; n < last; n += l.Batch {
			due := l.pace(begin, n-first)
			req := &rpc.AppendStreamRequest{Wait: wait}
			for i := n; i < min(n+l.Batch, last); i++ {
				req.Events = append(req.Events, l.event(rnd, i))
			}
			select {
			case slots <- struct{}{}:
			case <-s.Context().Done():
				return nil // the receiver has the reason
			}
			if due.IsZero() {
				due = time.Now()
			}
			sent <- due
			if err := s.Send(req); err != nil {
				return nil
			}
		}
		return s.CloseSend()
	})
	g.Go(func() error { return l.receive(s, slots, sent) })
	return g.Wait()
}

// pace waits until the n-th event of a stream is due, and returns when that was; zero when
// none is due before it can be sent.
func (l *load) pace(begin time.Time, n int) time.Time {
	if l.Rate == 0 {
		return time.Time{}
	}
	due := begin.Add(time.Duration(float64(n) * float64(l.Streams) / l.Rate * float64(time.Second)))
	time.Sleep(time.Until(due))
	return due
}

func (l *load) receive(s rpc.LogService_AppendStreamClient, slots <-chan struct{}, sent <-chan time.Time) error {
	var times []uint32
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.times = append(l.times, times...)
	}()
	for {
		res, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		times = append(times, uint32(time.Since(<-sent).Microseconds()))
		<-slots
		for _, r := range res.GetResults() {
			if e := r.GetError(); e != nil {
				return fmt.Errorf("the log refused an event: %s", e.GetMessage())
			}
		}
		l.acked.Add(int64(len(res.GetResults())))
	}
}

// quantiles of the times to acknowledgement, in milliseconds.
func (l *load) quantiles() (p50, p99, max float64) {
	slices.Sort(l.times)
	at := func(q float64) float64 { return float64(l.times[int(q*float64(len(l.times)-1))]) / 1000 }
	return at(0.5), at(0.99), at(1)
}
