// Package witness is a C2SP tlog-witness: it cosigns the checkpoints of logs that it was
// told of, each only after a proof that the tree extends the one it cosigned before.
//
// What is cosigned is durable before the answer: the compare and the write of a log's
// state are one atomic step, and the signatures leave only after it. A Witness may be used
// concurrently; proofs and signatures of logs are verified outside of any lock, requests
// for one log take turns for signing and writing, those for different logs share syncs. The
// slow signatures are made while the store writes. Those are not in the store: after a
// restart they are made again when they are asked for, for the same checkpoint and time.
//
// It is trusted never to cosign two trees of one log of which neither extends the other,
// and to state no time at which it knew a larger tree. For that it trusts its store and its
// counter file, and nothing that comes over the network. It is not trusted with the logs'
// content, which it never sees. Whoever has its private keys can cosign anything.
//
// # What is noticed when state goes back
//
// Beside the store there is a counter file, best on another medium (see OpenCounter). Open
// refuses a store that is missing, is another witness's, or holds fewer changes than the
// file counted; the file is at most CounterDelay behind. When store and file went back
// together, or were copied together, nothing local shows it. Then a checkpoint that comes
// with a cosignature of this witness over a larger tree than it remembers, or another tree
// of the same size, is proof: the witness stops cosigning and its counter keeps it stopped
// until an operator calls Adopt.
package witness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
)

// Errors, to be matched with errors.Is.
var (
	// ErrWentBack means that the store lost changes which the counter file counted, or that
	// the two do not belong together.
	ErrWentBack = errors.New("witness: the store went back")
	// ErrStopped means that the witness cosigns nothing more until it is opened anew.
	ErrStopped = errors.New("witness: stopped")
	// ErrNotEnrolled means a log that was never enrolled, or was removed.
	ErrNotEnrolled = errors.New("witness: log is not enrolled")
)

// Config is what a witness is made of.
type Config struct {
	// Store keeps the witness's state. It is not closed by the witness.
	Store storage.Store
	// Counter is the counter file; the witness closes it.
	Counter *Counter
	// Signers are the witness's own keys, of kinds whose signatures carry a time; each
	// cosignature is made with all of them. All have the same name.
	Signers []*checkpoint.SignerKey
	// Evidence is the directory that takes evidence; empty keeps none.
	Evidence string
	// Logger takes what happens; nil discards it.
	Logger *slog.Logger
}

// Witness is an open witness.
type Witness struct {
	store    storage.Store
	counter  *Counter
	signers  []*checkpoint.SignerKey
	phases   []phase // of each signer
	evidence evidenceDir
	log      *slog.Logger
	metrics  *metrics
	stopped  atomic.Pointer[error]
	// slots are taken by requests that are in memory.
	slots chan struct{}

	// enrolling is held by whoever changes the register.
	enrolling sync.Mutex
	register  register
	// registered is the register's cell as it is stored.
	registered []byte

	// mu guards the maps. Trees are never removed from them.
	mu      sync.RWMutex
	origins map[string]*tree
	hashes  map[string]*tree
}

// tree is what the witness knows of one log.
type tree struct {
	origin string
	// log is the enrolment, nil when the log was removed.
	log atomic.Pointer[Log]
	// latest is what was cosigned last, never nil. It is stored after the write is durable.
	latest atomic.Pointer[latest]

	// cosigning is held from the last look at latest until the write is durable.
	cosigning sync.Mutex
	budget    budget
}

// Create writes the state of a new witness into an empty store, and its counter file. A
// store or file that exists is fs.ErrExist.
func Create(ctx context.Context, store storage.Store, counterPath string) error {
	if _, err := store.Cell(ctx, registerCell); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("making a witness: its store: %w", err)
	}
	r := newRegister()
	if err := createCounter(counterPath, r.ID, r.Revision); err != nil {
		return fmt.Errorf("making a witness: %w", err)
	}
	if err := store.SwapCell(ctx, registerCell, nil, r.encode()); err != nil {
		return fmt.Errorf("making a witness: %w", err)
	}
	return nil
}

// Open opens a witness: it reads the state, verifies the cosignatures of the witness's own
// keys in it, of which each log needs one, and compares it with the counter (ErrWentBack).
// Where an Ed25519 key (or any, in a witness without one) did not cosign the state it does
// now, so that after an Open with an old and a new key the old one can be given up.
func Open(ctx context.Context, c Config) (*Witness, error) {
	w, err := load(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the witness: %w", err)
	}
	if err := c.Counter.check(w.register.ID, w.revisions()); err != nil {
		return nil, fmt.Errorf("opening the witness: %w", err)
	}
	c.Counter.start(w.revisions(), w.stop)
	for _, t := range w.trees() {
		if err := w.takeOver(ctx, t); err != nil {
			return nil, fmt.Errorf("opening the witness: %w", errors.Join(err, c.Counter.Close()))
		}
	}
	return w, nil
}

