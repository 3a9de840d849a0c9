package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles"
)

// ErrUnfinished means that no backup was ever finished in the directory.
var ErrUnfinished = errors.New("it holds no finished backup")

// Backup is the last finished backup of a directory, for reading. Its methods may be called
// concurrently. No other process writes the directory while it is open.
type Backup struct {
	state *state
	copy  *mirror.Copy
	lock  *os.File
}

// Open opens a backup: ErrUnfinished when there is none, mirror.ErrLocked while one is being
// written, mirror.ErrDamaged when its files contradict each other as far as that can be told
// without reading all of them. The caller verifies the checkpoint's signatures
// (client/verify), and closes it.
func Open(ctx context.Context, dir string) (*Backup, error) {
	b := new(Backup)
	var err error
	if b.lock, err = lockForReading(dir); err != nil {
		return nil, fmt.Errorf("opening the backup in %s: %w", dir, err)
	}
	if err := b.load(ctx, dir); err != nil {
		return nil, fmt.Errorf("opening the backup in %s: %w", dir, errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Backup) load(ctx context.Context, dir string) (err error) {
	if b.state, err = readState(dir); errors.Is(err, fs.ErrNotExist) {
		return ErrUnfinished
	}
	if err != nil {
		return err
	}
	if b.copy, err = mirror.Open(ctx, dir); err != nil {
		return err
	}
	// A run that was not finished may have copied more.
	cp := b.state.checkpoint
	if b.copy.Origin() != cp.Origin || b.copy.Size() < cp.Size {
		return fmt.Errorf("%w: its checkpoint is of %s with %d entries, backup.json is of %s with %d",
			mirror.ErrDamaged, b.copy.Origin(), b.copy.Size(), cp.Origin, cp.Size)
	}
	root, err := b.copy.RootAt(ctx, cp.Size)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return fmt.Errorf("%w: its tree has the root %x at %d entries, its checkpoint states %x", mirror.ErrDamaged, root, cp.Size, cp.Root)
	}
	n, err := b.copy.PayloadCount()
	if err == nil && n < cp.Size {
		err = fmt.Errorf("%w: payloads end at %d of %d", mirror.ErrDamaged, n, cp.Size)
	}
	return err
}

// lockForReading holds off a process that writes. Without a lock file, as in a copy on a
// medium that cannot be written, there is none.
func lockForReading(dir string) (*os.File, error) {
	f, err := os.Open(filepath.Join(dir, ".lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = mirror.ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close lets other processes write.
func (b *Backup) Close() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close()
}

// Checkpoint returns the signed checkpoint of the backup.
func (b *Backup) Checkpoint() []byte { return []byte(b.state.Checkpoint) }

// Origin returns the log's name.
func (b *Backup) Origin() string { return b.state.checkpoint.Origin }

// Size returns how many entries the backup has.
func (b *Backup) Size() uint64 { return b.state.checkpoint.Size }

// Root returns the root hash of its tree.
func (b *Backup) Root() tiles.Hash { return b.state.checkpoint.Root }

// Completed is when the backup was finished, in UTC, by the clock of who made it.
func (b *Backup) Completed() time.Time { return b.state.Completed }

// Contents returns the files that it holds of the log's directory.
func (b *Backup) Contents() Contents { return b.state.Contents }

// Leaves is mirror.Copy.Leaves up to Size.
func (b *Backup) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	if end > b.Size() {
		return fmt.Errorf("%w: leaves %d to %d of %d entries", tiles.ErrRange, start, end, b.Size())
	}
	return b.copy.Leaves(ctx, start, end, fn)
}

// Payloads is mirror.Copy.Payloads up to Size.
func (b *Backup) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	if end > b.Size() {
		return fmt.Errorf("%w: payloads %d to %d of %d entries", tiles.ErrRange, start, end, b.Size())
	}
	return b.copy.Payloads(ctx, start, end, fn)
}
