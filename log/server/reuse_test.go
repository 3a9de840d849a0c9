package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
)

// TestStreamsUseMemoryAgain sends requests of all sizes over several streams, some events
// again and some bad ones among them, and reads back every entry: none has bytes of another
// request, though requests lie where others lay before.
func TestStreamsUseMemoryAgain(t *testing.T) {
	t.Parallel()
	const streams, requests = 4, 150
	f := start(t, options{})
	var mu sync.Mutex
	want := make(map[uint64][]byte)
	var g errgroup.Group
	for n := range streams {
		s := stream(t, f)
		sent := make(chan []*keytrailv1.KeyEvent, requests)
		g.Go(func() error {
			defer close(sent)
			r := rand.New(rand.NewPCG(1, uint64(n)))
			next := 1_000_000 * n
			for range requests {
				var events []*keytrailv1.KeyEvent
				for range 1 + r.IntN(1+r.IntN(80)) {
					if next++; r.IntN(8) == 0 {
						next -= r.IntN(5) // again
					}
					ev := logtest.Event(next, "k")
					ev.RequestId = strings.Repeat(fmt.Sprint(next, " "), 1+next%20)
					if r.IntN(30) == 0 {
						ev = &keytrailv1.KeyEvent{}
					}
					events = append(events, ev)
				}
				sent <- events
				if err := s.Send(&rpc.AppendStreamRequest{Events: events}); err != nil {
					return fmt.Errorf("sending: %w", err)
				}
			}
			return s.CloseSend()
		})
		g.Go(func() error {
			for events := range sent {
				res, err := s.Recv()
				if err != nil {
					return fmt.Errorf("receiving: %w", err)
				}
				for i, r := range res.GetResults() {
					if bad := events[i].GetTenant() == ""; bad != (r.GetAck() == nil) {
						return fmt.Errorf("event %v: %v", events[i], r)
					} else if bad {
						continue
					}
					b, err := event.Append(nil, events[i])
					if err != nil {
						return err
					}
					mu.Lock()
					if had := want[r.GetAck().GetIndex()]; had != nil && !bytes.Equal(had, b) {
						err = fmt.Errorf("two events at %d", r.GetAck().GetIndex())
					}
					want[r.GetAck().GetIndex()] = b
					mu.Unlock()
					if err != nil {
						return err
					}
				}
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("after the last answer: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	size := f.log.DurableSize()
	if len(want) != int(size) || size < streams*requests {
		t.Errorf("%d entries, %d were acknowledged", size, len(want))
	}
	err := f.store.Payloads(context.Background(), 0, size, func(i uint64, payload []byte) error {
		_, b, err := record.Open(payload)
		if err != nil {
			return err
		}
		r, err := record.Parse(b)
		if err == nil && !bytes.Equal(r.KeyEvent, want[i]) {
			err = fmt.Errorf("entry %d is %x, sent was %x", i, r.KeyEvent, want[i])
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
