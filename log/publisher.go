package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness/feed"
)

// CheckpointCell is the store's cell that holds the latest published checkpoint.
const CheckpointCell = "checkpoint"

// Published is a checkpoint that the log has given out.
type Published struct {
	// Checkpoint is its content.
	checkpoint.Checkpoint
	// Note is the signed note with the cosignatures that the policy demands, never changed
	// once published.
	Note []byte
	// At is when this process published it or read it at its start.
	At time.Time
}

// publisher signs what the sequencer has committed, has it cosigned, and publishes it. Its
// order is: read the head from the store; prove from stored nodes that it extends what was
// signed last; advance the signer's ledger; collect the quorum of cosignatures; store the
// checkpoint; publish. A crash after any step leaves a state that newPublisher accepts or
// refuses, never one that forks. The last two steps of one checkpoint run beside the first ones
// of the next, and one checkpoint at a time is in either half.
type publisher struct {
	log    *Log
	prover *prove.Prover // caches nothing: what is signed has been read
	proof  recentProof
	feed   *feed.Feed    // nil when the policy names no witness
	cell   []byte        // content of the checkpoint cell, owned by run and by store while it runs
	past   uint64        // size of the checkpoint that was published before the start
	resign bool          // the checkpoint that was published before the start lacks a key's signature
	asked  bool          // enough witnesses have said which size they cosigned last
	warned bool          // that publication waits was logged
	cost   time.Duration // what the last checkpoint took to be proven and signed
	// newest is what is published or being stored, owned by run; signed is its note with the
	// log's own signatures alone.
	newest Published
	signed []byte
	// storing gives the outcome of the store that runs; nil when none does.
	storing chan error
	// conflict and more are those of the feed, nil without one.
	conflict, more <-chan struct{}

	work     chan struct{} // holds one token when there may be something to publish
	draining chan struct{} // closed when the sequencer has ended
	waiters  atomic.Int64  // how many wait for a checkpoint
	hurried  chan struct{} // holds one token when somebody has begun to wait
	leisure  time.Duration // leisureInterval but in tests

	mu      sync.Mutex
	latest  Published
	changed chan struct{} // closed and replaced when latest changes
	problem string        // why publication stands still
}

// newPublisher holds the signer's ledger, the published checkpoint, the store and what the
// witnesses remember against each other.
func newPublisher(ctx context.Context, l *Log, head storage.Head) (*publisher, error) {
	p := &publisher{
		log:      l,
		prover:   prove.New(l.store, 0),
		proof:    recentProof{prover: l.prover},
		work:     make(chan struct{}, 1),
		draining: make(chan struct{}),
		hurried:  make(chan struct{}, 1),
		leisure:  leisureInterval,
		changed:  make(chan struct{}),
	}
	if err := p.checkLedger(ctx, head); err != nil {
		return nil, err
	}
	if len(l.cfg.Policy.Witnesses) == 0 {
		return p, nil
	}
	c := l.cfg.Witness
	c.Origin, c.Policy, c.Tree, c.Logger = l.cfg.Origin, l.cfg.Policy, &p.proof, l.logger
	var err error
	if p.feed, err = feed.New(c); err != nil {
		return nil, fmt.Errorf("reading the policy's witnesses: %w", err)
	}
	p.conflict, p.more = p.feed.Conflict(), p.feed.More()
	err = p.checkWitnesses(ctx)
	if few, ok := errors.AsType[*feed.QuorumError](err); ok {
		p.wait(ctx, few) // appends go on; nothing is signed until more have answered
		return p, nil
	}
	if err != nil {
		p.feed.Close()
		return nil, err
	}
	return p, nil
}

// wake tells that there may be something to publish.
func (p *publisher) wake() {
	select {
	case p.work <- struct{}{}:
	default:
	}
}

// hurry tells that somebody waits for a checkpoint, until what it returns is called.
func (p *publisher) hurry() (done func()) {
	p.waiters.Add(1)
	select {
	case p.hurried <- struct{}{}:
	default:
	}
	return func() { p.waiters.Add(-1) }
}

// drain tells that nothing more will be committed.
func (p *publisher) drain() { close(p.draining) }

// publish signs and publishes the head, if that is news or the latest checkpoint is old.
func (p *publisher) publish(ctx context.Context) (pause, error) {
	begin := time.Now()
	head, err := p.log.store.Head(ctx)
	if err != nil {
		return pause{}, fmt.Errorf("publishing: reading the head: %w", err)
	}
	if p.newest.Note != nil && !p.resign && head.Size == p.newest.Size && head.Root == p.newest.Root {
		if age := begin.Sub(p.newest.At); age < p.log.cfg.Refresh {
			return pause{d: p.log.cfg.Refresh - age}, nil
		}
	}
	err = p.checkWitnesses(ctx)
	if err == nil && p.feed != nil && head.Size == 0 {
		// Nobody needs witnesses for a tree without entries, and some (sunlight v0.8.1) can
		// cosign no larger one after it.
		return pause{d: p.log.cfg.Refresh}, nil
	}
	if err == nil {
		err = p.publishHead(ctx, head, begin)
	}
	if err != nil { // what it says comes after what is being published
		if failed := p.settle(); failed != nil {
			return pause{}, failed
		}
	}
	if few, ok := errors.AsType[*feed.QuorumError](err); ok {
		return p.wait(ctx, few), nil
	}
	if unsigned, ok := errors.AsType[*signError](err); ok {
		return p.waitFor(ctx, "signing keys", unsigned.Error(), signAgain), nil
	}
	if proof, ok := errors.AsType[*feed.ConflictError](err); ok {
		return pause{}, conflictRefusal(proof)
	}
	if errors.Is(err, feed.ErrClosed) { // stopping, and witnesses are not waited for any more
		err = nil
	}
	return pause{d: p.log.cfg.Refresh}, err
}

