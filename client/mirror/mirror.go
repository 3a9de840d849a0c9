// Package mirror keeps a verified copy of a log in a directory of plain files, in the layout
// of C2SP tlog-tiles, so that any web server can serve it and any client of that standard
// can read it.
//
//	DIR/checkpoint, DIR/tile/…     what anyone may read, entries not packed
//	DIR/evidence/                  what convicts the log, one JSON file each (client/verify)
//	DIR/private/payloads/…         with credentials: salts and records, 256 a file, 0600
//	DIR/.pending                   the checkpoint that is being copied
//	DIR/.lock                      held by the one process that writes
//
// A Mirror is for one goroutine at a time, but Handler and Current may be used beside it. A
// Copy may be used concurrently. What Sync has returned for is on stable storage: every
// file is written beside its place, synced and renamed, and the checkpoint comes last, so
// a crash at any moment leaves the old copy whole and what was done so far useful.
//
// The package is trusted never to put a leaf, a tile or a checkpoint into the copy that does
// not follow from a checkpoint that the policy accepts, and never to follow a log from one
// history into another. The log's server is trusted with nothing.
//
// Partial tiles are kept until the full tile is there. tlog-tiles allows to remove them then;
// Handler serves them all the same, cut from the full tile.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/policy"
)

// ErrLocked means that another process writes the same directory.
var ErrLocked = errors.New("another process keeps this mirror")

// ErrDamaged means that the copy on the disk is not what was written: the log is not to
// blame.
var ErrDamaged = errors.New("the copy is damaged")

// Options of a Mirror.
type Options struct {
	// Log is what is copied, and Policy says whose signatures count.
	Log    *tiles.Log
	Policy *policy.Policy
	// Payloads, when set, is asked for the payloads, which are kept too.
	Payloads payloads.Service
	// Progress, when set, is called now and then with how many entries of the tree have
	// been copied.
	Progress func(what string, done, total uint64)
}

// Mirror keeps a copy up to date.
type Mirror struct {
	dir     string
	opts    Options
	lock    *os.File
	current atomic.Pointer[Copy]
	// payloads is how many are known to be kept in a row from entry 0.
	payloads uint64
	// cut, when set, is called before each step of writing; a test ends the process's
	// writing there.
	cut func(step string) error
}

// New opens the mirror in a directory, which is made when there is none, and checks what
// can be checked of its copy without reading all of it. A directory that another process
// writes is ErrLocked, and a copy of another log is refused.
func New(ctx context.Context, dir string, o Options) (*Mirror, error) {
	m := &Mirror{dir: dir, opts: o}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the mirror: %w", err)
	}
	if err := m.takeLock(); err != nil {
		return nil, fmt.Errorf("opening the mirror in %s: %w", dir, err)
	}
	c, err := Open(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // nothing is copied yet
	case err != nil:
		return nil, errors.Join(err, m.Close())
	default:
		if _, err := m.signed(c.note); err != nil {
			return nil, errors.Join(fmt.Errorf("verifying the checkpoint of the copy in %s: %w", dir, err), m.Close())
		}
		m.current.Store(c)
	}
	return m, nil
}

func (m *Mirror) takeLock() error {
	f, err := os.OpenFile(filepath.Join(m.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	m.lock = f
	return nil
}

// Close lets another process write.
func (m *Mirror) Close() error { return m.lock.Close() }

// Current returns the copy as it is now; nil when there is none yet.
func (m *Mirror) Current() *Copy { return m.current.Load() }

// Handler serves the copy as it is at the time of each request.
func (m *Mirror) Handler() http.Handler { return handler(m.Current) }

// signed verifies everything about a checkpoint but the quorum.
func (m *Mirror) signed(note []byte) (*verify.Signed, error) {
	p := *m.opts.Policy
	p.Quorum = policy.None
	return verify.Checkpoint(note, &p)
}

// Result is what Sync has done.
type Result struct {
	// Origin, Size and Root are those of the copy.
	Origin string
	Size   uint64
	Root   tiles.Hash
	// Added is how many entries are new.
	Added uint64
	// WithPayloads says that payloads are kept. Payloads is how many the copy has in a row
	// from entry 0, erased ones included, and Erased how many of those that came with this
	// call were erased.
	WithPayloads     bool
	Payloads, Erased uint64
}

// Sync brings the copy up to the log's latest checkpoint. A log that contradicts what it
// signed before is a *verify.TamperError, whose evidence is then in DIR/evidence; one that
// serves what contradicts its own checkpoint is a *tiles.ContradictionError. Neither
// changes the copy. An older checkpoint than the copy's is refused: ErrOlder, or a
// *verify.TamperError when the log itself states that it signed it later.
func (m *Mirror) Sync(ctx context.Context) (*Result, error) {
	note, err := m.opts.Log.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	next, err := m.signed(note)
	if err != nil {
		return nil, fmt.Errorf("verifying the checkpoint of %v: %w", m.opts.Log, err)
	}
	// Before the quorum: no honest witness cosigns a second history, so that one would be
	// taken for a mere lack of cosignatures.
	tree, err := m.compare(ctx, next)
	if err != nil {
		return nil, m.keepEvidence(err)
	}
	if _, err := verify.Checkpoint(note, m.opts.Policy); err != nil {
		return nil, fmt.Errorf("verifying the checkpoint of %v: %w", m.opts.Log, err)
	}
	res := &Result{Origin: next.Origin, Size: next.Size, Root: next.Root}
	if res.Added, err = m.grow(ctx, next, tree); err != nil {
		return nil, fmt.Errorf("copying the tree of %d entries: %w", next.Size, err)
	}
	if m.opts.Payloads != nil {
		res.WithPayloads = true
		if err := m.copyPayloads(ctx, res); err != nil {
			return nil, fmt.Errorf("copying payloads: %w", err)
		}
	}
	return res, nil
}

// size returns how many entries the copy has.
func (m *Mirror) size() uint64 {
	if c := m.current.Load(); c != nil {
		return c.cp.Size
	}
	return 0
}
