package main_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// callTimeout is how long a client of a load waits for an answer.
const callTimeout = 20 * time.Second

// load is a number of clients that append to a log, whether it is there or not, and note in
// a book what they are told.
type load struct {
	book *book
	dial func() *client.Client
	// pause is how long a client rests between its calls.
	pause time.Duration
	// bulk is how many bytes of padding an event carries.
	bulk int
	// witnessed says that the log has witnesses, so that clients may wait for them.
	witnessed bool
	runs      atomic.Uint64
	numbers   atomic.Uint64
	acks      atomic.Uint64 // answers that were good
}

// run lets the clients work until ctx ends: two each that send single events, messages of
// several, and streams, and one that collects checkpoints.
func (l *load) run(ctx context.Context, seed uint64) {
	run := l.runs.Add(1)
	var clients sync.WaitGroup
	for i, work := range []func(context.Context, *client.Client, *rand.Rand){l.single, l.single, l.batch, l.batch, l.stream, l.stream} {
		clients.Go(func() {
			c := l.dial()
			defer c.Close()
			chance := rand.New(rand.NewPCG(seed, run<<8|uint64(i)))
			for ctx.Err() == nil {
				work(ctx, c, chance)
				rest(ctx, 20*time.Millisecond)
			}
		})
	}
	clients.Go(func() { l.watch(ctx) })
	clients.Wait()
}

// rest waits, unless ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// next makes the events of a request: n new ones about 40 keys, and now and then some that
// were sent before.
func (l *load) next(n int, chance *rand.Rand) []*keytrailv1.KeyEvent {
	var events []*keytrailv1.KeyEvent
	if chance.IntN(8) == 0 {
		events = l.book.again(3)
	}
	for range n {
		ev := newEvent(l.numbers.Add(1), chance.IntN(40))
		if l.bulk > 0 {
			ev.Raw = bulky(l.bulk, chance)
		}
		events = append(events, ev)
	}
	l.book.send(events...)
	return events
}

// newEvent makes an event of its own for each number, about a key.
func newEvent(number uint64, key int) *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: fmt.Sprintf("event-%d", number), Source: &keytrailv1.Source{System: "fault"},
		Tenant: fmt.Sprintf("tenant-%d", key%3), Time: timestamppb.New(time.Unix(1_700_000_000+int64(number), 0)),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key: &keytrailv1.Key{Ref: fmt.Sprintf("key-%d", key)},
	}
}

// bulky makes a source's record that does not compress.
func bulky(size int, chance *rand.Rand) *keytrailv1.Raw {
	content := make([]byte, size)
	for i := 0; i < size; i += 8 {
		binary.LittleEndian.PutUint64(content[i:], chance.Uint64())
	}
	hash := sha256.Sum256(content)
	return &keytrailv1.Raw{MediaType: "application/octet-stream", Sha256: hash[:], Content: content}
}

// wait is what a client waits for.
func (l *load) wait(chance *rand.Rand) rpc.Wait {
	if n := chance.IntN(8); n == 0 && l.witnessed {
		return rpc.Wait_WAIT_WITNESSED
	} else if n < 3 {
		return rpc.Wait_WAIT_PUBLISHED
	}
	return rpc.Wait_WAIT_DURABLE
}

func (l *load) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		l.book.failed(err)
	}
}

func (l *load) single(ctx context.Context, c *client.Client, chance *rand.Rand) {
	for ctx.Err() == nil {
		for _, ev := range l.next(1, chance) {
			wait := l.wait(chance)
			call, cancel := context.WithTimeout(ctx, callTimeout)
			res, err := c.Append(call, &rpc.AppendRequest{Event: ev, Wait: wait})
			cancel()
			if err != nil {
				l.failed(ctx, err)
				return
			}
			l.book.acked(ev, res.GetAck(), wait)
			l.acks.Add(1)
		}
		rest(ctx, l.pause)
	}
}

func (l *load) batch(ctx context.Context, c *client.Client, chance *rand.Rand) {
	for ctx.Err() == nil {
		events, wait := l.next(1+chance.IntN(60), chance), rpc.Wait_WAIT_DURABLE
		if len(events) < 10 {
			wait = l.wait(chance)
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		res, err := c.AppendBatch(call, &rpc.AppendBatchRequest{Events: events, Wait: wait})
		cancel()
		if err != nil {
			l.failed(ctx, err)
			return
		}
		l.book.answered(events, res.GetResults(), wait)
		l.acks.Add(uint64(len(events)))
		rest(ctx, l.pause)
	}
}

// stream keeps several requests under way.
func (l *load) stream(ctx context.Context, c *client.Client, chance *rand.Rand) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.AppendStream(ctx)
	if err != nil {
		l.failed(ctx, err)
		return
	}
	flights := make(chan []*keytrailv1.KeyEvent, 8)
	go func() {
		defer close(flights)
		for ctx.Err() == nil {
			events := l.next(1+chance.IntN(20), chance)
			if s.Send(&rpc.AppendStreamRequest{Events: events, Wait: rpc.Wait_WAIT_DURABLE}) != nil {
				return
			}
			select {
			case flights <- events:
			case <-s.Context().Done():
				return
			}
			rest(ctx, l.pause)
		}
	}()
	for events := range flights {
		res, err := s.Recv()
		if err != nil {
			l.failed(ctx, err)
			break
		}
		l.book.answered(events, res.GetResults(), rpc.Wait_WAIT_DURABLE)
		l.acks.Add(uint64(len(events)))
	}
	cancel()
	for range flights { // until the sender has ended: it uses chance
	}
}

// watch collects checkpoints.
func (l *load) watch(ctx context.Context) {
	c := l.dial()
	defer c.Close()
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		if res, err := c.GetCheckpoint(call, &rpc.GetCheckpointRequest{}); err == nil {
			l.book.saw(res.GetCheckpoint())
		}
		cancel()
		rest(ctx, 5*time.Millisecond)
	}
}
