package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// Errors of Restore, to be matched with errors.Is.
var (
	// ErrRestoring means that another process restores into the same place.
	ErrRestoring = errors.New("another process restores into the same directory")
	// ErrLedgerElsewhere means that a ledger was given, and that the configuration names one
	// outside of the directory, which is not written.
	ErrLedgerElsewhere = errors.New("the configuration names a ledger outside of the log's directory")
)

// Restore makes a log's directory from a backup: configuration, policy, and a store with all
// entries at their places. It brings no keys, so that what it makes cannot sign, and
// a ledger only when one is given.
type Restore struct {
	// Dir is the place: nothing, or an empty directory.
	Dir string
	// Config is the log's configuration, empty for the default one; Policy its policy, which
	// has its public keys; Predecessor the final statement of the log that it continues.
	Config, Policy, Predecessor []byte
	// Source is the backup. Its checkpoint covers all of it. The caller has verified the
	// witnesses' signatures, if any are asked for.
	Source *Source
	// Ledger is the file with the signer's ledger, which is kept apart from backups; empty
	// when it is brought later. It is copied, and must not be in use.
	Ledger string
	// Drill leaves a ledger outside of the directory alone unless it is given: the log may run.
	Drill bool
	// Progress, when set, is called now and then.
	Progress func(stage string, done, total uint64)
	// OnFatal is that of pebblestore.Options, for the store that is made.
	OnFatal func(error)
}

// Restored is what Restore.Run has made.
type Restored struct {
	Origin string
	Size   uint64
	Root   [32]byte
	// Erased is how many entries have no payload any more, Keys how many keys have a history.
	Erased, Keys uint64
	// Bytes are those of the payloads.
	Bytes uint64
	// Signed is what the ledger holds, nil when there is none. When its size is larger than
	// Size the log refuses to start until it has the rest (Tail).
	Signed *ledger.State
	// Ledger is where the log looks for its ledger.
	Ledger string
	// Missing are the files that the log needs beside its keys and that are not there yet:
	// the ledger, and those of TLS.
	Missing []string
}

