package view_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/record"
)

// fakeLog is a log in memory: the Source of a view, and the truth that its answers are
// compared with.
type fakeLog struct {
	mu        sync.Mutex
	payloads  [][]byte
	events    []*keytrailv1.KeyEvent // nil where a view can show nothing
	published uint64
	grown     chan struct{}
	keys      map[[32]byte]record.Record
	reads     int
}

func newFakeLog() *fakeLog {
	return &fakeLog{grown: make(chan struct{}), keys: make(map[[32]byte]record.Record)}
}

func (l *fakeLog) FollowPublished(ctx context.Context, after uint64) (uint64, error) {
	for {
		l.mu.Lock()
		published, grown := l.published, l.grown
		l.mu.Unlock()
		if published > after {
			return published, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (l *fakeLog) Payloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	l.mu.Lock()
	if end > l.published {
		l.mu.Unlock()
		return fmt.Errorf("reading to %d of %d: %w", end, l.published, fs.ErrNotExist)
	}
	payloads := l.payloads[start:end]
	l.reads += len(payloads)
	l.mu.Unlock()
	var buf []byte // One for all: a view that keeps it is found out.
	for i, p := range payloads {
		if p == nil {
			if err := fn(start+uint64(i), nil); err != nil {
				return err
			}
			continue
		}
		buf = append(buf[:0], p...)
		if err := fn(start+uint64(i), buf); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// RootAt is any function of the first size entries: a view only compares it.
func (l *fakeLog) RootAt(_ context.Context, size uint64) ([32]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size > l.published {
		return [32]byte{}, fs.ErrNotExist
	}
	h := sha256.New()
	for _, ev := range l.events[:size] {
		h.Write([]byte(ev.GetEventId()))
		h.Write([]byte{0})
	}
	return [32]byte(h.Sum(nil)), nil
}

// add appends an event; publish makes it visible.
func (l *fakeLog) add(t testing.TB, ev *keytrailv1.KeyEvent) {
	t.Helper()
	b, err := event.Append(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := record.Record{Index: uint64(len(l.payloads)), LoggedAt: ev.GetTime().AsTime(), Producer: "test", KeyEvent: b}
	if ref := ev.GetKey().GetRef(); ref != "" {
		id := event.KeyID(ev.GetTenant(), ref)
		last := l.keys[id]
		r.KeySequence, r.PreviousIndex = last.KeySequence+1, last.Index
		l.keys[id] = record.Record{Index: r.Index, KeySequence: r.KeySequence}
	}
	var salt [record.SaltSize]byte
	binary.BigEndian.PutUint64(salt[:], r.Index)
	l.payloads = append(l.payloads, record.AppendPayload(nil, &salt, &r))
	l.events = append(l.events, ev)
}

// addHidden appends an entry that a view cannot show: nil for an erased one.
func (l *fakeLog) addHidden(payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payloads = append(l.payloads, payload)
	l.events = append(l.events, nil)
}

func (l *fakeLog) erase(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payloads[index], l.events[index] = nil, nil
}

// publish makes the first size entries visible, all of them when size is 0.
func (l *fakeLog) publish(size uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size == 0 {
		size = uint64(len(l.payloads))
	}
	l.published = size
	close(l.grown)
	l.grown = make(chan struct{})
	return size
}

func (l *fakeLog) publishedSize() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.published
}

func (l *fakeLog) size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.payloads))
}

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// world is what random events are about; few of each, so that filters find something.
var world = struct {
	tenants, refs, actors []string
	operations            []keytrailv1.Operation
	outcomes              []keytrailv1.Outcome
}{
	tenants: []string{"acme", "globex", "initech"},
	refs:    []string{"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"},
	actors:  []string{"alice", "bob", "carol", "svc/backup", "root"},
	operations: []keytrailv1.Operation{
		keytrailv1.Operation_OPERATION_KEY_GENERATE, keytrailv1.Operation_OPERATION_KEY_ROTATE,
		keytrailv1.Operation_OPERATION_KEY_SUSPEND, keytrailv1.Operation_OPERATION_KEY_RESUME,
		keytrailv1.Operation_OPERATION_KEY_DESTROY_SCHEDULE, keytrailv1.Operation_OPERATION_KEY_DESTROY,
		keytrailv1.Operation_OPERATION_USE_ENCRYPT, keytrailv1.Operation_OPERATION_USE_DECRYPT,
		keytrailv1.Operation_OPERATION_META_READ,
	},
	outcomes: []keytrailv1.Outcome{
		keytrailv1.Outcome_OUTCOME_SUCCESS, keytrailv1.Outcome_OUTCOME_SUCCESS, keytrailv1.Outcome_OUTCOME_SUCCESS,
		keytrailv1.Outcome_OUTCOME_FAILURE, keytrailv1.Outcome_OUTCOME_DENIED,
	},
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// randomEvent is the i-th event of a log: about a second after the one before, sometimes
// an hour off.
func randomEvent(rng *rand.Rand, i int) *keytrailv1.KeyEvent {
	at := epoch.Add(time.Duration(i)*time.Second + time.Duration(rng.IntN(2000))*time.Millisecond)
	if rng.IntN(50) == 0 {
		at = at.Add(time.Duration(rng.IntN(7200)-3600) * time.Second)
	}
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       fmt.Sprintf("e%d-%d", i, rng.Uint32()),
		Source:        &keytrailv1.Source{System: "test"},
		Tenant:        pick(rng, world.tenants),
		Time:          timestamppb.New(at),
		Operation:     pick(rng, world.operations),
		Outcome:       pick(rng, world.outcomes),
	}
	if rng.IntN(10) > 0 {
		ev.Key = &keytrailv1.Key{Ref: pick(rng, world.refs)}
	}
	if rng.IntN(10) > 0 {
		ev.Actor = &keytrailv1.Actor{Id: pick(rng, world.actors)}
		if rng.IntN(2) > 0 {
			ev.Actor.Display = pick(rng, world.actors)
		}
	}
	if rng.IntN(20) == 0 {
		ev.Also = []keytrailv1.Operation{keytrailv1.Operation_OPERATION_KEY_GENERATE}
	}
	return ev
}

// addRandom appends n entries, a few of them such as a view cannot show.
func (l *fakeLog) addRandom(t testing.TB, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		switch rng.IntN(200) {
		case 0:
			l.addHidden(nil)
		case 1:
			l.addHidden([]byte("no record at all, but longer than a salt"))
		default:
			l.add(t, randomEvent(rng, int(l.size())))
		}
	}
}
