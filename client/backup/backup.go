// Package backup keeps a backup of a log in a directory of plain files: a mirror with
// payloads (client/mirror), and beside it what else a log needs to be brought back.
//
//	DIR/checkpoint, DIR/tile/…     the tree, as in a mirror
//	DIR/private/payloads/…         salts and records, 256 a file, 0600
//	DIR/private/backup.json        the last finished backup: its checkpoint with all cosignatures,
//	                               configuration, policy, and a checksum over them, 0600
//
// It holds no private key and no signer's ledger. Keys are kept by their own means, and a
// ledger that comes back from a backup has forgotten what was signed since: that is how
// a log comes to two histories.
//
// Run makes a backup, or brings one up to date; one process at a time writes a directory.
// When it returns, all is on stable storage, and has been read back and held against the signed
// root. backup.json is replaced last, whole: whatever ends a run before, the backup is the
// one before it, and the next run goes on from what is there. Open reads the last finished
// one, and may be used beside others that read.
//
// The package is trusted with the payloads, and to keep none that the log has erased once Run
// has returned. It takes the log's word for what was erased. What it reads
// otherwise is verified.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/tile"
)

// Service is what is needed of a log beside its tiles; rpc.LogServiceClient has it.
type Service interface {
	payloads.Service
	payloads.ErasureService
}

// Options of Run.
type Options struct {
	// Log is what is backed up, and Policy says whose signatures count.
	Log    *tiles.Log
	Policy *policy.Policy
	// Service is asked for the payloads, and for what was erased.
	Service Service
	// Contents are kept with the tree.
	Contents Contents
	// VerifyAll reads all of the backup again, not only what has been added since the last
	// finished one.
	VerifyAll bool
	// Progress, when set, is called now and then.
	Progress func(what string, done, total uint64)
}

// Result is what Run has done.
type Result struct {
	Origin string
	Size   uint64
	Root   tiles.Hash
	// Added is how many entries are new since the last finished backup.
	Added uint64
	// Erased is how many entries have no payload, as the log says, and Dropped is how many of
	// those payloads this run has destroyed in the backup.
	Erased, Dropped uint64
	// VerifiedFrom is the first entry that was read back and verified.
	VerifiedFrom uint64
}

// DamageError is what Run has found when it read the backup back: files that are not what
// was written. The last finished backup is still the one before.
type DamageError struct {
	Problems []tiles.Problem
	// Unlisted is how many more there are.
	Unlisted uint64
}

// Error returns the first places.
func (e *DamageError) Error() string {
	text := "the backup is damaged"
	for i, p := range e.Problems {
		if i == 3 {
			return fmt.Sprintf("%s; and %d places more", text, uint64(len(e.Problems)-i)+e.Unlisted)
		}
		text += "; " + p.Where + ": " + p.What
	}
	return text
}

// Unwrap says that the log is not to blame.
func (e *DamageError) Unwrap() error { return mirror.ErrDamaged }

// Run brings the backup in a directory up to the log's latest checkpoint. A directory that
// holds something else is fs.ErrExist, one that another process writes is mirror.ErrLocked.
// The errors of mirror.Sync say what is wrong with the log; *DamageError and
// mirror.ErrDamaged are faults of the backup's own files.
func Run(ctx context.Context, dir string, o Options) (_ *Result, err error) {
	if err := checkTarget(dir); err != nil {
		return nil, err
	}
	m, err := mirror.New(ctx, dir, mirror.Options{Log: o.Log, Policy: o.Policy, Payloads: o.Service, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	before, err := readState(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	synced, err := m.Sync(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{Origin: synced.Origin, Size: synced.Size, Root: synced.Root, Added: synced.Size}
	if before != nil {
		res.Added = synced.Size - min(before.checkpoint.Size, synced.Size)
	}
	if err := dropErased(ctx, m, &o, res); err != nil {
		return nil, err
	}
	c := m.Current()
	if o.VerifyAll {
		err = verifyAll(ctx, c, &o, res)
	} else {
		res.VerifiedFrom = (res.Size - res.Added) / tile.Width * tile.Width
		err = verifyFrom(ctx, c, &o, res.VerifiedFrom)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the backup back: %w", err)
	}
	s := &state{Contents: o.Contents, Completed: time.Now().UTC().Truncate(time.Second), Checkpoint: string(c.Checkpoint())}
	return res, writeState(dir, s)
}

// checkTarget refuses a directory that holds anything but a backup, or a mirror.
func checkTarget(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o755)
	}
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, ".lock")); err != nil {
		return fmt.Errorf("writing a backup into %s: it holds something else: %w", dir, fs.ErrExist)
	}
	return nil
}

// dropErased destroys the payloads that the log has erased since they were copied.
func dropErased(ctx context.Context, m *mirror.Mirror, o *Options, res *Result) error {
	err := payloads.Erased(ctx, o.Service, 0, res.Size, func(indexes []uint64) error {
		res.Erased += uint64(len(indexes))
		gone, err := m.Erase(indexes)
		res.Dropped += gone
		return err
	})
	if err != nil {
		return fmt.Errorf("erasing what the log has erased: %w", err)
	}
	return nil
}

// verifyFrom reads back the entries from one on, and their payloads. Opening the copy has
// held its right edge against the root.
func verifyFrom(ctx context.Context, c *mirror.Copy, o *Options, from uint64) error {
	return c.Payloads(ctx, from, c.Size(), func(i uint64, _ []byte) error {
		if o.Progress != nil && (i+1)%tile.Width == 0 {
			o.Progress("verifying", i+1, c.Size())
		}
		return nil
	})
}

// verifyAll reads back every file.
func verifyAll(ctx context.Context, c *mirror.Copy, o *Options, res *Result) error {
	var progress func(done, total uint64)
	if o.Progress != nil {
		progress = func(done, total uint64) { o.Progress("verifying", done, total) }
	}
	r, err := c.Check(ctx, c.Size(), progress)
	if err != nil {
		return err
	}
	if len(r.Problems) == 0 && r.Erased != res.Erased {
		r.Problems = append(r.Problems, tiles.Problem{
			Where: "payloads", What: fmt.Sprintf("%d are missing, the log has erased %d", r.Erased, res.Erased),
		})
	}
	if len(r.Problems) > 0 {
		return &DamageError{Problems: r.Problems, Unlisted: r.Unlisted}
	}
	return nil
}