// load is Open before the comparison with the counter.
func load(ctx context.Context, c Config) (*Witness, error) {
	if err := checkSigners(c.Signers); err != nil {
		return nil, err
	}
	w := &Witness{
		store: c.Store, counter: c.Counter, signers: c.Signers, phases: phases(c.Signers), evidence: evidenceDir{path: c.Evidence},
		log: c.Logger, metrics: newMetrics(),
		slots:   make(chan struct{}, MaxRequests),
		origins: make(map[string]*tree), hashes: make(map[string]*tree),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	var err error
	w.registered, err = c.Store.Cell(ctx, registerCell)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it holds no witness", ErrWentBack)
	}
	if err != nil {
		return nil, err
	}
	if w.register, err = parseRegister(w.registered); err != nil {
		return nil, err
	}
	for _, e := range w.register.Logs {
		l, err := e.log()
		if err != nil {
			return nil, err
		}
		t, err := w.loadTree(ctx, l.Origin)
		if err != nil {
			return nil, err
		}
		if !e.Removed {
			t.log.Store(&l)
		}
		w.add(t)
	}
	return w, nil
}

func checkSigners(signers []*checkpoint.SignerKey) error {
	if len(signers) == 0 {
		return errors.New("no key to cosign with")
	}
	for i, s := range signers {
		v := s.VerifierKey()
		switch {
		case !v.Type().Timestamped():
			return fmt.Errorf("%v key cannot cosign: its signatures carry no time", v.Type())
		case s.Name() != signers[0].Name():
			return fmt.Errorf("the keys have two names, %q and %q", signers[0].Name(), s.Name())
		}
		for _, o := range signers[:i] {
			if o.VerifierKey().SameKey(v) {
				return errors.New("two of the keys are the same")
			}
		}
	}
	return nil
}

// add makes a tree known.
func (w *Witness) add(t *tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.origins[t.origin] = t
	w.hashes[originHash(t.origin)] = t
}

// find returns the tree of an origin, nil when the origin was never enrolled.
func (w *Witness) find(origin string) *tree {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.origins[origin]
}

// trees returns all trees in the order of their origins.
func (w *Witness) trees() []*tree {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return slices.SortedFunc(maps.Values(w.origins), func(a, b *tree) int {
		if a.origin < b.origin {
			return -1
		}
		return 1
	})
}

// revisions counts the changes to the store since the witness was made.
func (w *Witness) revisions() uint64 {
	n := w.register.Revision
	for _, t := range w.trees() {
		n += t.latest.Load().revision
	}
	return n
}

// stop makes the witness refuse everything from now on.
func (w *Witness) stop(err error) {
	err = fmt.Errorf("%w: %w", ErrStopped, err)
	if w.stopped.CompareAndSwap(nil, &err) {
		w.log.Error("the witness cosigns nothing more", slog.Any("error", err))
	}
}

// Err says why the witness stopped cosigning, nil while it cosigns.
func (w *Witness) Err() error {
	if err := w.stopped.Load(); err != nil {
		return *err
	}
	return nil
}

// Keys returns the witness's public keys.
func (w *Witness) Keys() []checkpoint.VerifierKey {
	keys := make([]checkpoint.VerifierKey, len(w.signers))
	for i, s := range w.signers {
		keys[i] = s.VerifierKey()
	}
	return keys
}

// Status is what the witness knows of an enrolled log.
type Status struct {
	Log
	// Size is the size of the tree that was cosigned last, and Time the cosignature's
	// time in seconds since 1970: 0 when none was.
	Size, Time uint64
	// Root is the root hash of that tree; the empty tree's when none was cosigned.
	Root [32]byte
}

// Logs returns the enrolled logs in the order of their origins.
func (w *Witness) Logs() []Status {
	var out []Status
	for _, t := range w.trees() {
		if l := t.log.Load(); l != nil {
			latest := t.latest.Load()
			out = append(out, Status{Log: *l, Size: latest.Size, Root: latest.Root, Time: latest.time})
		}
	}
	return out
}

// enrolledLogs counts the enrolled logs.
func (w *Witness) enrolledLogs() (n int) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, t := range w.origins {
		if t.log.Load() != nil {
			n++
		}
	}
	return n
}

// Close brings the counter file up to date and closes it. Calls that are under way must
// have ended. The store stays open.
func (w *Witness) Close() error {
	err := fmt.Errorf("%w: %w", ErrStopped, fs.ErrClosed)
	w.stopped.CompareAndSwap(nil, &err)
	return w.counter.Close()
}
