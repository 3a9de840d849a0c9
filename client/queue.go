package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// Limits of a queue's messages. With messagesUnderWay of them on their way, events gather
// for the next: so messages grow with the load, and an event that comes alone leaves at
// once.
const (
	messagesUnderWay = 4
	maxMessageEvents = 1000
	maxMessageBytes  = 1 << 20
)

// ErrQueueClosed says that a queue takes no more events.
var ErrQueueClosed = errors.New("client: the queue is closed")

// RefusedError says that the log did not take an event, and why. The stream goes on.
type RefusedError struct {
	*rpc.AppendError
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the log refused the event: %s: %s", codes.Code(e.GetCode()), e.GetMessage())
}

// Queue appends the events of many goroutines over one stream, several in one message when
// they come faster than messages go. Its methods may be called concurrently.
type Queue struct {
	stream grpc.ClientStream
	wait   rpc.Wait
	cancel context.CancelCauseFunc
	sent   chan []*letter // messages whose answers are due
	slots  chan struct{}  // one token for each
	wake   chan struct{}  // holds one token when waiting or closed changed
	ended  chan struct{}  // closed when the stream has ended

	mu       sync.Mutex
	waiting  []*letter
	closed   bool
	finished bool  // all that was waiting is sent, and nothing more will be
	err      error // why the stream ended; nil after Close
	free     []*letter
}

// letter is one event on its way.
type letter struct {
	encoded []byte
	done    chan outcome // has room for one
}

type outcome struct {
	result *rpc.AppendResult
	err    error
}

// Queue opens an append stream for many goroutines. It lasts until ctx ends, the stream
// fails, or Close.
func (c *Client) Queue(ctx context.Context, wait rpc.Wait) (*Queue, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s, err := c.openStream(ctx)
	if err != nil {
		cancel(err)
		return nil, err
	}
	q := &Queue{
		stream: s, wait: wait, cancel: cancel,
		sent: make(chan []*letter, messagesUnderWay), slots: make(chan struct{}, messagesUnderWay),
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	go q.receive()
	return q, nil
}

// Append appends one event and waits for the log's ack. An event that the log refused is a
// *RefusedError. After any other error, and when ctx ends first, the event may be recorded
// or not: append it again, with its id, to another queue.
func (q *Queue) Append(ctx context.Context, ev *keytrailv1.KeyEvent) (*rpc.Ack, error) {
	l := q.letter()
	var err error
	if l.encoded, err = event.Append(l.encoded[:0], ev); err != nil {
		return nil, err
	}
	if len(l.encoded) > event.MaxSize { // the server would end the stream of all for a much larger one
		return nil, fmt.Errorf("event is %d bytes long, encoded; the limit is %d", len(l.encoded), event.MaxSize)
	}
	if err := q.put(l); err != nil {
		return nil, err
	}
	select {
	case out := <-l.done:
		q.release(l)
		if out.err != nil {
			return nil, out.err
		}
		if e := out.result.GetError(); e != nil {
			return nil, &RefusedError{e}
		}
		return out.result.GetAck(), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx) // the letter is still on its way
	}
}

// Close takes no more events, waits for the answers to those it has, and ends the stream.
// It returns why the stream ended, if not for Close.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	<-q.ended
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// letter returns one to be written, used before if there is one.
func (q *Queue) letter() *letter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.free); n > 0 {
		l := q.free[n-1]
		q.free = q.free[:n-1]
		return l
	}
	return &letter{done: make(chan outcome, 1)}
}

func (q *Queue) release(l *letter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < maxMessageEvents {
		q.free = append(q.free, l)
	}
}

func (q *Queue) put(l *letter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		if q.err != nil {
			return q.err
		}
		return ErrQueueClosed
	}
	q.waiting = append(q.waiting, l)
	q.signal()
	return nil
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for letters and returns a message of the oldest; nil when there are none and
// the queue is closed.
func (q *Queue) take() []*letter {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			break
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		<-q.wake
	}
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.waiting) && n < maxMessageEvents && (n == 0 || bytes+len(q.waiting[n].encoded) <= maxMessageBytes) {
		bytes += len(q.waiting[n].encoded)
		n++
	}
	list := append([]*letter(nil), q.waiting[:n]...)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	return list
}

// send sends messages until the queue is closed and empty, or the stream has ended.
func (q *Queue) send() {
	for {
		q.slots <- struct{}{}
		list := q.take()
		if len(list) == 0 {
			q.mu.Lock()
			q.finished = true
			q.mu.Unlock()
			_ = q.stream.CloseSend() // receive hears of it if the stream has failed
			return
		}
		// After an error receive says why.
		_ = q.stream.SendMsg(&letters{list: list, wait: q.wait})
		q.sent <- list // there is room: see slots. From here on the letters may be answered.
	}
}

// receive hands out the answers until the stream ends, and then what it ended with.
func (q *Queue) receive() {
	sending := make(chan struct{})
	go func() { defer close(sending); q.send() }()
	err := q.answers()
	q.mu.Lock()
	switch {
	case !errors.Is(err, io.EOF):
	case q.finished && len(q.sent) == 0:
		err = nil
	default:
		err = status.Error(codes.Unavailable, "the log has ended the append stream")
	}
	q.closed, q.err = true, err
	q.mu.Unlock()
	q.cancel(err)
	q.signal()
	// What is still sent has no answer.
	for open := true; open; {
		select {
		case list := <-q.sent:
			fail(list, err)
			<-q.slots
		case <-sending:
			open = false
		}
	}
	for len(q.sent) > 0 {
		fail(<-q.sent, err)
	}
	close(q.ended)
}

func fail(list []*letter, err error) {
	for _, l := range list {
		l.done <- outcome{err: err}
	}
}

// answers hands out answers until the stream ends.
func (q *Queue) answers() error {
	for {
		var in answers
		if err := q.stream.RecvMsg(&in); err != nil {
			return err
		}
		select {
		case list := <-q.sent:
			if len(in.results) != len(list) {
				err := status.Errorf(codes.Internal, "the log answered %d events with %d results", len(list), len(in.results))
				fail(list, err)
				return err
			}
			for i, l := range list {
				l.done <- outcome{result: in.results[i]}
			}
			<-q.slots
		case <-q.stream.Context().Done():
			return context.Cause(q.stream.Context())
		}
	}
}