// Run restores, all or nothing: the directory is made beside its place, everything in it is
// read back and checked as fsck does, and then it is renamed. A place that holds anything is
// fs.ErrExist. *DamageError is a backup that does not give the root that its checkpoint
// states, *ForkError one that is not of the history that the ledger has signed.
func (r *Restore) Run(ctx context.Context) (*Restored, error) {
	config, p, err := r.read()
	if err != nil {
		return nil, err
	}
	if err := r.checkPlace(); err != nil {
		return nil, err
	}
	dir := filepath.Clean(r.Dir) + ".new"
	unlock, err := lockBuilding(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out, err := r.build(ctx, dir, config, p)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return out, nil
}

// build makes the directory and puts it into its place.
func (r *Restore) build(ctx context.Context, dir string, config logdir.Config, p *policy.Policy) (*Restored, error) {
	d, err := logdir.Prepare(dir, config, r.Config, string(r.Policy), r.OnFatal)
	if err != nil {
		return nil, err
	}
	if len(r.Predecessor) > 0 {
		if err := writeFile(dir, PredecessorStatement, r.Predecessor); err != nil {
			return nil, err
		}
	}
	out, err := r.store(ctx, d, p)
	if err != nil {
		return nil, err
	}
	// An empty directory in the place would be in the way.
	if err := os.Remove(r.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("putting the log into its place: %w", err)
	}
	if err := putInPlace(dir, r.Dir); err != nil {
		return nil, fmt.Errorf("putting the log into its place: %w", err)
	}
	d.Path = r.Dir
	out.Ledger, out.Missing = d.Ledger(), missing(d)
	return out, nil
}

// read checks what does not need the entries.
func (r *Restore) read() (logdir.Config, *policy.Policy, error) {
	p, err := policy.Parse(r.Policy)
	if err != nil {
		return logdir.Config{}, nil, fmt.Errorf("reading the policy: %w", err)
	}
	cp, _, err := checkpoint.ParseNote(r.Source.Checkpoint)
	if err != nil {
		return logdir.Config{}, nil, fmt.Errorf("reading the backup's checkpoint: %w", err)
	}
	config := logdir.DefaultConfig(cp.Origin)
	if len(r.Config) > 0 {
		if config, err = logdir.ParseConfig(r.Config); err != nil {
			return config, nil, fmt.Errorf("reading the configuration: %w", err)
		}
	}
	if _, _, err := OpenNote(r.Source.Checkpoint, config.Origin, p.LogKeys(config.Origin)); err != nil {
		return config, nil, fmt.Errorf("reading the backup's checkpoint: %w", err)
	}
	if r.Ledger != "" && !filepath.IsLocal(config.Ledger) {
		return config, nil, fmt.Errorf("%w: %s", ErrLedgerElsewhere, config.Ledger)
	}
	return config, p, nil
}

// checkPlace sees that there is nothing, or an empty directory.
func (r *Restore) checkPlace() error {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("the directory is not empty: %w", fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("restoring into %s: %w", r.Dir, err)
	}
	return nil
}

// lockBuilding makes the directory in which a log is made, empty, for this process alone.
// What another run was cut off from is cleared away.
func lockBuilding(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("restoring into %s: %w", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("restoring into %s: %w", dir, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrRestoring
	}
	if err == nil {
		err = stillThere(f, dir)
	}
	if err == nil {
		err = clearInside(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("restoring into %s: %w", dir, errors.Join(err, f.Close()))
	}
	return func() { _ = f.Close() }, nil
}

// stillThere sees that what was locked was not put into its place meanwhile, by the process
// that had locked it before.
func stillThere(f *os.File, dir string) error {
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(dir)
	if err == nil && !os.SameFile(locked, now) || errors.Is(err, fs.ErrNotExist) {
		return ErrRestoring
	}
	return err
}

// clearInside empties a directory in which a log was being made, if that is all it is.
func clearInside(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isLogFile(e.Name()) {
			return fmt.Errorf("%s is in the way: %w", filepath.Join(dir, e.Name()), fs.ErrExist)
		}
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// store fills the store, checks it, and brings the ledger.
func (r *Restore) store(ctx context.Context, d *logdir.Dir, p *policy.Policy) (_ *Restored, err error) {
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{OnFatal: r.OnFatal})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	cp, _, err := checkpoint.ParseNote(r.Source.Checkpoint)
	if err != nil {
		return nil, err
	}
	out := &Restored{Origin: cp.Origin, Size: cp.Size, Root: cp.Root}
	if err := r.fill(ctx, s, out); err != nil {
		return nil, err
	}
	if err := s.SwapCell(ctx, log.CheckpointCell, nil, r.Source.Checkpoint); err != nil {
		return nil, fmt.Errorf("storing the checkpoint: %w", err)
	}
	if err := r.check(ctx, s, d, p, out); err != nil {
		return nil, err
	}
	return out, r.bringLedger(ctx, s, d, out)
}

// fill commits the source's entries, and compares the root that they give with the
// checkpoint's.
func (r *Restore) fill(ctx context.Context, s storage.Store, out *Restored) error {
	head := storage.EmptyHead()
	t, err := newTree(ctx, s, head)
	if err != nil {
		return err
	}
	for head.Size < out.Size {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b, err := readBatch(ctx, r.Source, 0, head, min(head.Size+batchSize, out.Size))
		if err != nil {
			return err
		}
		for i := range b.entries {
			out.Bytes += uint64(len(b.entries[i].Payload))
		}
		end, err := b.extend(t)
		if err != nil {
			return err
		}
		if err := commit(ctx, s, t, b, end); err != nil {
			return err
		}
		out.Erased += uint64(len(b.erased))
		head = end
		r.progress("writing", head.Size, out.Size)
	}
	if head.Root != out.Root {
		return damaged(0, "backup", "its %d entries give the root %x, its checkpoint states %x", out.Size, head.Root, out.Root)
	}
	return nil
}

// check reads the store back.
func (r *Restore) check(ctx context.Context, s storage.Store, d *logdir.Dir, p *policy.Policy, out *Restored) error {
	report, err := fsck.Check(ctx, s, fsck.Options{
		Origin: out.Origin, Keys: p.LogKeys(out.Origin), CheckpointCell: log.CheckpointCell,
		Progress: func(done, total uint64) { r.progress("checking", done, total) },
	})
	if err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		return &DamageError{Problems: report.Problems, Unlisted: report.Unlisted}
	}
	out.Keys = report.Keys
	return nil
}

func (r *Restore) progress(stage string, done, total uint64) {
	if r.Progress != nil {
		r.Progress(stage, done, total)
	}
}

// bringLedger holds the ledger against the restored tree and copies it. Without one that is
// given, the file that the configuration names outside of the directory is looked at.
func (r *Restore) bringLedger(ctx context.Context, s storage.Store, d *logdir.Dir, out *Restored) error {
	path, elsewhere := r.Ledger, !filepath.IsLocal(d.Config.Ledger)
	if path == "" {
		path = d.Ledger()
		if _, err := os.Stat(path); r.Drill || !elsewhere || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	l, err := ledger.Open(path, out.Origin)
	if err != nil {
		return err
	}
	// The lock is held until it is copied: no server signs meanwhile.
	defer l.Close()
	if next := l.Successor(); next != "" {
		return fmt.Errorf("%w: its successor is %s", ErrEnded, next)
	}
	st := l.State()
	out.Signed = &st
	if st.Size <= out.Size {
		root, err := prove.New(s, 0).Root(ctx, st.Size)
		if err != nil {
			return fmt.Errorf("reading the tree at size %d: %w", st.Size, err)
		}
		if root != st.Root {
			return damaged(0, "backup", "has root %x at size %d, the signer's ledger has %x", root, st.Size, st.Root)
		}
	}
	if elsewhere {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("copying the signer's ledger: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(d.Ledger()), 0o700); err != nil {
		return fmt.Errorf("copying the signer's ledger: %w", err)
	}
	return replaceFile(d.Ledger(), b, 0o600)
}

// missing returns what the log needs and is not there.
func missing(d *logdir.Dir) []string {
	var out []string
	tls := d.TLS()
	for _, path := range []string{d.Ledger(), tls.Cert, tls.Key, tls.ClientCA} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			out = append(out, path)
		}
	}
	return out
}
