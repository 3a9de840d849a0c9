package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// Shape is how events are offered.
type Shape struct {
	// Clients is how many calls or streams are open at once.
	Clients int
	// Window is how many messages may be under way on a stream; 0 means single calls.
	Window int
	// Batch is how many events one message of a stream has.
	Batch int
	// Keys is how many keys made-up events are about.
	Keys int
	// Warm is left out of the measurement, For is measured.
	Warm, For time.Duration
	// Events, when not 0, ends the load after so many, instead of For.
	Events int
	// First is the number of the first client's maker of events; the others follow.
	First int
	// HotEvery gives every so-manieth event to key 0.
	HotEvery int
	// Acked, when not nil, counts events as they are acknowledged.
	Acked *atomic.Int64
}

// Result is what was measured.
type Result struct {
	Events  int
	Seconds float64
	// All is how many events were acknowledged, with those before and after what was measured.
	All int
	// P50, P99 and Max are from sending to the answer, in milliseconds.
	P50, P99, Max float64
	// CPU is what this process took meanwhile, in seconds.
	CPU float64
}

// Rate is events a second.
func (r Result) Rate() float64 { return float64(r.Events) / r.Seconds }

// Dial prepares n connections to a server.
func Dial(addr string, n int, creds credentials.TransportCredentials) ([]*grpc.ClientConn, error) {
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conns := make([]*grpc.ClientConn, n)
	for i := range conns {
		var err error
		conns[i], err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds),
			grpc.WithDisableRetry(), // which would keep what was sent
			// Without an estimate of them gRPC sends no PING beside each answer.
			grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(4<<20),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec{}), grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			return nil, errors.Join(err, Close(conns))
		}
	}
	return conns, nil
}

