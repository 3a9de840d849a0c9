package payloads_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/record"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// entry makes the payload of an entry and its leaf.
func entry(t *testing.T, r record.Record, key string) payloads.Item {
	t.Helper()
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: fmt.Sprint(r.Index), Source: &keytrailv1.Source{System: "test"}, Tenant: "acme",
		Time:      timestamppb.New(begin),
		Operation: keytrailv1.Operation_OPERATION_USE_ENCRYPT, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
	}
	if key != "" {
		ev.Key = &keytrailv1.Key{Ref: key}
	}
	var err error
	if r.KeyEvent, err = event.Append(nil, ev); err != nil {
		t.Fatal(err)
	}
	if r.LoggedAt.IsZero() {
		r.LoggedAt = begin.Add(time.Duration(r.Index) * time.Second)
	}
	var salt [record.SaltSize]byte
	salt[0] = byte(r.Index)
	p := record.AppendPayload(nil, &salt, &r)
	leaf := record.Leaf(p)
	return payloads.Item{Index: r.Index, Leaf: leaf[:], Payload: p}
}

// history makes a good history: keys a and b in turn, and every third entry without one.
func history(t *testing.T, n uint64) []payloads.Item {
	t.Helper()
	var out []payloads.Item
	for i := range n {
		r := record.Record{Index: i}
		key := []string{"a", "b", ""}[i%3]
		if key != "" {
			r.KeySequence = i/3 + 1
			if i >= 3 {
				r.PreviousIndex = i - 3
			}
		}
		out = append(out, entry(t, r, key))
	}
	return out
}

func problems(c *payloads.Checker, items []payloads.Item) []string {
	var out []string
	for _, e := range payloads.ExamineAll(items) {
		for _, p := range c.Add(e) {
			out = append(out, fmt.Sprintf("%d %s", p.Index, p.What))
		}
	}
	return out
}

func TestGoodHistory(t *testing.T) {
	items := history(t, 5000)
	for _, i := range []int{0, 3, 6, 100, 101} { // the first of a key, and in the middle
		items[i].Payload = nil
	}
	items[9].Leaf, items[9].Payload = []byte{2, 'x'}, nil // public by itself
	items[12].Leaf = nil                                  // not known
	var c payloads.Checker
	if got := problems(&c, items); len(got) > 0 {
		t.Errorf("problems: %v", got)
	}
	if c.Erased != 5 || c.Keys != 2 || c.Unfollowed != 0 {
		t.Errorf("%d erased, %d keys, %d not followed", c.Erased, c.Keys, c.Unfollowed)
	}
}

// TestBadHistory breaks one thing each and wants one problem at its place.
func TestBadHistory(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, items []payloads.Item)
		want  string
	}{
		{"flipped", func(_ *testing.T, x []payloads.Item) { x[7].Payload[40] ^= 1 }, "7 record does not open its leaf"},
		{"salt", func(_ *testing.T, x []payloads.Item) { x[7].Payload[0] ^= 1 }, "7 record does not open its leaf"},
		{"of another entry", func(_ *testing.T, x []payloads.Item) { x[7].Payload = x[6].Payload }, "7 record does not open its leaf"},
		{"too short", func(_ *testing.T, x []payloads.Item) {
			leaf := record.Leaf([]byte("short"))
			x[7].Payload, x[7].Leaf = []byte("short"), leaf[:]
		}, "7 opening payload"},
		{"garbage", func(_ *testing.T, x []payloads.Item) {
			p := bytes.Repeat([]byte{7}, 60)
			leaf := record.Leaf(p)
			x[7].Payload, x[7].Leaf = p, leaf[:]
		}, "7 parsing record"},
		{"index", func(t *testing.T, x []payloads.Item) {
			x[8] = entry(t, record.Record{Index: 9, LoggedAt: begin.Add(8 * time.Second)}, "")
			x[8].Index = 8
		}, "8 record says that it is entry 9"},
		{"clock", func(t *testing.T, x []payloads.Item) {
			x[8] = entry(t, record.Record{Index: 8, LoggedAt: begin}, "")
		}, "8 was logged at"},
		{"gap in a chain", func(t *testing.T, x []payloads.Item) {
			x[27] = entry(t, record.Record{Index: 27, KeySequence: 11, PreviousIndex: 24}, "a")
		}, "27 is number 11 of its key after entry 24; the entries before it make it number 10 after entry 24"},
		{"other predecessor", func(t *testing.T, x []payloads.Item) {
			x[27] = entry(t, record.Record{Index: 27, KeySequence: 10, PreviousIndex: 21}, "a")
		}, "27 is number 10 of its key after entry 21"},
		{"second beginning", func(t *testing.T, x []payloads.Item) {
			x[27] = entry(t, record.Record{Index: 27, KeySequence: 1}, "a")
		}, "27 is number 1 of its key"},
		{"key without number", func(t *testing.T, x []payloads.Item) {
			x[8] = entry(t, record.Record{Index: 8}, "c")
		}, `8 record has key sequence 0 for an event with key "c"`},
		{"payload of a public leaf", func(_ *testing.T, x []payloads.Item) { x[8].Leaf = []byte{2} }, "8 has a payload but no leaf"},
	} {
		items := history(t, 30)
		c.spoil(t, items)
		got := problems(new(payloads.Checker), items)
		// What cannot be read leaves a gap, which makes no second problem.
		if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s: %q, want one that begins with %q", c.name, got, c.want)
		}
	}
}