// publishHead is publish for a tree that is news.
func (p *publisher) publishHead(ctx context.Context, head storage.Head, begin time.Time) error {
	cp := checkpoint.Checkpoint{Origin: p.log.cfg.Origin, Size: head.Size, Root: head.Root}
	allowed := make(chan error, 1)
	go func() {
		err := p.checkExtends(ctx, head)
		if err == nil {
			err = p.log.cfg.Ledger.Advance(ledger.State{Size: head.Size, Root: head.Root})
		}
		allowed <- err
	}()
	// The keys sign meanwhile: what they made is given to nobody before the ledger holds it.
	// They sign here since ML-DSA needs much stack, which a new goroutine would have to grow.
	note, signErr := checkpoint.SignNote(cp, begin, p.log.cfg.Signers...)
	err := <-allowed
	p.cost = time.Since(begin)
	switch {
	case err != nil:
		return fmt.Errorf("publishing: %w", err)
	case signErr != nil:
		return &signError{signErr}
	}
	own := note
	if p.feed != nil {
		sigs, err := p.feed.Cosign(ctx, cp, note)
		if err != nil {
			return err
		}
		note = withLines(note, sigs)
	}
	if err := p.settle(); err != nil { // checkpoints are stored in order
		return err
	}
	p.signed, p.warned, p.resign = own, false, false
	p.show(ctx, Published{Checkpoint: cp, Note: note, At: time.Now()}, begin)
	return nil
}

// withLines returns a note with further signature lines.
func withLines(note []byte, sigs []checkpoint.Signature) []byte {
	note = slices.Clip(note)
	for _, s := range sigs {
		note = s.Append(note)
	}
	return note
}

// complete publishes the newest checkpoint again when witnesses have cosigned it since, if
// nothing larger is there to be published. It does not wait for a store that runs.
func (p *publisher) complete(ctx context.Context) {
	sigs := p.feed.Gathered(p.newest.Checkpoint)
	if p.storing != nil || len(sigs) == 0 || p.log.DurableSize() > p.newest.Size {
		return
	}
	if note := withLines(p.signed, sigs); len(note) > len(p.newest.Note) {
		p.show(ctx, Published{Checkpoint: p.newest.Checkpoint, Note: note, At: p.newest.At}, time.Now())
	}
}

// show begins to store a checkpoint that the policy covers, and publishes it then; settle
// returns how that ended. begin is when its publication began.
func (p *publisher) show(ctx context.Context, next Published, begin time.Time) {
	p.newest = next
	p.storing = make(chan error, 1)
	go func() { p.storing <- p.store(ctx, next, begin) }()
}

// settle waits until what was to be stored is.
func (p *publisher) settle() error {
	if p.storing == nil {
		return nil
	}
	err := <-p.storing
	p.storing = nil
	return err
}

// store stores a checkpoint and publishes it.
func (p *publisher) store(ctx context.Context, next Published, begin time.Time) error {
	if err := p.log.store.SwapCell(ctx, CheckpointCell, p.cell, next.Note); err != nil {
		return fmt.Errorf("publishing: storing the checkpoint: %w", err)
	}
	p.cell = next.Note
	p.mu.Lock()
	p.latest, p.problem = next, ""
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.log.metrics.publish.Observe(time.Since(begin).Seconds())
	p.log.logger.DebugContext(ctx, "checkpoint published", slog.Uint64("size", next.Size))
	return nil
}

// signAgain is how long publication waits for a key that did not sign.
const signAgain = 2 * time.Second

// signError means that a key did not sign, as one in a token that was pulled out. Nothing is
// unsure then: publication waits for the key as it does for witnesses.
type signError struct{ err error }

func (e *signError) Error() string { return fmt.Sprintf("signing: %v", e.err) }

// wait is waitFor for witnesses.
func (p *publisher) wait(ctx context.Context, few *feed.QuorumError) pause {
	return p.waitFor(ctx, "witnesses", few.Error(), max(time.Until(few.RetryAt), leastWait))
}

// leastWait keeps attempts that find too few witnesses from following each other at once.
const leastWait = 20 * time.Millisecond

// waitFor makes visible that publication waits for something, and for how long.
func (p *publisher) waitFor(ctx context.Context, what, why string, d time.Duration) pause {
	p.mu.Lock()
	p.problem = why
	p.mu.Unlock()
	p.log.metrics.waits.Inc()
	if !p.warned {
		p.warned = true
		p.log.logger.WarnContext(ctx, "publication waits for "+what+", appends go on",
			slog.String("reason", why), slog.Uint64("published", p.newest.Size))
	}
	return pause{d: d, blocked: true}
}

// Problem says why publication stands still; empty when it does not.
func (p *publisher) Problem() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

// snapshot returns the latest checkpoint and a channel that is closed by the next one.
func (p *publisher) snapshot() (Published, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.changed
}
