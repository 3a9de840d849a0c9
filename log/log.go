// Package log is the one writer of a transparency log of key events: it validates,
// sequences, commits and acknowledges events, and signs and publishes checkpoints over
// what it has committed.
//
// A Log's methods may be called concurrently. What Append acknowledges is durable, with
// the tree that contains it, before Append returns. The package is trusted with the
// log's private keys and with payloads; it is not trusted about history, which every
// signed checkpoint, receipt and consistency proof lets anyone check. How it stays at
// one tree through crashes is in DESIGN.md beside this file.
package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness/feed"
)

// Errors of Append, to be matched with errors.Is.
var (
	// ErrOverloaded means that the pool is full; nothing was taken. Try again later. An
	// *OverloadError says that it is one tenant who has sent too much.
	ErrOverloaded = errors.New("log: too many events are waiting to be written")
	// ErrStopping means that the log is being stopped; nothing was taken.
	ErrStopping = errors.New("log: stopping")
	// ErrStopped means that the log stopped writing after a failure. Whether the event
	// was recorded is unknown; sending it again, with its id, is safe.
	ErrStopped = errors.New("log: writing has stopped")
	// ErrTooMany means that one call brought more than MaxEvents.
	ErrTooMany = errors.New("log: too many events in one call")
	// ErrUnpublished means that no published checkpoint covers an index or a size yet.
	ErrUnpublished = errors.New("log: not published yet")
	// ErrErased means that the payload of an entry was destroyed.
	ErrErased = errors.New("log: payload was erased")
)

// MaxEvents is how many events one call may bring.
const MaxEvents = 1000

// Config is what a Log is made of. The log owns none of Store, Index, Nodes and Ledger: whoever
// opened them closes them, after Run has returned.
type Config struct {
	// Origin names the log in its checkpoints.
	Origin string
	// Signers sign every checkpoint, in this order. At least one, all named Origin.
	Signers []*checkpoint.SignerKey
	// Store holds the tree and the payloads.
	Store storage.Store
	// Index is the writer's memory; it is brought up to date by Open.
	Index *index.Index
	// Nodes are the hashes that are kept for proofs. Nil keeps none, and proofs of old entries
	// are slow.
	Nodes *prove.Nodes
	// Ledger is the signer's memory.
	Ledger *ledger.Ledger
	// Policy names the witnesses and the quorum without which nothing is published. Nil
	// demands none.
	Policy *policy.Policy
	// Witness says how witnesses are asked; Origin, Policy, Tree and Logger are the log's.
	Witness feed.Config
	// MinInterval is the least time between two checkpoints. 0 means DefaultMinInterval.
	MinInterval time.Duration
	// Refresh is how old the published checkpoint of an idle log becomes before it is signed
	// and cosigned again, so that verifiers can demand a fresh one. 0 means DefaultRefresh.
	Refresh time.Duration
	// MaxPending is how many events may wait for the next batch. 0 means DefaultMaxPending.
	MaxPending int
	// Quota says how many events a second a tenant may append. It is called under a lock,
	// when a tenant comes that has not sent anything for a while. Nil means no quotas.
	Quota func(tenant string) Rate
	// Logger, nil for none.
	Logger *slog.Logger
}

const (
	// DefaultMinInterval bounds what signing costs; an event that comes alone is published at
	// once all the same. Under load the interval is up to 20 ms, whatever is configured.
	DefaultMinInterval = 2 * time.Millisecond
	// DefaultRefresh is 144 requests a day to each witness of an idle log.
	DefaultRefresh = 10 * time.Minute
	// DefaultMaxPending is about 32 MiB of ordinary events.
	DefaultMaxPending = 1 << 16

	// cachedTiles bounds the nodes kept in memory for proofs to 16 MiB, enough for 67 million
	// entries; the others come from Config.Nodes.
	cachedTiles = 1024
)

// Log is an open log.
type Log struct {
	cfg     Config
	store   storage.Store
	index   *index.Index
	prover  *prove.Prover
	logger  *slog.Logger
	metrics *metrics

	pool   *pool
	writer *sequencer
	pub    *publisher

	durable atomic.Uint64 // size of the tree on stable storage

	// submitting is held for reading by calls of Submit, so that Run can wait until none
	// of them uses the index any more.
	submitting sync.RWMutex

	failOnce sync.Once
	failed   chan struct{} // closed when failure is set
	failure  error
}