// TestMaxKeys follows the first keys only, and counts what it does not check.
func TestMaxKeys(t *testing.T) {
	items := history(t, 30)
	items[28] = entry(t, record.Record{Index: 28, KeySequence: 9}, "b") // wrong, of a key that is not followed
	c := payloads.Checker{MaxKeys: 1}
	if got := problems(&c, items[:28]); len(got) > 0 || c.Keys != 1 || c.Unfollowed != 9 {
		t.Errorf("problems %v, %d keys, %d not followed", got, c.Keys, c.Unfollowed)
	}
}

// service answers with what it is given.
type service struct{ answers []*rpc.ReadPayloadsResponse }

func (s service) ReadPayloads(context.Context, *rpc.ReadPayloadsRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	return &stream{answers: s.answers}, nil
}

type stream struct {
	grpc.ServerStreamingClient[rpc.ReadPayloadsResponse]
	answers []*rpc.ReadPayloadsResponse
}

func (s *stream) Recv() (*rpc.ReadPayloadsResponse, error) {
	if len(s.answers) == 0 {
		return nil, io.EOF
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	return a, nil
}

func TestReader(t *testing.T) {
	p := func(start uint64, sizes ...int) *rpc.ReadPayloadsResponse {
		res := &rpc.ReadPayloadsResponse{Start: start}
		for _, n := range sizes {
			res.Payloads = append(res.Payloads, make([]byte, n))
		}
		return res
	}
	for _, c := range []struct {
		name    string
		answers []*rpc.ReadPayloadsResponse
		good    int // how many are read before the end
		ok      bool
	}{
		{"all", []*rpc.ReadPayloadsResponse{p(5, 1, 0), p(7, 3)}, 3, true},
		{"too few", []*rpc.ReadPayloadsResponse{p(5, 1, 0)}, 2, false},
		{"nothing", nil, 0, false},
		{"empty answer", []*rpc.ReadPayloadsResponse{p(5)}, 0, false},
		{"too many", []*rpc.ReadPayloadsResponse{p(5, 1, 1, 1, 1)}, 0, false},
		{"gap", []*rpc.ReadPayloadsResponse{p(5, 1), p(7, 1)}, 1, false},
		{"again", []*rpc.ReadPayloadsResponse{p(5, 1), p(5, 1, 1)}, 1, false},
		{"too large", []*rpc.ReadPayloadsResponse{p(5, 1, record.MaxPayloadSize+1, 1)}, 1, false},
		{"largest", []*rpc.ReadPayloadsResponse{p(5, 1, record.MaxPayloadSize, 1)}, 3, true},
	} {
		r, err := payloads.Read(t.Context(), service{c.answers}, 5, 8)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; err == nil; n++ {
			var b []byte
			if b, err = r.Next(); err == nil && b != nil && len(b) == 0 {
				t.Errorf("%s: an erased payload is empty, want nil", c.name)
			}
		}
		r.Close()
		if n--; n != c.good || c.ok != errors.Is(err, io.EOF) || c.ok == errors.Is(err, payloads.ErrAnswer) {
			t.Errorf("%s: %d payloads, then %v", c.name, n, err)
		}
	}
	r, err := payloads.Read(t.Context(), service{}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("nothing asked for: %v", err)
	}
	if _, err := payloads.Read(t.Context(), service{}, 2, 1); err == nil {
		t.Error("from 2 to 1")
	}
}
