package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
)

// MaxRequest is the largest body of an add-checkpoint request in bytes. Signed-note demands
// that 16 signatures are accepted and warns of post-quantum ones of 5 kB: 16 lines of 6,667
// base64 characters and a name of 255 bytes are 111 KB, 63 hashes 3 KB. (16 KiB, as some
// witnesses have it, is enough for the two ML-DSA-44 lines of a key rotation, 7 KB, but not
// for a log that sends the cosignatures it has.)
const MaxRequest = 128 << 10

// maxClockBack is how far the clock may be behind the last cosignature of a log, so that its
// time is repeated instead; beyond it nothing is cosigned.
const maxClockBack = time.Minute

// RefusalError is an answer of tlog-witness other than cosignatures.
type RefusalError struct {
	// Status is the HTTP status code.
	Status int
	// Reason says why, for people.
	Reason string
	// Size is the size of the tree that was cosigned last, with http.StatusConflict.
	Size uint64
	// RetryAfter is when to come again, with http.StatusTooManyRequests.
	RetryAfter time.Duration
}

// Error returns the reason.
func (e *RefusalError) Error() string { return "witness: " + e.Reason }

func refuse(status int, format string, args ...any) error {
	return &RefusalError{Status: status, Reason: fmt.Sprintf(format, args...)}
}

func conflict(size uint64) error {
	return &RefusalError{Status: http.StatusConflict, Reason: fmt.Sprintf("the tree cosigned last has size %d", size), Size: size}
}

// request is an add-checkpoint request; nothing in it is verified.
type request struct {
	checkpoint.Checkpoint
	old    uint64
	hashes [][32]byte
	sigs   []checkpoint.Signature
}

// proof returns the hashes as the Merkle library takes them.
func (r *request) proof() [][]byte {
	hashes := make([][]byte, len(r.hashes))
	for i := range r.hashes {
		hashes[i] = r.hashes[i][:]
	}
	return hashes
}

// parseRequest reads the body of an add-checkpoint request of at most MaxRequest bytes.
// Lines after the root hash are refused, because an ML-DSA-44 cosignature would not cover
// them.
func parseRequest(body []byte) (*request, error) {
	if len(body) > MaxRequest {
		return nil, fmt.Errorf("request of %d bytes is larger than %d", len(body), MaxRequest)
	}
	u, err := consistency.Parse(body)
	if err != nil {
		return nil, err
	}
	c, sigs, err := checkpoint.ParseForeignNote(u.Checkpoint)
	if err != nil {
		return nil, err
	}
	return &request{Checkpoint: c, old: u.OldSize, hashes: u.Hashes, sigs: sigs}, nil
}

