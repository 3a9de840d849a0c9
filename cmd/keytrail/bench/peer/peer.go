// Package peer has what keytrail is measured against, each as its own users would run it: as
// something in this process that records one event, or as a server with keytrail's append
// service.
//
// A Recorder may be used concurrently, and an event it has recorded is on stable storage,
// unless its comment says otherwise. The package is trusted to make peers no slower than
// they are: servers read requests as bytes and decode nothing.
package peer

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Recorder records events in this process.
type Recorder interface {
	// Record returns when the event is durable. It keeps nothing of the event.
	Record(ctx context.Context, event []byte) error
	Close() error
}

// Options are what the systems that have options are opened with.
type Options struct {
	// Batch and Age are Tessera's batching.
	Batch uint
	Age   time.Duration
	// Published makes Tessera wait for the checkpoint that covers the event.
	Published bool
}

// Open opens a system on a new directory.
func Open(ctx context.Context, system, dir string, o Options) (Recorder, error) {
	switch system {
	case "keytrail":
		return openKeytrail(ctx, dir)
	case "tessera":
		return openTessera(ctx, dir, o)
	case "jsonl":
		return openLines(filepath.Join(dir, "log.jsonl"))
	case "pebble":
		return openPebble(dir)
	}
	return nil, fmt.Errorf("no system is called %q", system)
}

// pebbleStore is a bare Pebble with a synced write for each event: what the engine below
// keytrail's store does without a log on top. Pebble joins the syncs of concurrent writers.
type pebbleStore struct {
	db *pebble.DB
	n  atomic.Uint64
}

func openPebble(dir string) (*pebbleStore, error) {
	db, err := pebble.Open(filepath.Join(dir, "pebble"), &pebble.Options{MemTableSize: 64 << 20, Logger: quiet{}})
	if err != nil {
		return nil, fmt.Errorf("opening Pebble: %w", err)
	}
	return &pebbleStore{db: db}, nil
}

// Record implements Recorder.
func (p *pebbleStore) Record(_ context.Context, event []byte) error {
	n := p.n.Add(1)
	key := [8]byte{byte(n >> 56), byte(n >> 48), byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	return p.db.Set(key[:], event, pebble.Sync)
}

// Close implements Recorder.
func (p *pebbleStore) Close() error { return p.db.Close() }

// quiet drops what Pebble says.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...)) // Pebble does not go on after it
}
