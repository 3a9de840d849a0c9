package cloudtrail_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
)

// sink collects.
type sink struct {
	items   []ingest.Item
	rejects []ingest.Reject
	skips   map[string]int
}

func (s *sink) Item(_ context.Context, it ingest.Item) error {
	s.items = append(s.items, it)
	return nil
}

func (s *sink) Reject(_ context.Context, r ingest.Reject) error {
	s.rejects = append(s.rejects, r)
	return nil
}

func (s *sink) Skip(_ context.Context, k ingest.Skip) error {
	if s.skips == nil {
		s.skips = make(map[string]int)
	}
	s.skips[k.Reason]++
	return nil
}

// read imports one file with all its events valid.
func read(t testing.TB, opt cloudtrail.Options, data []byte) *sink {
	t.Helper()
	imp, err := cloudtrail.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	s := new(sink)
	if err := imp.Read(t.Context(), "file", bytes.NewReader(data), s); err != nil {
		t.Fatal(err)
	}
	if err := imp.Flush(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, it := range s.items {
		if err := event.Validate(it.Event, now); err != nil {
			t.Fatalf("line %d: %v", it.Line, err)
		}
	}
	return s
}

// root is the directory of go.mod.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}

// sample reads a file of the samples that may not be copied into the project.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), "..", "shared", "samples", "aws-cloudtrail", name))
	if os.IsNotExist(err) {
		t.Skipf("the sample %s is not here", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var tenant = cloudtrail.Options{Tenant: "t1"}

func TestAttackSample(t *testing.T) {
	data := sample(t, "attack-run-kms-events.ndjson")
	s := read(t, tenant, data)
	if len(s.items) != 240 || len(s.rejects) != 0 {
		t.Fatalf("got %d events and %d rejects, want 240 and 0", len(s.items), len(s.rejects))
	}
	counts, services := make(map[string]int), make(map[string]int)
	for _, it := range s.items {
		ev := it.Event
		counts[event.OperationName(ev.GetOperation())+" "+event.OutcomeName(ev.GetOutcome())]++
		if !strings.Contains(ev.GetKey().GetRef(), ":key/") {
			t.Errorf("line %d: key %q", it.Line, ev.GetKey().GetRef())
		}
		if ev.GetActor().GetType() != keytrailv1.Actor_TYPE_USER || !strings.Contains(ev.GetActor().GetId(), ":user/") {
			t.Errorf("line %d: actor %v", it.Line, ev.GetActor())
		}
		services[ev.GetService()]++
	}
	// The others came through "AWS Internal", which is no service's name.
	if n := services["secretsmanager.amazonaws.com"]; n != 76 || len(services) != 2 {
		t.Errorf("services %v, want 76 of secretsmanager and one kind else", services)
	}
	want := map[string]int{"use.decrypt success": 178, "use.encrypt success": 42, "use.datakey success": 20}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
}

func TestVendorSample(t *testing.T) {
	s := read(t, tenant, sample(t, "vendor-examples.ndjson"))
	if len(s.items) != 67 || len(s.rejects) != 0 || len(s.skips) != 0 {
		t.Fatalf("got %d events, %d rejects, %v skipped, want 67: %v", len(s.items), len(s.rejects), s.skips, s.rejects)
	}
	counts := make(map[string]int)
	noKey := make(map[string]int)
	for _, it := range s.items {
		ev := it.Event
		counts[event.OperationName(ev.GetOperation())+" "+event.OutcomeName(ev.GetOutcome())]++
		if ev.GetKey() == nil {
			noKey[ev.GetSourceOperation()]++
		}
	}
	want := map[string]int{
		"access.grant success": 2, "access.policy_change success": 1, "access.revoke success": 2,
		"key.destroy success": 4, "key.destroy_cancel success": 1, "key.destroy_schedule success": 3,
		"key.generate success": 2, "key.import success": 1, "key.import_prepare success": 1,
		"key.register_external success": 1, "key.replicate success": 3, "key.resume success": 1,
		"key.rotate success": 1, "key.rotation_config success": 2, "key.suspend success": 1,
		"meta.alias success": 3, "meta.list success": 2, "meta.read success": 2, "meta.tag success": 2,
		"meta.update success": 1, "store.connect success": 1, "store.create success": 1,
		"store.delete success": 1, "store.disconnect success": 1, "store.read success": 1,
		"store.update success": 1, "use.datakey failure": 1, "use.datakey success": 9,
		"use.decrypt failure": 1, "use.decrypt success": 6, "use.encrypt success": 1, "use.mac success": 1,
		"use.mac_verify success": 1, "use.random success": 2, "use.reencrypt success": 1, "use.sign success": 1,
		"use.verify success": 1,
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	wantNoKey := map[string]int{
		"GenerateRandom": 2, "ListAliases": 1, "DescribeCustomKeyStores": 1, "CreateCustomKeyStore": 1,
		"ConnectCustomKeyStore": 1, "DisconnectCustomKeyStore": 1, "UpdateCustomKeyStore": 1, "DeleteCustomKeyStore": 1,
	}
	if diff := cmp.Diff(wantNoKey, noKey); diff != "" {
		t.Errorf("events without a key (-want +got):\n%s", diff)
	}
}
