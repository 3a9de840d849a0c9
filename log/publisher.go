package log

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
)

// CheckpointCell is the store's cell that holds the latest published checkpoint.
const CheckpointCell = "checkpoint"

// Published is a checkpoint that the log has given out.
type Published struct {
	// Checkpoint is its content.
	checkpoint.Checkpoint
	// Note is the signed note, never changed once published.
	Note []byte
	// At is when this process published it or read it at its start.
	At time.Time
}

// RefusalError means that the log will not sign because that could give the world a
// second history. Nothing is damaged by the refusal itself.
type RefusalError struct {
	// Reason says what contradicts what.
	Reason string
	// Remedy says what an operator can do.
	Remedy string
}

func (e *RefusalError) Error() string {
	return "refusing to sign: " + e.Reason + "; " + e.Remedy
}

// publisher signs what the sequencer has committed and publishes it. Its order is: read
// the head from the store; prove from stored nodes that it extends what was signed last;
// advance the signer's ledger; sign; store the checkpoint; publish. A crash after any
// step leaves a state that newPublisher accepts or refuses, never one that forks.
type publisher struct {
	log    *Log
	prover *prove.Prover // caches nothing: what is signed has been read
	cell   []byte        // content of the checkpoint cell, owned by run

	work     chan struct{} // holds one token when there may be something to publish
	draining chan struct{} // closed when the sequencer has ended

	mu      sync.Mutex
	latest  Published
	changed chan struct{} // closed and replaced when latest changes
}

// newPublisher compares the signer's ledger, the published checkpoint and the store.
func newPublisher(ctx context.Context, l *Log, head storage.Head) (*publisher, error) {
	p := &publisher{
		log:      l,
		prover:   prove.New(l.store, 0),
		work:     make(chan struct{}, 1),
		draining: make(chan struct{}),
		changed:  make(chan struct{}),
	}
	signed := l.cfg.Ledger.State()
	if signed.Size > head.Size {
		return nil, &RefusalError{
			Reason: fmt.Sprintf("the signer's ledger has signed a tree of %d entries, but the store holds only %d: the store was set back, as by restoring a backup", signed.Size, head.Size),
			Remedy: "bring back the newer store; signing this one would fork the log",
		}
	}
	if err := p.sameTree(ctx, signed, head, "the signer's ledger has signed"); err != nil {
		return nil, err
	}
	if err := p.loadCheckpoint(ctx, signed, head); err != nil {
		return nil, err
	}
	return p, nil
}

// sameTree refuses when the store's tree does not contain st.
func (p *publisher) sameTree(ctx context.Context, st ledger.State, head storage.Head, who string) error {
	root, err := p.prover.Root(ctx, st.Size)
	if err != nil {
		return fmt.Errorf("reading the tree at the size that was signed last: %w", err)
	}
	if root == st.Root {
		return nil
	}
	return &RefusalError{
		Reason: fmt.Sprintf("%s root %x for size %d, the store's tree of %d entries has %x there", who, st.Root, st.Size, head.Size, root),
		Remedy: "run keytrail fsck on the store; bring back a copy of the store that contains what was signed",
	}
}

// loadCheckpoint reads the published checkpoint and holds it against the ledger.
func (p *publisher) loadCheckpoint(ctx context.Context, signed ledger.State, head storage.Head) error {
	note, err := p.log.store.Cell(ctx, CheckpointCell)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	cp, err := p.verifyOwn(note)
	if err != nil {
		return &RefusalError{
			Reason: fmt.Sprintf("the published checkpoint in the store is not one of this log: %v (the store holds %d entries, the signer's ledger has signed %d)", err, head.Size, signed.Size),
			Remedy: "start the log with the keys and the origin that it was made with; if they are right, run keytrail fsck and bring back a copy of the store that is not damaged",
		}
	}
	if cp.Size > signed.Size {
		return &RefusalError{
			Reason: fmt.Sprintf("a checkpoint of %d entries is published, but the signer's ledger knows only of %d: the ledger was set back or replaced", cp.Size, signed.Size),
			Remedy: "bring back the ledger; if it is lost, give it the newest checkpoint that anyone holds: keytrail ledger adopt --dir DIR CHECKPOINT",
		}
	}
	if err := p.sameTree(ctx, ledger.State{Size: cp.Size, Root: cp.Root}, head, "the published checkpoint states"); err != nil {
		return err
	}
	p.cell = note
	p.latest = Published{Checkpoint: cp, Note: note, At: time.Now()}
	return nil
}