// AddCheckpoint takes the body of an add-checkpoint request and returns the signature lines
// of all of the witness's keys, after the new state is durable. An answer of tlog-witness
// other than 200 is a *RefusalError; any other error is the witness's own fault.
//
// The checks come in the order in which tlog-witness (main, July 2026) states them, each with
// the status that it demands, so that what is refused for several reasons is refused alike
// by every witness.
func (w *Witness) AddCheckpoint(ctx context.Context, body []byte) ([]byte, error) {
	if err := w.Err(); err != nil {
		return nil, err
	}
	r, err := parseRequest(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	// "If the checkpoint origin is unknown, the witness MUST respond with … 404".
	t := w.find(r.Origin)
	if t == nil {
		return nil, refuse(http.StatusNotFound, "log is not known here")
	}
	log := t.log.Load()
	if log == nil {
		return nil, refuse(http.StatusNotFound, "log is not known here")
	}
	verified, err := log.verify(r)
	if err != nil {
		return nil, err
	}
	last := t.latest.Load()
	if err := w.lookBack(ctx, last, r, verified); err != nil {
		return nil, err
	}
	// "The old size MUST be equal to or lower than the checkpoint size. Otherwise … 400".
	if r.old > r.Size {
		return nil, refuse(http.StatusBadRequest, "old size %d is larger than the checkpoint's %d", r.old, r.Size)
	}
	if err := last.check(r); err != nil {
		if detail, ok := last.forkedBelow(r); ok {
			w.keep(ctx, last, r, verified, detail)
		}
		return nil, err
	}
	lines, err := w.cosign(ctx, t, log, r, verified)
	switch {
	case errors.Is(err, errEnrolment):
		return w.AddCheckpoint(ctx, body)
	case errors.Is(err, errMoved):
		// The state is another one than the request was compared with.
		last = t.latest.Load()
		if err := w.lookBack(ctx, last, r, verified); err != nil {
			return nil, err
		}
		return nil, conflict(last.Size)
	}
	return lines, err
}

// What may have happened between the checks of a request and its turn to be cosigned: another
// one was cosigned, or the log's keys are others.
var (
	errMoved     = errors.New("witness: state moved")
	errEnrolment = errors.New("witness: enrolment changed")
)

// verify returns the signatures of the log's keys: "403 … if either no signature from a
// trusted key for the origin is present, or a signature line's key name and ID match a
// trusted key but the signature itself fails to verify".
func (l *Log) verify(r *request) ([]checkpoint.Signature, error) {
	var verified []checkpoint.Signature
	for _, k := range l.Keys {
		signed := false
		for _, s := range r.sigs {
			if !k.Made(s) {
				continue
			}
			if _, err := k.Verify(r.Checkpoint, s); err != nil {
				return nil, refuse(http.StatusForbidden, "the %v signature of %s does not verify", k.Type(), k.Name())
			}
			if !signed {
				verified = append(verified, s)
			}
			signed = true
		}
	}
	if len(verified) == 0 {
		return nil, refuse(http.StatusForbidden, "no signature is of a key that is trusted for the log")
	}
	return verified, nil
}

// lookBack compares a validly signed checkpoint with the state, whatever else is wrong with
// the request: it may prove that the log signed two trees, or that this witness lost state.
func (w *Witness) lookBack(ctx context.Context, last *latest, r *request, verified []checkpoint.Signature) error {
	detail, forked := last.forked(r)
	if forked {
		w.keep(ctx, last, r, verified, detail)
	}
	if r.Size < last.Size || (r.Size == last.Size && !forked) {
		return nil
	}
	// Lines that do not verify are somebody's forgeries and say nothing.
	if at, _ := w.ownTime(r.Checkpoint, r.sigs); at == 0 {
		return nil
	}
	return w.remember(last, r.Checkpoint)
}

// check holds what tlog-witness demands between a request and the last cosigned checkpoint.
func (l *latest) check(r *request) error {
	// "… old size matches the size of the latest checkpoint it cosigned … (or zero if it
	// never cosigned a checkpoint for that origin). If it doesn't match … 409".
	if r.old != l.Size {
		return conflict(l.Size)
	}
	unprocessable := func(reason string) error { return refuse(http.StatusUnprocessableEntity, "%s", reason) }
	// "A checkpoint of size zero MUST have the root hash of the empty tree … 422". The
	// other way round no proof exists either.
	if (r.Size == 0) != (r.Root == checkpoint.EmptyRoot()) {
		return unprocessable("root hash does not go with the size")
	}
	// "If the proof is not empty when the old size is zero, or if a Merkle Consistency
	// Proof doesn't verify … 422". The library takes an empty proof for old size 0.
	if (r.old == 0 || r.old == r.Size) && len(r.hashes) > 0 {
		return unprocessable("proof where none is needed")
	}
	if r.old == 0 {
		return nil
	}
	// "If the old size matches the checkpoint size, the witness MUST check that the root
	// hashes are also identical. If they don't match … 422".
	if r.old == r.Size {
		if r.Root != l.Root {
			return unprocessable("another tree of this size was cosigned")
		}
		return nil
	}
	if proof.VerifyConsistency(rfc6962.DefaultHasher, r.old, r.Size, r.proof(), l.Root[:], r.Root[:]) != nil {
		return unprocessable("consistency proof does not verify")
	}
	return nil
}

// cosign signs, writes and answers, unless the state moved since the request was checked.
func (w *Witness) cosign(ctx context.Context, t *tree, log *Log, r *request, verified []checkpoint.Signature) ([]byte, error) {
	t.cosigning.Lock()
	defer t.cosigning.Unlock()
	if t.log.Load() != log {
		return nil, errEnrolment
	}
	last := t.latest.Load()
	// One size has one root here, so that the same size is the same state.
	if last.Size != r.old {
		return nil, errMoved
	}
	now := time.Now()
	at, err := timestamp(now, last.time)
	if err != nil {
		return nil, err
	}
	if wait := t.budget.take(now, log.PerDay, last.note != nil && r.Size == last.Size); wait > 0 {
		return nil, &RefusalError{
			Status: http.StatusTooManyRequests, RetryAfter: wait,
			Reason: fmt.Sprintf("the log's %d requests per day are used up", log.PerDay),
		}
	}
	own := make([]checkpoint.Signature, len(w.signers))
	if err := w.sign(own, early, r.Checkpoint, at); err != nil {
		return nil, err
	}
	// Only lines that were verified are kept: whatever else came with the request would be
	// served under this witness's name.
	next := &latest{
		Checkpoint: r.Checkpoint, time: at, revision: last.revision + 1, left: t.budget.state(),
		note: checkpoint.AppendNote(nil, r.Checkpoint, append(verified, made(own)...)),
	}
	// The slow keys sign while the store writes. Nothing leaves before both are done.
	signed := make(chan error, 1)
	go func() { signed <- w.sign(own, late, r.Checkpoint, at) }()
	writeErr := w.write(ctx, last, next)
	signErr := <-signed
	if writeErr != nil {
		return nil, writeErr
	}
	// What a slow key could not sign is in the store all the same.
	next.note = checkpoint.AppendNote(nil, r.Checkpoint, append(verified, made(own)...))
	next.unfinished = signErr != nil
	t.latest.Store(next)
	if signErr != nil {
		return nil, signErr
	}
	w.metrics.cosigned(next)
	var lines []byte
	for _, s := range own {
		lines = s.Append(lines)
	}
	return lines, nil
}

// timestamp returns the time to state, in seconds since 1970. It never goes back, because a
// cosignature says that no larger tree was seen by then.
func timestamp(now time.Time, last uint64) (uint64, error) {
	at := uint64(max(now.Unix(), 1))
	if at >= last {
		return at, nil
	}
	if behind := time.Duration(last-at) * time.Second; last-at > uint64(maxClockBack/time.Second) {
		return 0, fmt.Errorf("witness: the clock is %v behind the last cosignature", behind)
	}
	return last, nil
}

// phase is when a key cosigns: early ones before the state is written, which holds their
// signatures, and late ones meanwhile.
type phase bool

const (
	early phase = false
	late  phase = true
)

// phases says when each key cosigns. ML-DSA-44 takes as long as a write, Ed25519 a tenth of
// it. At least one key is early, because a state is known by its cosignature to be this
// witness's.
func phases(signers []*checkpoint.SignerKey) []phase {
	p := make([]phase, len(signers))
	quick := slices.ContainsFunc(signers, func(k *checkpoint.SignerKey) bool {
		return k.VerifierKey().Type() == checkpoint.TypeEd25519Cosignature
	})
	for i, k := range signers {
		p[i] = phase(quick && k.VerifierKey().Type() != checkpoint.TypeEd25519Cosignature)
	}
	return p
}

// sign makes the cosignatures of one phase that are not there yet; sigs has a place for each
// signer.
func (w *Witness) sign(sigs []checkpoint.Signature, p phase, c checkpoint.Checkpoint, at uint64) error {
	for i, k := range w.signers {
		if w.phases[i] != p || sigs[i].Sig != nil {
			continue
		}
		s, err := k.Cosign(c, at)
		if err != nil {
			return fmt.Errorf("cosigning size %d of %q: %w", c.Size, c.Origin, err)
		}
		sigs[i] = s
	}
	return nil
}

// made returns the cosignatures that are there.
func made(sigs []checkpoint.Signature) []checkpoint.Signature {
	return slices.DeleteFunc(slices.Clone(sigs), func(s checkpoint.Signature) bool { return s.Sig == nil })
}

// write replaces a log's state, durably. When it cannot know the outcome, the witness stops.
func (w *Witness) write(ctx context.Context, last, next *latest) error {
	next.cell = encodeJSON(state{Format: stateFormat, Revision: next.revision, Left: next.left, Note: string(next.note)})
	if err := w.swap(ctx, stateCell(next.Origin), last.cell, next.cell); err != nil {
		return fmt.Errorf("keeping size %d of %q: %w", next.Size, next.Origin, err)
	}
	return nil
}

// swap writes a cell and counts the change.
func (w *Witness) swap(ctx context.Context, cell string, old, new []byte) error {
	if err := w.Err(); err != nil {
		return err
	}
	// A client that goes away must not leave a write half waited for.
	if err := w.store.SwapCell(context.WithoutCancel(ctx), cell, old, new); err != nil {
		// With ErrConflict somebody else writes to the store.
		w.stop(fmt.Errorf("writing cell %s: %w", cell, err))
		w.log.ErrorContext(ctx, "writing to the store", slog.String("cell", cell), slog.Any("error", err))
		return err
	}
	w.counter.advance()
	return nil
}

// Checkpoint returns the checkpoint that was cosigned last of the log with this hash of its
// origin (SHA-256, 64 lower-case hexadecimal digits), with the log's signatures that were
// verified and the witness's own; false when there is none. It is there for logs that were
// removed, too.
func (w *Witness) Checkpoint(hash string) ([]byte, bool) {
	w.mu.RLock()
	t := w.hashes[hash]
	w.mu.RUnlock()
	if t == nil {
		return nil, false
	}
	last := t.latest.Load()
	if last.note != nil && last.unfinished {
		finished, err := w.finish(t)
		if err != nil {
			w.log.Error("cosigning what was cosigned before the restart", slog.String("origin", t.origin), slog.Any("error", err))
			return last.note, true
		}
		last = finished
	}
	return last.note, last.note != nil
}
