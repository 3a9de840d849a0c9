package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness/feed"
)

// CheckpointCell is the store's cell that holds the latest published checkpoint.
const CheckpointCell = "checkpoint"

// stopPublishing is how long the end of a log waits for its witnesses. What they do not
// cosign by then is durable, and published after the next start.
const stopPublishing = 2 * time.Second

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
// refuses, never one that forks.
type publisher struct {
	log    *Log
	prover *prove.Prover // caches nothing: what is signed has been read
	proof  recentProof
	feed   *feed.Feed // nil when the policy names no witness
	cell   []byte     // content of the checkpoint cell, owned by run
	past   uint64     // size of the checkpoint that was published before the start
	resign bool       // the checkpoint that was published before the start lacks a key's signature
	asked  bool       // enough witnesses have said which size they cosigned last
	warned bool       // that publication waits was logged

	work     chan struct{} // holds one token when there may be something to publish
	draining chan struct{} // closed when the sequencer has ended

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

// drain tells that nothing more will be committed.
func (p *publisher) drain() { close(p.draining) }

// run publishes what is committed, as soon as it is and interval and witnesses allow, until
// the sequencer has ended; what it committed last is published before run returns, if the
// witnesses are there.
func (p *publisher) run(ctx context.Context) error {
	var conflict <-chan struct{}
	if p.feed != nil {
		conflict = p.feed.Conflict()
		ended := make(chan struct{})
		defer close(ended)
		go p.endFeed(ended)
	}
	for {
		begin := time.Now()
		wait, err := p.publish(ctx)
		if err != nil {
			p.log.fail(err)
			return err
		}
		select {
		case <-time.After(p.log.cfg.MinInterval - time.Since(begin)):
		case <-p.draining:
			return p.last(ctx)
		}
		work := p.work
		if wait.blocked {
			work = nil // nothing new can be published before then
		}
		select {
		case <-work:
		case <-time.After(wait.d):
		case <-conflict:
			err := conflictRefusal(p.feed.Proof())
			p.log.fail(err)
			return err
		case <-p.draining:
			return p.last(ctx)
		}
	}
}

// recentProof gives consistency proofs to the witnesses, who mostly ask for the same one: that
// between the last two checkpoints.
type recentProof struct {
	prover *prove.Prover

	mu       sync.Mutex
	from, to uint64
	hashes   []prove.Hash
}

// Consistency is that of prove.Prover.
func (r *recentProof) Consistency(ctx context.Context, from, to uint64) ([]prove.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to != to || r.from != from {
		hashes, err := r.prover.Consistency(ctx, from, to)
		if err != nil {
			return nil, err
		}
		r.from, r.to, r.hashes = from, to, hashes
	}
	return r.hashes, nil
}

// keep remembers a proof.
func (r *recentProof) keep(from, to uint64, hashes []prove.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from, r.to, r.hashes = from, to, hashes
}

// endFeed stops asking witnesses when run has ended, or some time after the sequencer has.
func (p *publisher) endFeed(ended <-chan struct{}) {
	defer p.feed.Close()
	select {
	case <-ended:
		return
	case <-p.draining:
	}
	select {
	case <-ended:
	case <-time.After(stopPublishing):
	}
}

// last publishes once more at the end, unless writing failed: then nothing is sure.
func (p *publisher) last(ctx context.Context) error {
	if p.log.cause() != nil {
		return nil
	}
	if _, err := p.publish(ctx); err != nil {
		p.log.fail(err)
		return err
	}
	if left := p.log.DurableSize() - p.latest.Size; left > 0 {
		p.log.logger.WarnContext(ctx, "entries are durable and not published; the next start publishes them",
			slog.Uint64("entries", left), slog.String("reason", p.Problem()))
	}
	return nil
}

// pause says when publish has something to do again.
type pause struct {
	d time.Duration
	// blocked means that new entries cannot be published before.
	blocked bool
}

// publish signs and publishes the head, if that is news or the latest checkpoint is old.
func (p *publisher) publish(ctx context.Context) (pause, error) {
	begin := time.Now()
	head, err := p.log.store.Head(ctx)
	if err != nil {
		return pause{}, fmt.Errorf("publishing: reading the head: %w", err)
	}
	if p.latest.Note != nil && !p.resign && head.Size == p.latest.Size && head.Root == p.latest.Root {
		if age := begin.Sub(p.latest.At); age < p.log.cfg.Refresh {
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
	// The keys sign meanwhile: what they made is given to nobody before the ledger holds it.
	var note []byte
	signed := make(chan error, 1)
	go func() {
		var err error
		note, err = checkpoint.SignNote(cp, begin, p.log.cfg.Signers...)
		signed <- err
	}()
	err := p.checkExtends(ctx, head)
	if err == nil {
		err = p.log.cfg.Ledger.Advance(ledger.State{Size: head.Size, Root: head.Root})
	}
	signErr := <-signed
	switch {
	case err != nil:
		return fmt.Errorf("publishing: %w", err)
	case signErr != nil:
		return &signError{signErr}
	}
	if p.feed != nil {
		sigs, err := p.feed.Cosign(ctx, cp, note)
		if err != nil {
			return err
		}
		for _, s := range sigs {
			note = s.Append(note)
		}
	}
	if err := p.log.store.SwapCell(ctx, CheckpointCell, p.cell, note); err != nil {
		return fmt.Errorf("publishing: storing the checkpoint: %w", err)
	}
	p.cell, p.warned, p.resign = note, false, false
	p.mu.Lock()
	p.latest, p.problem = Published{Checkpoint: cp, Note: note, At: time.Now()}, ""
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.log.metrics.publish.Observe(time.Since(begin).Seconds())
	p.log.logger.DebugContext(ctx, "checkpoint published", slog.Uint64("size", cp.Size))
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
			slog.String("reason", why), slog.Uint64("published", p.latest.Size))
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
