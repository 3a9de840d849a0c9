package main

import (
	"testing"

	"github.com/google/pprof/profile"
)

func TestComponentOf(t *testing.T) {
	for _, c := range []struct {
		want  string
		stack []string // the innermost first
	}{
		{"commit: batch and memtable", []string{"runtime.memmove", "github.com/cockroachdb/pebble/v2.(*Batch).Commit", ourPath + "storage/pebblestore.(*Store).Commit", ourPath + "log.(*sequencer).write"}},
		{"payloads, leaves, hashes", []string{"crypto/sha256.Sum256", ourPath + "proto/record.Leaf", ourPath + "log.(*batch).encodeSome", ourPath + "log.(*sequencer).add"}},
		{"reading and validating events", []string{ourPath + "proto/event.Scan", ourPath + "log.PrepareEncoded", ourPath + "log/server.(*appendRequest).read", "google.golang.org/grpc.recv"}},
		{"index of ids and keys", []string{ourPath + "log/index.(*Index).Event", ourPath + "log.(*Log).Submit"}},
		{"", []string{"main.main"}},
	} {
		s := &profile.Sample{}
		for _, name := range c.stack {
			s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}})
		}
		got := ""
		if at := componentOf(s); at < len(components) {
			got = components[at].name
		}
		if got != c.want {
			t.Errorf("%v belongs to %q, want %q", c.stack, got, c.want)
		}
	}
}
