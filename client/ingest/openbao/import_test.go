package openbao_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// The options of most tests: root namespace "platform", every other its own tenant.
func byNamespace() openbao.Options {
	return openbao.Options{Tenant: "platform", TenantFromNamespace: true, Account: "bao-1"}
}

// collector is a sink that keeps everything, and fails the test on an invalid event.
type collector struct {
	t       testing.TB
	items   []ingest.Item
	rejects []ingest.Reject
}

func (c *collector) Item(_ context.Context, it ingest.Item) error {
	if err := event.Validate(it.Event, it.Event.GetTime().AsTime()); err != nil {
		c.t.Errorf("%s line %d: %v", it.File, it.Line, err)
	}
	c.items = append(c.items, it)
	return nil
}

func (c *collector) Reject(_ context.Context, r ingest.Reject) error {
	c.rejects = append(c.rejects, r)
	return nil
}

// read imports one log held in memory, to the end.
func read(t testing.TB, opts openbao.Options, log []byte) *collector {
	t.Helper()
	c := &collector{t: t}
	i := openbao.New(opts)
	if err := i.Read(t.Context(), "audit.log", bytes.NewReader(log), c); err != nil {
		t.Fatal(err)
	}
	if err := i.Flush(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// readClean is read for a log without rejects.
func readClean(t testing.TB, opts openbao.Options, log []byte) *collector {
	t.Helper()
	c := read(t, opts, log)
	for _, r := range c.rejects {
		t.Errorf("line %d rejected: %s", r.Line, r.Reason)
	}
	return c
}

// one is the event of a log that must give exactly one.
func one(t testing.TB, opts openbao.Options, lines ...string) *keytrailv1.KeyEvent {
	t.Helper()
	c := readClean(t, opts, []byte(strings.Join(lines, "\n")))
	if len(c.items) != 1 {
		t.Fatalf("%d events, want 1", len(c.items))
	}
	return c.items[0].Event
}

// sample is a file of testdata/audit/openbao.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "audit", "openbao", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sampleLines are lines of a sample, by number from 1.
func sampleLines(t testing.TB, name string, numbers ...int) []string {
	t.Helper()
	all := strings.Split(string(sample(t, name)), "\n")
	lines := make([]string, 0, len(numbers))
	for _, n := range numbers {
		lines = append(lines, all[n-1])
	}
	return lines
}

// byID finds events by their id.
func byID(c *collector) map[string]*keytrailv1.KeyEvent {
	m := make(map[string]*keytrailv1.KeyEvent, len(c.items))
	for _, it := range c.items {
		m[it.Event.GetEventId()] = it.Event
	}
	return m
}

// attribute is the value of one, or "".
func attribute(ev *keytrailv1.KeyEvent, name string) string {
	for _, a := range ev.GetAttributes() {
		if a.GetName() == name {
			return a.GetValue()
		}
	}
	return ""
}
