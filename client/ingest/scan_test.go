package ingest_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/proto/event"
)

// tally counts the events of an import, and those of them that event.Scan takes.
type tally struct {
	t               testing.TB
	events, scanned int
	bytes           int
}

func (c *tally) Item(_ context.Context, it ingest.Item) error {
	b, err := event.Append(nil, it.Event)
	if err != nil {
		return err
	}
	c.events++
	c.bytes += len(b)
	var f event.Fields
	if event.Scan(b, &f) {
		c.scanned++
	} else {
		c.t.Logf("%s line %d: %v", it.File, it.Line, it.Event)
	}
	return nil
}

func (c *tally) Reject(context.Context, ingest.Reject) error { return nil }

// TestRealEventsAreScanned: what real audit logs become takes the log's fast path, all of
// it, with the raw record and without.
func TestRealEventsAreScanned(t *testing.T) {
	for _, raw := range []bool{false, true} {
		trail, err := cloudtrail.New(cloudtrail.Options{Tenant: "t1", KeepRaw: raw})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name     string
			importer ingest.Importer
			dirs     []string
			least    int
		}{
			{"cloudtrail", trail, []string{"../../testdata/audit/cloudtrail", "../../../shared/samples/aws-cloudtrail"}, 50},
			{"openbao", openbao.New(openbao.Options{Tenant: "t1", KeepRaw: raw}), []string{"../../testdata/audit/openbao"}, 400},
		} {
			got := &tally{t: t}
			for _, dir := range c.dirs {
				importAll(t, c.importer, dir, got)
			}
			if err := c.importer.Flush(t.Context(), got); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, raw %v: %d of %d events scanned, %d bytes each", c.name, raw, got.scanned, got.events, got.bytes/max(1, got.events))
			if got.events < c.least || got.scanned != got.events {
				t.Errorf("%s, raw %v: %d of %d events scanned", c.name, raw, got.scanned, got.events)
			}
		}
	}
}

// importAll imports the records below a directory, if it is there.
func importAll(t *testing.T, imp ingest.Importer, dir string, sink ingest.Sink) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".ndjson" || strings.Contains(path, "golden") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return imp.Read(t.Context(), path, bytes.NewReader(b), sink)
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}
