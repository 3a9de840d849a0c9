package monitor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
)

// watched is a log that may lie, and what a monitor of it is given.
type watched struct {
	t   testing.TB
	log *tilestest.Log
	cfg monitor.Config
	now time.Time
	// payloads of the log, as far as it has any, and the places from which they were read.
	payloads [][]byte
	starts   []uint64
}

// watch makes a monitor's configuration for a log.
func watch(t testing.TB, l *tilestest.Log) *watched {
	t.Helper()
	w := &watched{t: t, log: l, now: time.Now()}
	w.cfg = monitor.Config{
		Origin: tilestest.Origin, Log: open(t, tilestest.Serve(t, l)), Policy: l.Policy(),
		Dir: filepath.Join(t.TempDir(), "state"), Now: func() time.Time { return w.now },
	}
	return w
}

func open(t testing.TB, url string) *tiles.Log {
	t.Helper()
	l, err := tiles.Open(url, tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// round opens the monitor, looks once and closes it: every look is also a restart.
func (w *watched) round() *monitor.Round {
	w.t.Helper()
	m, err := monitor.Open(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := m.Round(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// fine looks and wants a size and no alarm.
func (w *watched) fine(size int) *monitor.Round {
	w.t.Helper()
	r := w.round()
	if r.Verdict() != monitor.Fine || len(r.Alarms) > 0 || r.Size != uint64(size) || r.Root != w.log.Root(size) {
		w.t.Fatalf("want %d entries and no alarm: %+v", size, r)
	}
	return r
}

// alarm looks and wants one kind of alarm of a severity; what was accepted before is still
// the last checkpoint.
func (w *watched) alarm(kind monitor.Kind, severity monitor.Severity, words string) monitor.Alarm {
	w.t.Helper()
	return wantAlarm(w.t, w.round(), kind, severity, words)
}

func wantAlarm(t testing.TB, r *monitor.Round, kind monitor.Kind, severity monitor.Severity, words string) monitor.Alarm {
	t.Helper()
	if len(r.Alarms) != 1 || r.Alarms[0].Kind != kind || r.Alarms[0].Severity != severity || !strings.Contains(r.Alarms[0].Detail, words) {
		t.Fatalf("want one %s alarm %s with %q: %+v", severity, kind, words, r.Alarms)
	}
	want := map[monitor.Severity]monitor.Verdict{
		monitor.SeverityInfo: monitor.Fine, monitor.SeverityWarning: monitor.Unknown, monitor.SeverityCritical: monitor.Tampered,
	}[severity]
	if r.Verdict() != want {
		t.Fatalf("verdict %v, want %v: %+v", r.Verdict(), want, r.Alarms)
	}
	return r.Alarms[0]
}

// proves wants that the evidence of an alarm convicts the log, and returns what it says.
func (w *watched) proves(a monitor.Alarm) *verify.Conviction {
	w.t.Helper()
	data, err := os.ReadFile(a.Evidence)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := verify.Evidence(data, w.cfg.Policy)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// serve makes the monitor read another log from now on, as if its server lied.
func (w *watched) serve(l *tilestest.Log) { w.cfg.Log = open(w.t, tilestest.Serve(w.t, l)) }

// witness is a witness with its monitoring endpoint.
type witness struct {
	t    testing.TB
	name string
	key  *checkpoint.SignerKey
	note []byte // what the endpoint shows; nil for nothing
}

func newWitness(t testing.TB, name string) *witness {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	k, err := checkpoint.NewSignerKey("witness.test/"+name, checkpoint.TypeMLDSA44, seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return &witness{t: t, name: name, key: k}
}

// cosign returns a note with the witness's cosignature, and shows it.
func (x *witness) cosign(note []byte, at time.Time) []byte {
	x.t.Helper()
	c, _, err := checkpoint.ParseNote(note)
	if err != nil {
		x.t.Fatal(err)
	}
	s, err := x.key.Cosign(c, uint64(at.Unix()))
	if err != nil {
		x.t.Fatal(err)
	}
	x.note = s.Append(bytes.Clone(note))
	return x.note
}

func (x *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if x.note == nil || r.URL.Path != fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(tilestest.Origin))) {
		http.NotFound(rw, r)
		return
	}
	_, _ = rw.Write(x.note)
}

// demand makes the policy demand one of these witnesses, whose endpoints are compared.
func (w *watched) demand(witnesses ...*witness) {
	w.t.Helper()
	p := w.log.Policy()
	g := policy.Group{Name: "any", Threshold: 1}
	for _, x := range witnesses {
		p.Witnesses = append(p.Witnesses, policy.Witness{Name: x.name, Key: x.key.VerifierKey(), URL: tilestest.Serve(w.t, x)})
		g.Members = append(g.Members, x.name)
	}
	p.Groups, p.Quorum = []policy.Group{g}, g.Name
	w.cfg.Policy = p
	var err error
	if w.cfg.Views, err = monitor.WitnessViews(p, tilestest.Origin, tiles.Options{}); err != nil {
		w.t.Fatal(err)
	}
}

// ReadPayloads implements payloads.Service.
func (w *watched) ReadPayloads(_ context.Context, req *rpc.ReadPayloadsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[rpc.ReadPayloadsResponse], error) {
	w.starts = append(w.starts, req.GetStart())
	return &stream{payloads: w.payloads[req.GetStart():req.GetEnd()], next: req.GetStart()}, nil
}

// stream sends payloads, a few a message.
type stream struct {
	grpc.ClientStream
	payloads [][]byte
	next     uint64
}

func (s *stream) Recv() (*rpc.ReadPayloadsResponse, error) {
	if len(s.payloads) == 0 {
		return nil, io.EOF
	}
	n := min(100, len(s.payloads))
	res := &rpc.ReadPayloadsResponse{Start: s.next, Payloads: s.payloads[:n]}
	s.payloads, s.next = s.payloads[n:], s.next+uint64(n)
	return res, nil
}

// put appends a record to the log and its payloads.
func (w *watched) put(r *record.Record) {
	w.t.Helper()
	salt := [record.SaltSize]byte{}
	binary.BigEndian.PutUint64(salt[:], uint64(len(w.payloads)))
	w.putPayload(record.AppendPayload(nil, &salt, r))
}

func (w *watched) putPayload(b []byte) {
	leaf := record.Leaf(b)
	w.payloads = append(w.payloads, b)
	w.log.Add(leaf[:])
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// entry returns a record of a key as the log writes it.
func entry(t testing.TB, index int, key string, sequence, previous int) *record.Record {
	t.Helper()
	op := keytrailv1.Operation_OPERATION_USE_DECRYPT
	if sequence == 1 {
		op = keytrailv1.Operation_OPERATION_KEY_GENERATE
	}
	ev, err := event.Append(nil, &keytrailv1.KeyEvent{
		SchemaVersion: event.SchemaVersion, EventId: fmt.Sprint("event-", index),
		Source: &keytrailv1.Source{System: "test-kms"}, Tenant: "acme", Time: timestamppb.New(began),
		Operation: op, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS, Key: &keytrailv1.Key{Ref: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &record.Record{
		Index: uint64(index), LoggedAt: began.Add(time.Duration(index) * time.Second), Producer: "kms",
		KeySequence: uint64(sequence), PreviousIndex: uint64(previous), KeyEvent: ev,
	}
}

// kinds returns the kinds of the alarms, in order.
func kinds(r *monitor.Round) []monitor.Kind {
	var out []monitor.Kind
	for _, a := range r.Alarms {
		out = append(out, a.Kind)
	}
	slices.Sort(out)
	return out
}
