// Package monitor watches a log from outside: it follows the log's checkpoints, verifies
// each under a policy and against the last one, compares what the log shows with what its
// witnesses and others were shown, reads the payloads where it may, and says what is wrong.
//
// A Monitor is for one goroutine at a time; its collectors and LastRound may be used
// concurrently. It owns a directory, which it locks: the last checkpoint, evidence, and the
// ends of the key chains are written there durably before a round returns. A fork is never
// forgotten: as long as its evidence lies in the directory, every round reports it.
//
// The monitor trusts the policy, its own clock and its directory. The log's servers, its
// operator, the witnesses' servers and the network it does not trust. What it calls
// critical is proven by signatures to the monitor; a file of evidence proves it to others.
//
// A checkpoint that the log signed is remembered even where witnesses are missing: the
// signature binds the log whoever else signed. A smaller tree is never accepted, and what
// contradicts the last checkpoint never takes its place.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/keytrail/keytrail/client/monitor/keychain"
	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/policy"
)

// DefaultInterval is the time between two rounds.
const DefaultInterval = 30 * time.Second

// Grace is how long a log may keep back a tree that others were shown: a witness cosigns
// before the log publishes, and caches keep a checkpoint for seconds.
const Grace = time.Minute

// Config says what is watched.
type Config struct {
	// Origin is the log's, and Log where it is read.
	Origin string
	Log    *tiles.Log
	Policy *policy.Policy
	// Dir is the state directory; it is made when it does not exist.
	Dir string
	// MaxAge is how old the newest time of the policy's witnesses may be; 0 for any age.
	MaxAge time.Duration
	// Views are what else the log's checkpoints are compared with.
	Views []View
	// Payloads is the log's gRPC service; nil when payloads are not checked.
	Payloads payloads.Service
	// Failures is how many rounds in a row may get no answer before that is an alarm; 0
	// means that the first one is.
	Failures int
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Logger takes what is no alarm; nil discards it.
	Logger *slog.Logger
}

// Monitor watches one log.
type Monitor struct {
	cfg     Config
	log     *slog.Logger
	state   *state
	chains  *keychain.Checker // nil when payloads are not checked
	metrics *metrics
	tracker tracker

	// last is the last checkpoint that was accepted, nil before the first, and tree its
	// tree, nil until it is needed.
	last *verify.Signed
	tree *tiles.Tree
	// convicted are the alarms of evidence that convicts somebody.
	convicted []Alarm
	// failures counts the rounds in a row in which the log gave no answer.
	failures int

	mu        sync.Mutex
	lastRound *Round
}

// Round is what one look at the log found.
type Round struct {
	// Time is when it ended.
	Time time.Time
	// Answered is false when the log's server did not answer, whether or not that is an
	// alarm yet.
	Answered bool
	// Alarms are all that hold, and Changes those that were not told before, or are over.
	Alarms  []Alarm
	Changes []Change
	// Size and Root are of the last accepted checkpoint; Seen is false before the first.
	Seen bool
	Size uint64
	Root [32]byte
	// Newest is when the policy's witnesses last called that tree the newest; zero when
	// they do not say.
	Newest time.Time
	// Payloads is how many payloads are checked, and Counts what they said.
	Payloads uint64
	Counts   keychain.Counts
}

// Verdict is that of the worst alarm. Without an answer it is at least Unknown.
func (r *Round) Verdict() Verdict {
	v := verdict(r.Alarms)
	if !r.Answered {
		v = max(v, Unknown)
	}
	return v
}

// Open opens the state directory and verifies what it holds.
func Open(cfg Config) (*Monitor, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Policy.LogKeys(cfg.Origin)) == 0 {
		return nil, fmt.Errorf("the policy knows no log %q", cfg.Origin)
	}
	s, err := openState(cfg.Dir, cfg.Origin)
	if err != nil {
		return nil, err
	}
	m := &Monitor{cfg: cfg, log: cfg.Logger, state: s, metrics: newMetrics()}
	if err := m.load(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Monitor) load() (err error) {
	if m.last, err = m.state.last(m.cfg.Policy); err != nil {
		return err
	}
	if m.convicted, err = m.state.convictions(m.cfg.Policy); err != nil {
		return err
	}
	if m.cfg.Payloads != nil {
		dir := filepath.Join(m.cfg.Dir, chainsFolder)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the state directory: %w", err)
		}
		m.chains, err = keychain.Open(dir, m.log)
	}
	return err
}

// Close releases the state directory.
func (m *Monitor) Close() error {
	err := m.state.close()
	if m.chains != nil {
		err = errors.Join(err, m.chains.Close())
	}
	return err
}

// LastRound returns the last round that ended, nil before the first.
func (m *Monitor) LastRound() *Round {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastRound
}

// Run makes rounds until ctx ends, and calls tell with each change. Payloads are read for
// at most an interval in each round, so that a long log does not keep the monitor from its
// checkpoints. The error is one of tell, or of the monitor's own: its state cannot be kept.
func (m *Monitor) Run(ctx context.Context, interval time.Duration, tell func(Change) error) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		r, err := m.round(ctx, interval)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, c := range r.Changes {
			if err := tell(c); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Round looks at the log once, payloads up to the end of the tree included. The error is
// one of the monitor's own, or that ctx ended; what is wrong with the log is in the Round.
func (m *Monitor) Round(ctx context.Context) (*Round, error) { return m.round(ctx, 0) }

func (m *Monitor) round(ctx context.Context, forPayloads time.Duration) (*Round, error) {
	f := &findings{}
	// What others were shown is read first: it may be older than what the log shows then,
	// and not newer for being read later.
	views := m.readViews(ctx)
	s, err := m.follow(ctx, f)
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if err := m.compare(ctx, f, v, s); err != nil {
			return nil, err
		}
	}
	if m.chains != nil {
		if err := m.checkPayloads(ctx, f, s, forPayloads); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m.end(f), nil
}

// end makes a round of what was found.
func (m *Monitor) end(f *findings) *Round {
	r := &Round{Time: m.cfg.Now(), Answered: m.failures == 0, Alarms: slices.Concat(m.convicted, f.alarms)}
	if m.last != nil {
		r.Seen, r.Size, r.Root = true, m.last.Size, m.last.Root
		r.Newest = m.last.NewestAt(r.Time, m.cfg.Policy)
	}
	if m.chains != nil {
		r.Payloads, r.Counts = m.chains.Next(), m.chains.Counts()
	}
	r.Changes = m.tracker.changes(r.Time, r.Alarms)
	m.metrics.ended(r)
	m.mu.Lock()
	m.lastRound = r
	m.mu.Unlock()
	return r
}

// findings collects the alarms of a round, one of a kind and subject.
type findings struct{ alarms []Alarm }

func (f *findings) add(a Alarm) {
	if !slices.ContainsFunc(f.alarms, func(o Alarm) bool { return o.Kind == a.Kind && o.Subject == a.Subject }) {
		f.alarms = append(f.alarms, a)
	}
}