// Close ends connections.
func Close(conns []*grpc.ClientConn) error {
	var err error
	for _, c := range conns {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// CPU returns the processor time of this process, in seconds.
func CPU() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// meter counts what is acknowledged between two times.
type meter struct {
	from, to time.Time
	every    int // so-manieth message of a goroutine is timed: times must not fill the memory that is measured
	mu       sync.Mutex
	events   int
	all      int
	times    []uint32 // microseconds, one a message
	last     time.Time
}

// timedOps is about how many messages of a long load are timed.
const timedOps = 1_000_000

// newMeter begins to measure: after the warm-up for the shape's time or, when that is a number
// of events, at once and to the last.
func newMeter(s Shape) *meter {
	begin := time.Now()
	if s.Events > 0 {
		return &meter{from: begin, to: begin.Add(24 * time.Hour), every: 1 + s.Events/timedOps}
	}
	return &meter{from: begin.Add(s.Warm), to: begin.Add(s.Warm + s.For), every: 1}
}

// tally is what one goroutine counts for a meter.
type tally struct {
	m      *meter
	events int
	all    int
	ops    int
	times  []uint32
	last   time.Time
}

func (t *tally) done(sent time.Time, events int) {
	now := time.Now()
	t.all += events
	if now.Before(t.m.from) || now.After(t.m.to) {
		return
	}
	t.events += events
	t.last = now
	if t.ops++; t.ops%t.m.every == 0 {
		t.times = append(t.times, uint32(min(now.Sub(sent).Microseconds(), 1<<32-1)))
	}
}

func (t *tally) add() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.m.events += t.events
	t.m.all += t.all
	t.m.times = append(t.m.times, t.times...)
	if t.last.After(t.m.last) {
		t.m.last = t.last
	}
}

// Measure runs so many workers, each of which calls op until the time is over, or Shape.Events times
// between them; op returns how many events it has handled.
func Measure(ctx context.Context, s Shape, worker func(n int) (op func(ctx context.Context) (int, error), err error)) (Result, error) {
	m := newMeter(s)
	var taken atomic.Int64
	var g errgroup.Group
	for i := range s.Clients {
		g.Go(func() error {
			op, err := worker(i)
			if err != nil {
				return err
			}
			t := &tally{m: m, times: make([]uint32, 0, 4096)}
			defer t.add()
			for ctx.Err() == nil {
				sent := time.Now()
				if sent.After(m.to) || s.Events > 0 && taken.Add(1) > int64(s.Events) {
					return nil
				}
				n, err := op(ctx)
				if err != nil {
					return err
				}
				t.done(sent, n)
			}
			return context.Cause(ctx)
		})
	}
	return m.finish(ctx, s, g.Wait)
}

// finish waits for the workers and takes the processor time between the bounds.
func (m *meter) finish(ctx context.Context, s Shape, wait func() error) (Result, error) {
	before := CPU()
	cpu := make(chan float64, 1)
	if s.Events == 0 {
		go func() {
			sleep(ctx, time.Until(m.from))
			before := CPU()
			sleep(ctx, time.Until(m.to))
			cpu <- CPU() - before
		}()
	}
	if err := wait(); err != nil {
		return Result{}, err
	}
	if m.events == 0 {
		return Result{}, errors.New("measuring: nothing was acknowledged in time")
	}
	r := Result{Events: m.events, All: m.all, Seconds: m.to.Sub(m.from).Seconds()}
	if s.Events > 0 {
		r.Seconds, r.CPU = m.last.Sub(m.from).Seconds(), CPU()-before
	} else {
		r.CPU = <-cpu
	}
	if len(m.times) == 0 {
		return r, nil // fewer messages than one in so many
	}
	slices.Sort(m.times)
	at := func(q float64) float64 { return float64(m.times[int(q*float64(len(m.times)-1))]) / 1000 }
	r.P50, r.P99, r.Max = at(0.5), at(0.99), at(1)
	return r, nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Append offers events of a set over connections, in a shape.
func Append(ctx context.Context, conns []*grpc.ClientConn, set *payload.Set, s Shape) (Result, error) {
	if s.Window > 0 {
		return streams(ctx, conns, set, s)
	}
	return Measure(ctx, s, func(n int) (func(context.Context) (int, error), error) {
		conn := conns[n%len(conns)]
		events := set.New(s.First+n, s.Keys)
		var req, res Frame
		return func(ctx context.Context) (int, error) {
			req.Bytes = events.AppendField(req.Bytes[:0], 1)
			return 1, conn.Invoke(ctx, rpc.LogService_Append_FullMethodName, &req, &res)
		}, nil
	})
}

// streams offers events over append streams.
func streams(ctx context.Context, conns []*grpc.ClientConn, set *payload.Set, s Shape) (Result, error) {
	m := newMeter(s)
	g, ctx := errgroup.WithContext(ctx)
	for i := range s.Clients {
		g.Go(func() error {
			st := &stream{Shape: s, meter: m, set: set, number: i, events: s.Events*(i+1)/s.Clients - s.Events*i/s.Clients}
			if err := st.run(ctx, conns[i%len(conns)]); err != nil {
				return fmt.Errorf("stream %d: %w", i, err)
			}
			return nil
		})
	}
	return m.finish(ctx, s, g.Wait)
}

// stream is one append stream. Answers come in order, so a message's buffer is free again
// when the answer to the message a window later is due.
type stream struct {
	Shape
	meter  *meter
	set    *payload.Set
	number int
	events int // to send in all, when Shape.Events says how many
}

// message is one that is under way.
type message struct {
	at     time.Time
	events int
}

func (st *stream) run(ctx context.Context, conn *grpc.ClientConn) error {
	// Whichever of the two fails ends the stream for the other.
	g, ctx := errgroup.WithContext(ctx)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, rpc.LogService_AppendStream_FullMethodName)
	if err != nil {
		return err
	}
	free := make(chan struct{}, st.Window)
	sent := make(chan message, st.Window)
	g.Go(func() error {
		defer close(sent)
		return st.send(s, free, sent)
	})
	g.Go(func() error { return st.receive(s, free, sent) })
	return g.Wait()
}

func (st *stream) send(s grpc.ClientStream, free chan<- struct{}, sent chan<- message) error {
	events := st.set.New(st.First+st.number, st.Keys)
	events.Hot(st.HotEvery)
	frames := make([]Frame, st.Window)
	for n, left := 0, st.events; ; n++ {
		select {
		case free <- struct{}{}:
		case <-s.Context().Done():
			return nil // the receiver has the reason
		}
		now := time.Now()
		batch := st.Batch
		if st.Events > 0 {
			batch = min(batch, left)
			left -= batch
		}
		if batch == 0 || now.After(st.meter.to) {
			return s.CloseSend()
		}
		f := &frames[n%st.Window]
		f.Bytes = f.Bytes[:0]
		for range batch {
			f.Bytes = events.AppendField(f.Bytes, 1)
		}
		sent <- message{at: now, events: batch}
		if err := s.SendMsg(f); err != nil {
			return nil // the receiver has the reason
		}
	}
}

func (st *stream) receive(s grpc.ClientStream, free <-chan struct{}, sent <-chan message) error {
	t := &tally{m: st.meter, times: make([]uint32, 0, 4096)}
	defer t.add()
	var res Frame
	for {
		if err := s.RecvMsg(&res); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n, err := results(res.Bytes)
		if err != nil {
			return err
		}
		m := <-sent
		if n != m.events {
			return fmt.Errorf("%d results for %d events", n, m.events)
		}
		t.done(m.at, n)
		if st.Acked != nil {
			st.Acked.Add(int64(n))
		}
		<-free
	}
}