// Open checks that store, signer's ledger and published checkpoint tell one story, brings
// the writer's memory up to the head, and returns a log that takes appends once Run runs.
// It returns a *RefusalError when signing could create a second tree.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Log{
		cfg:     cfg,
		store:   cfg.Store,
		index:   cfg.Index,
		prover:  prove.New(cfg.Store, cachedTiles).WithNodes(cfg.Nodes),
		logger:  cfg.Logger,
		metrics: newMetrics(),
		pool:    newPool(cfg.MaxPending, cfg.Quota),
		failed:  make(chan struct{}),
	}
	if next := cfg.Ledger.Successor(); next != "" {
		return nil, &RefusalError{
			Reason: fmt.Sprintf("this log has ended; its final statement names the successor %s", next),
			Remedy: "start the successor; an ended log never signs again",
		}
	}
	head, err := l.store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the head: %w", err)
	}
	if l.pub, err = newPublisher(ctx, l, head); err != nil {
		return nil, err
	}
	if err := l.checkTail(ctx, head); err != nil {
		return nil, err
	}
	if err := l.catchUp(ctx, head); err != nil {
		return nil, err
	}
	if l.writer, err = newSequencer(ctx, l, head); err != nil {
		return nil, err
	}
	l.durable.Store(head.Size)
	return l, nil
}

// checkedTail is how many of the last entries Open opens.
const checkedTail = 256

// checkTail checks that the records of the last entries open the leaves that the tree
// holds; the engine has checked the leaves against the head.
func (l *Log) checkTail(ctx context.Context, head storage.Head) error {
	start := head.Size - min(head.Size, checkedTail)
	leaves := make([][]byte, 0, checkedTail)
	err := l.store.Leaves(ctx, start, head.Size, func(_ uint64, leaf []byte) error {
		leaves = append(leaves, bytes.Clone(leaf))
		return nil
	})
	if err != nil {
		return fmt.Errorf("checking the last entries: %w", err)
	}
	err = l.store.Payloads(ctx, start, head.Size, func(i uint64, payload []byte) error {
		if payload == nil {
			return nil
		}
		if leaf := record.Leaf(payload); !bytes.Equal(leaf[:], leaves[i-start]) {
			return fmt.Errorf("%w: the record of entry %d does not open its leaf", storage.ErrCorrupt, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("checking the last entries: %w", err)
	}
	return nil
}

func (c *Config) complete() error {
	if len(c.Signers) == 0 {
		return errors.New("opening the log: no signing key")
	}
	for _, s := range c.Signers {
		if s.Name() != c.Origin {
			return fmt.Errorf("opening the log: signing key is named %q, the log's origin is %q", s.Name(), c.Origin)
		}
	}
	if c.MinInterval == 0 {
		c.MinInterval = DefaultMinInterval
	}
	if c.Policy == nil {
		c.Policy = &policy.Policy{Quorum: policy.None}
	}
	if c.Refresh == 0 {
		c.Refresh = DefaultRefresh
	}
	if c.MaxPending == 0 {
		c.MaxPending = DefaultMaxPending
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Run writes and publishes until ctx ends. It then takes no more appends, writes and
// acknowledges those that wait, publishes the last checkpoint, and returns nil. After a
// failure of the store or the signer it returns the cause: the process must end, since
// only opening anew finds out what is on the disk.
func (l *Log) Run(ctx context.Context) error {
	// What is left to do after ctx has ended must not be cut off by it.
	work := context.WithoutCancel(ctx)
	stop := context.AfterFunc(ctx, l.pool.close)
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer l.pub.drain()
		return l.writer.run(work)
	})
	g.Go(func() error { return l.pub.run(work) })
	err := g.Wait()
	l.pool.close()
	l.submitting.Lock()
	defer l.submitting.Unlock()
	if err == nil {
		err = l.cause()
	}
	return err
}

// cause returns why the log has stopped after a failure, nil when it has not.
func (l *Log) cause() error {
	select {
	case <-l.failed:
		return l.failure
	default:
		return nil
	}
}

// fail stops the log for good.
func (l *Log) fail(err error) {
	l.failOnce.Do(func() {
		l.failure = err
		close(l.failed)
		l.pool.close()
	})
}

// Failed is closed when the log has stopped after a failure; Run returns the cause.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// DurableSize returns how many entries are on stable storage.
func (l *Log) DurableSize() uint64 { return l.durable.Load() }

// Witnesses returns what the log knows of the witnesses of its policy.
func (l *Log) Witnesses() []feed.Status {
	if l.pub.feed == nil {
		return nil
	}
	return l.pub.feed.Status()
}

// Witnessed says whether nothing is published without cosignatures.
func (l *Log) Witnessed() bool { return l.cfg.Policy.Quorum != policy.None }

// Problem says why publication stands still; empty when it does not.
func (l *Log) Problem() string { return l.pub.Problem() }

// Origin returns the log's name.
func (l *Log) Origin() string { return l.cfg.Origin }

// VerifierKeys returns the log's public keys.
func (l *Log) VerifierKeys() []checkpoint.VerifierKey {
	keys := make([]checkpoint.VerifierKey, len(l.cfg.Signers))
	for i, s := range l.cfg.Signers {
		keys[i] = s.VerifierKey()
	}
	return keys
}