// verifyOwn checks that a note is a checkpoint of this log with a good signature of each
// of its keys that signed it.
func (p *publisher) verifyOwn(note []byte) (checkpoint.Checkpoint, error) {
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return cp, err
	}
	if cp.Origin != p.log.cfg.Origin {
		return cp, fmt.Errorf("checkpoint is of %q, this log is %q", cp.Origin, p.log.cfg.Origin)
	}
	good := 0
	for _, key := range p.log.VerifierKeys() {
		for _, s := range sigs {
			if !key.Made(s) {
				continue
			}
			if _, err := key.Verify(cp, s); err != nil {
				return cp, fmt.Errorf("signature of %s: %w", key.Type(), err)
			}
			good++
		}
	}
	if good == 0 {
		return cp, errors.New("checkpoint is not signed by any key of this log")
	}
	return cp, nil
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

// run publishes what is committed, as soon as it is and the interval allows, until the
// sequencer has ended; what it committed last is published before run returns.
func (p *publisher) run(ctx context.Context) error {
	for {
		begin := time.Now()
		if err := p.publish(ctx); err != nil {
			p.log.fail(err)
			return err
		}
		interval := time.NewTimer(p.log.cfg.MinInterval - time.Since(begin))
		select {
		case <-interval.C:
		case <-p.draining:
			return p.last(ctx)
		}
		select {
		case <-p.work:
		case <-p.draining:
			return p.last(ctx)
		}
	}
}

// last publishes once more at the end, unless writing failed: then nothing is sure.
func (p *publisher) last(ctx context.Context) error {
	if p.log.cause() != nil {
		return nil
	}
	if err := p.publish(ctx); err != nil {
		p.log.fail(err)
		return err
	}
	return nil
}

// publish signs and publishes the head, if that is news.
func (p *publisher) publish(ctx context.Context) error {
	begin := time.Now()
	head, err := p.log.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("publishing: reading the head: %w", err)
	}
	if p.cell != nil && head.Size == p.latest.Size && head.Root == p.latest.Root {
		return nil
	}
	if err := p.checkExtends(ctx, head); err != nil {
		return err
	}
	if err := p.log.cfg.Ledger.Advance(ledger.State{Size: head.Size, Root: head.Root}); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	cp := checkpoint.Checkpoint{Origin: p.log.cfg.Origin, Size: head.Size, Root: head.Root}
	note, err := checkpoint.SignNote(cp, begin, p.log.cfg.Signers...)
	if err != nil {
		return fmt.Errorf("publishing: signing: %w", err)
	}
	if err := p.log.store.SwapCell(ctx, CheckpointCell, p.cell, note); err != nil {
		return fmt.Errorf("publishing: storing the checkpoint: %w", err)
	}
	p.cell = note
	p.mu.Lock()
	p.latest = Published{Checkpoint: cp, Note: note, At: time.Now()}
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.log.metrics.publish.Observe(time.Since(begin).Seconds())
	p.log.logger.DebugContext(ctx, "checkpoint published", slog.Uint64("size", cp.Size))
	return nil
}

// checkExtends proves from stored nodes that the head extends what was signed last.
func (p *publisher) checkExtends(ctx context.Context, head storage.Head) error {
	signed := p.log.cfg.Ledger.State()
	refuse := func(format string, args ...any) error {
		return &RefusalError{
			Reason: fmt.Sprintf(format, args...),
			Remedy: "run keytrail fsck on the store; the store's bytes have changed since they were signed",
		}
	}
	if head.Size < signed.Size {
		return refuse("the store's head has %d entries, %d have been signed", head.Size, signed.Size)
	}
	if signed.Size == 0 || signed.Size == head.Size {
		// No proof exists for these: compare the root that the nodes give.
		root, err := p.prover.Root(ctx, head.Size)
		if err != nil {
			return fmt.Errorf("publishing: reading the tree: %w", err)
		}
		if root != head.Root || (signed.Size == head.Size && root != signed.Root) {
			return refuse("stored nodes give root %x for size %d, head has %x, signed was size %d root %x",
				root, head.Size, head.Root, signed.Size, signed.Root)
		}
		return nil
	}
	hashes, err := p.prover.Consistency(ctx, signed.Size, head.Size)
	if err != nil {
		return fmt.Errorf("publishing: reading the tree: %w", err)
	}
	path := make([][]byte, len(hashes))
	for i := range hashes {
		path[i] = hashes[i][:]
	}
	err = proof.VerifyConsistency(rfc6962.DefaultHasher, signed.Size, head.Size, path, signed.Root[:], head.Root[:])
	if err != nil { // says no more than that, over several lines
		return refuse("stored nodes do not prove that the tree of %d entries with root %x extends the signed one of %d entries with root %x",
			head.Size, head.Root, signed.Size, signed.Root)
	}
	return nil
}

// snapshot returns the latest checkpoint and a channel that is closed by the next one.
func (p *publisher) snapshot() (Published, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, p.changed
}
