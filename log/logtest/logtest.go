// Package logtest helps tests to open a log on any store, to make events for it, and to
// check all that it promises after any step.
package logtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/storage"
)

// Origin of the logs that tests open.
const Origin = "log.test/keytrail"

// Dir is what a log keeps outside its store: index, ledger and keys.
type Dir struct {
	Path    string
	Signers []*checkpoint.SignerKey
	// IndexFS holds the index, nil for the operating system's file system.
	IndexFS vfs.FS
	// IndexRound is how many records the index keeps in memory; 0 means as many as it
	// does outside of tests.
	IndexRound int
	// Change, when set, changes the configuration with which logs are opened.
	Change func(*log.Config)
	// Opened gets a log before it runs, unless nil.
	Opened func(*log.Log)
}

// NewDir makes the directory of a new log.
func NewDir(t testing.TB) *Dir {
	t.Helper()
	d := &Dir{Path: t.TempDir()}
	for _, generate := range []func(string, io.Reader) (*checkpoint.SignerKey, error){
		checkpoint.GenerateEd25519, checkpoint.GenerateMLDSA44,
	} {
		k, err := generate(Origin, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d.Signers = append(d.Signers, k)
	}
	if err := ledger.Create(d.Ledger(), Origin); err != nil {
		t.Fatal(err)
	}
	return d
}

// Ledger is the path of the signer's ledger.
func (d *Dir) Ledger() string { return filepath.Join(d.Path, "ledger") }

// Index is the path of the index.
func (d *Dir) Index() string { return filepath.Join(d.Path, "index") }

// Nodes is the path of the hashes for proofs.
func (d *Dir) Nodes() string { return filepath.Join(d.Path, "nodes") }

// DropIndex loses the index, as an operator may while the log is stopped.
func (d *Dir) DropIndex(t testing.TB) {
	t.Helper()
	fsys := d.IndexFS
	if fsys == nil {
		fsys = vfs.Default
	}
	if err := fsys.RemoveAll(d.Index()); err != nil {
		t.Fatal(err)
	}
}

// ReadLedger returns the bytes of the ledger as they are.
func (d *Dir) ReadLedger(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(d.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// WithLedger returns another directory of the same log with the given ledger and no index.
func (d *Dir) WithLedger(t testing.TB, ledger []byte) *Dir {
	t.Helper()
	c := &Dir{Path: t.TempDir(), Signers: d.Signers, IndexRound: d.IndexRound, Change: d.Change}
	if err := os.WriteFile(c.Ledger(), ledger, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// Log is a log that runs.
type Log struct {
	*log.Log
	Store storage.Store

	dir    *Dir
	index  *index.Index
	nodes  *prove.Nodes
	ledger *ledger.Ledger
	cancel context.CancelFunc
	ended  chan error
	once   sync.Once
	err    error
	// running is l until Stop; a test that opens thousands keeps none of them.
	running *atomic.Pointer[Log]
}

// Open opens a log over a store and runs it until Stop or the test's end.
func Open(t testing.TB, d *Dir, s storage.Store) *Log {
	t.Helper()
	l, err := TryOpen(t, d, s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TryOpen is Open for tests that expect it to fail.
func TryOpen(t testing.TB, d *Dir, s storage.Store) (*Log, error) {
	t.Helper()
	x, err := index.Open(d.Index(), index.Options{FS: d.IndexFS, RoundRecords: d.IndexRound})
	if err != nil {
		return nil, err
	}
	led, err := ledger.Open(d.Ledger(), Origin)
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	nodes, err := prove.OpenNodes(d.Nodes(), nil)
	if err != nil {
		return nil, errors.Join(err, x.Close(), led.Close())
	}
	c := log.Config{Origin: Origin, Signers: d.Signers, Store: s, Index: x, Nodes: nodes, Ledger: led, MinInterval: time.Millisecond}
	if d.Change != nil {
		d.Change(&c)
	}
	inner, err := log.Open(t.Context(), c)
	if err != nil {
		return nil, errors.Join(err, x.Close(), nodes.Close(), led.Close())
	}
	if d.Opened != nil {
		d.Opened(inner)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Log{Log: inner, Store: s, dir: d, index: x, nodes: nodes, ledger: led, cancel: cancel, ended: make(chan error, 1)}
	go func() { l.ended <- inner.Run(ctx) }()
	running := new(atomic.Pointer[Log])
	running.Store(l)
	l.running = running
	t.Cleanup(func() {
		if l := running.Load(); l != nil {
			_ = l.Stop()
		}
	})
	return l, nil
}

// Stop ends the log as a clean stop does, but leaves the store open, and returns what Run
// returned.
func (l *Log) Stop() error {
	l.once.Do(func() {
		l.cancel()
		l.err = errors.Join(<-l.ended, l.index.Close(), l.nodes.Close(), l.ledger.Close())
		l.running.Store(nil)
	})
	return l.err
}

// CloseLedger takes the ledger's file from under the running log, so that its next write
// fails.
func (l *Log) CloseLedger(t testing.TB) {
	t.Helper()
	if err := l.ledger.Close(); err != nil {
		t.Fatal(err)
	}
}

// AwaitPublished waits until size entries are published, and a checkpoint at all.
func (l *Log) AwaitPublished(t testing.TB, size uint64) log.Published {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if pub := l.Published(); pub.Note != nil && pub.Size >= size {
			return pub
		}
		if time.Now().After(deadline) {
			t.Fatalf("published %d of %d entries", l.Published().Size, size)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// Wait waits until the log has ended by itself and returns what Run returned.
func (l *Log) Wait(t testing.TB) error {
	t.Helper()
	select {
	case <-l.Failed():
	case <-time.After(30 * time.Second):
		t.Fatal("the log did not end")
	}
	return l.Stop()
}

// Event makes a valid event: the n-th of source "test", on key, which may be empty.
func Event(n int, key string) *keytrailv1.KeyEvent {
	ev := &keytrailv1.KeyEvent{
		SchemaVersion: 1,
		EventId:       fmt.Sprintf("event-%d", n),
		Source:        &keytrailv1.Source{System: "test"},
		Tenant:        "acme",
		Time:          timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second)),
		Operation:     keytrailv1.Operation_OPERATION_USE_ENCRYPT,
		Outcome:       keytrailv1.Outcome_OUTCOME_SUCCESS,
	}
	if key != "" {
		ev.Key = &keytrailv1.Key{Ref: key}
	}
	return ev
}

// Prepare makes an event ready to append.
func Prepare(t testing.TB, ev *keytrailv1.KeyEvent) log.Event {
	t.Helper()
	p, err := log.Prepare(ev, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Append1 appends one event and fails the test if that fails.
func (l *Log) Append1(t testing.TB, ev *keytrailv1.KeyEvent) log.Result {
	t.Helper()
	res, err := l.Append(t.Context(), "tester", []log.Event{Prepare(t, ev)})
	if err != nil {
		t.Fatal(err)
	}
	return res[0]
}

// Check verifies the whole of a store as fsck does.
func Check(t testing.TB, d *Dir, s storage.Store) *fsck.Report {
	t.Helper()
	opts := fsck.Options{Origin: Origin, CheckpointCell: log.CheckpointCell}
	for _, k := range d.Signers {
		opts.Keys = append(opts.Keys, k.VerifierKey())
	}
	r, err := fsck.Check(context.Background(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Errorf("fsck: %v", p)
	}
	return r
}
