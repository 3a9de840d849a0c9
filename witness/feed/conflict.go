package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// ConflictError is a checkpoint that the log's own key signed and that does not fit the
// log's tree: the log has, or had, another history.
type ConflictError struct {
	// Witness and URL say where it was found; Witness is the name in the policy, several
	// with commas between.
	Witness, URL string
	// Size and Root are what it states.
	Size uint64
	Root [32]byte
	// Note is the checkpoint as the witness serves it, with a verified signature of the log.
	Note []byte
	// Ours is the newest checkpoint that witnesses were asked about.
	Ours []byte
}

// Error says what was found and what to do.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("witness %s (%s) has cosigned a checkpoint of size %d root %x, signed with this log's own key, which this log's tree does not contain: "+
		"another copy of the log has published, or this one was set back or is damaged", e.Witness, e.URL, e.Size, e.Root)
}

// Conflict returns a channel that is closed when Proof has something to return.
func (f *Feed) Conflict() <-chan struct{} { return f.conflict }

// Proof returns the first proof of another history of the log, nil when none was found.
func (f *Feed) Proof() *ConflictError {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proof
}

// accuse looks at the monitoring endpoint of a witness that contradicted the log, and
// returns the proof if there is one. Without it the endpoint is looked at again in the
// background, because it may lag behind by an hour (tlog-witness).
func (e *endpoint) accuse(ctx context.Context, why string) *ConflictError {
	e.f.log.ErrorContext(ctx, "a witness contradicts the log and is not asked again", slog.String("witness", e.label),
		slog.String("url", e.url), slog.String("problem", why))
	proof, err := e.look(ctx)
	if proof != nil {
		return proof
	}
	e.f.log.WarnContext(ctx, "no proof of another history at the witness", slog.String("witness", e.label), slog.Any("error", err))
	e.f.start(func() { e.lookAgain() })
	return nil
}

// lookAgain looks for a proof until one is found or the Feed is closed.
func (e *endpoint) lookAgain() {
	for wait := firstEnrolment; ; wait = min(2*wait, longestEnrolment) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.f.conflict:
			timer.Stop()
			return
		case <-e.f.ctx.Done():
			timer.Stop()
			return
		}
		if proof, _ := e.look(e.f.ctx); proof != nil {
			return
		}
	}
}

// look reads the checkpoint that the witness serves of this log. If it proves another
// history it is noted and returned; the error is why it proves nothing.
func (e *endpoint) look(ctx context.Context) (*ConflictError, error) {
	f := e.f
	r, err := f.send(ctx, http.MethodGet, e.url+f.path, nil)
	if err != nil {
		return nil, err
	}
	if r.status != http.StatusOK {
		return nil, fmt.Errorf("its monitoring endpoint answered %d", r.status)
	}
	theirs, err := f.signed(r.body)
	if err != nil {
		return nil, fmt.Errorf("its monitoring endpoint's checkpoint: %w", err)
	}
	f.mu.Lock()
	newest, ours := f.newest, f.ours
	f.mu.Unlock()
	if fits, err := f.fits(ctx, theirs, newest); fits || err != nil {
		return nil, err
	}
	p := &ConflictError{Witness: e.label, URL: e.url, Size: theirs.Size, Root: theirs.Root, Note: r.body, Ours: ours}
	f.log.ErrorContext(ctx, "the log has two histories", slog.Any("error", p))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.proof == nil {
		f.proof = p
		close(f.conflict)
	}
	return p, nil
}

// signed reads a checkpoint of this log with a good signature of one of its keys.
func (f *Feed) signed(note []byte) (checkpoint.Checkpoint, error) {
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return cp, err
	}
	if cp.Origin != f.origin {
		return cp, fmt.Errorf("it is of %q", cp.Origin)
	}
	for _, k := range f.logKeys {
		for _, s := range sigs {
			if !k.Made(s) {
				continue
			}
			if _, err := k.Verify(cp, s); err == nil {
				return cp, nil
			}
		}
	}
	return cp, errors.New("no key of the log has signed it")
}

// fits says whether this log's tree, whose newest signed state is ours, contains the tree of
// a checkpoint that the log signed. Nothing larger than ours was ever sent to a witness, so
// whoever signed a larger one knows another history, or a longer one. The error means that
// the log's own tree could not be read.
func (f *Feed) fits(ctx context.Context, theirs, ours checkpoint.Checkpoint) (bool, error) {
	switch {
	case theirs.Size > ours.Size:
		return false, nil
	case theirs.Size == ours.Size:
		return theirs.Root == ours.Root, nil
	case theirs.Size == 0:
		return true, nil
	}
	hashes, err := f.tree.Consistency(ctx, theirs.Size, ours.Size)
	if err != nil {
		return false, fmt.Errorf("proving size %d from size %d of this log: %w", ours.Size, theirs.Size, err)
	}
	path := make([][]byte, len(hashes))
	for i := range hashes {
		path[i] = hashes[i][:]
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, theirs.Size, ours.Size, path, theirs.Root[:], ours.Root[:]) == nil, nil
}
