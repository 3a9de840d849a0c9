package peer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// Origin names the logs of Tessera's that are made here.
const Origin = "bench.invalid/tessera"

// Tessera's shortest interval between two checkpoints, and how often a caller who waits for
// one looks.
const (
	tesseraInterval = 100 * time.Millisecond
	tesseraPoll     = 10 * time.Millisecond
)

// tesseraLog is a log of Tessera's in files. Its futures are done when the batch is synced
// and in the tree.
type tesseraLog struct {
	*tessera.Appender
	awaiter  *tessera.PublicationAwaiter // nil when nobody waits for it
	shutdown func(context.Context) error
	cancel   context.CancelFunc
}

// openTessera opens a log, with a new key in its directory, where the verifier's key is left
// as well.
func openTessera(ctx context.Context, dir string, o Options) (*tesseraLog, error) {
	skey, vkey, err := note.GenerateKey(nil, Origin)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vkey"), []byte(vkey), 0o600); err != nil {
		return nil, fmt.Errorf("writing the key: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(dir, "log")})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening Tessera's storage: %w", err)
	}
	opts := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(tesseraInterval).
		WithBatching(o.Batch, o.Age).WithPushback(1 << 17)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening Tessera: %w", err)
	}
	l := &tesseraLog{Appender: appender, shutdown: shutdown, cancel: cancel}
	if o.Published {
		l.awaiter = tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, tesseraPoll)
	}
	return l, nil
}

// Record implements Recorder.
func (l *tesseraLog) Record(ctx context.Context, event []byte) error {
	_, err := l.wait(ctx, l.Add(ctx, tessera.NewEntry(slices.Clone(event))))
	return err
}

// wait returns the index of an event once it is durable, or published.
func (l *tesseraLog) wait(ctx context.Context, f tessera.IndexFuture) (uint64, error) {
	if l.awaiter == nil {
		i, err := f()
		return i.Index, err
	}
	i, _, err := l.awaiter.Await(ctx, f)
	return i.Index, err
}

// Close implements Recorder. It waits until the last event is published.
func (l *tesseraLog) Close() error {
	defer l.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return l.shutdown(ctx)
}
