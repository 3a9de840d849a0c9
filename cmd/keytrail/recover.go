package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness/feed"
)

// recoverFlags are what keytrail recover is told.
type recoverFlags struct {
	dir, from, successor, last string
	unpublished                bool
}

func (a *app) recoverCommand() *cobra.Command {
	var f recoverFlags
	cmd := &cobra.Command{
		Use:   "recover --dir DIR (--from SOURCE | --successor NEWDIR)",
		Short: "bring a log back whose store was set back, as by restoring a backup",
		Long: `A log refuses to start when its signer's ledger or a witness knows a larger tree than its
store holds: signing what lies between would fork the log. There are two ways out, both
with the server stopped. A recovery that was cut off is run again.

--from SOURCE fetches the missing entries. SOURCE is another directory of this log, a copy of
its store, or a mirror that keeps the payloads (keytrail mirror --payloads). Everything is
verified before anything is written, entries keep their places byte for byte, and all
receipts and checkpoints stay good. A source that holds more than was signed is followed up
to the last signature; --unpublished brings back the rest too, which the log has
acknowledged and nobody has signed: only for a copy that nobody else could write to.

--successor NEWDIR is for a tail that is lost for good. It ends the log for ever and makes
the log that continues it (origin …/2, …/3) with the same configuration and witnesses and
with new keys. A final statement, signed by the old log, says what it had signed, what is
kept, and who continues it; keytrail verify statement verifies it. Receipts of the old log
stay valid under its own policy, and prove events of the lost part too; whoever sent such
events sends them again, to the successor. Give --last-checkpoint the newest checkpoint
that anyone holds.`,
		Example: `  keytrail recover --dir /var/lib/keytrail --from /mnt/replica
  keytrail recover --dir /var/lib/keytrail --from /srv/mirror
  keytrail recover --dir /var/lib/keytrail --successor /var/lib/keytrail-2 --last-checkpoint newest.checkpoint`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case (f.from == "") == (f.successor == ""):
				return cli.Usage("one of --from and --successor is required")
			case f.from == "" && f.unpublished:
				return cli.Usage("--unpublished goes with --from")
			case f.successor == "" && f.last != "":
				return cli.Usage("--last-checkpoint goes with --successor")
			}
			d, err := logdir.Load(f.dir)
			if err != nil {
				return err
			}
			if f.from != "" {
				return a.recoverTail(cmd.Context(), d, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return a.endLog(cmd.Context(), d, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	dirFlag(cmd, &f.dir)
	cmd.Flags().StringVar(&f.from, "from", "", "a log's directory, a copy of its store, or a mirror with payloads")
	cmd.Flags().BoolVar(&f.unpublished, "unpublished", false, "bring back what the source holds beyond all that was signed")
	cmd.Flags().StringVar(&f.successor, "successor", "", "end the log, and make the log that continues it in this directory")
	cmd.Flags().StringVar(&f.last, "last-checkpoint", "", "the newest checkpoint of the log that anyone holds")
	return cmd
}

// stopped is a stopped log with what a recovery needs of it.
type stopped struct {
	dir    *logdir.Dir
	store  *pebblestore.Store
	ledger *ledger.Ledger
	policy *policy.Policy
}

// openStopped opens store and ledger of a stopped log. A store that is gone is made anew,
// empty: a backup that holds nothing.
func openStopped(d *logdir.Dir, readOnly bool) (*stopped, error) {
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return nil, fmt.Errorf("reading the log's policy: %w", err)
	}
	l, err := ledger.Open(d.Ledger(), d.Config.Origin)
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return nil, cli.Hint(err, "stop keytraild first")
	case errors.Is(err, fs.ErrNotExist):
		return nil, cli.Hint(err, "bring the file back; if it is lost, give the signer the newest checkpoint that anyone holds first: keytrail ledger adopt --dir %s CHECKPOINT", d.Path)
	case err != nil:
		return nil, err
	}
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{ReadOnly: readOnly, OnFatal: cli.OnFatal("keytrail")})
	if errors.Is(err, fs.ErrNotExist) {
		s, err = pebblestore.Create(d.Store(), pebblestore.Options{OnFatal: cli.OnFatal("keytrail")})
	}
	if err != nil {
		err = errors.Join(err, l.Close())
		switch {
		case errors.Is(err, storage.ErrLocked):
			err = cli.Hint(err, "stop keytraild first")
		case errors.Is(err, storage.ErrCorrupt):
			err = cli.Hint(err, "move the damaged store away; a recovery begins with another backup, or with none")
		}
		return nil, err
	}
	return &stopped{dir: d, store: s, ledger: l, policy: p}, nil
}

func (s *stopped) close() error { return errors.Join(s.store.Close(), s.ledger.Close()) }

// ask is what asks the policy's witnesses.
func (s *stopped) ask() recovery.AskFunc {
	return recovery.Witnesses(feed.Config{Origin: s.dir.Config.Origin, Policy: s.policy, Timeout: s.dir.Config.Witness.Timeout})
}

func (a *app) recoverTail(ctx context.Context, d *logdir.Dir, f recoverFlags, stdout, stderr io.Writer) (err error) {
	s, err := openStopped(d, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	src, closeSource, err := openSource(ctx, d, f.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	t := recovery.Tail{
		Origin: d.Config.Origin, Policy: s.policy, Store: s.store, Ledger: s.ledger, Source: src,
		Unpublished: f.unpublished, Ask: s.ask(),
	}
	if isTerminal(stderr) {
		bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(stderr), progressbar.OptionClearOnFinish(),
			progressbar.OptionShowCount(), progressbar.OptionShowIts())
		t.Progress = func(stage string, done, total uint64) {
			bar.Describe(stage)
			bar.ChangeMax64(int64(total))
			_ = bar.Set64(int64(done))
		}
		defer func() { _ = bar.Finish() }()
	}
	r, err := t.Run(ctx)
	if err != nil {
		return explainRecovery(err, d)
	}
	warnUnasked(stderr, r.Unasked)
	return a.printRecovered(stdout, d, r)
}

// openSource opens where the missing entries come from.
func openSource(ctx context.Context, d *logdir.Dir, path string) (*recovery.Source, func() error, error) {
	store := path
	if exists(filepath.Join(path, "config.yaml")) {
		store = filepath.Join(path, "store")
	} else if !exists(filepath.Join(path, "db")) && exists(filepath.Join(path, "checkpoint")) {
		return openMirror(ctx, path)
	}
	if sameFile(store, d.Store()) {
		return nil, nil, cli.Usage("--from: %s is the store that is to be brought back", store)
	}
	s, err := pebblestore.Open(store, pebblestore.Options{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, cli.Usage("--from: %s is neither a log's directory, nor a store, nor a mirror", path)
	}
	if errors.Is(err, storage.ErrLocked) {
		return nil, nil, cli.Hint(err, "stop the program that has the source open")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening the source: %w", err)
	}
	src, err := recovery.FromStore(ctx, s)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return src, s.Close, nil
}

// openMirror opens a mirror, which must have all payloads.
func openMirror(ctx context.Context, path string) (*recovery.Source, func() error, error) {
	c, err := mirror.Open(ctx, path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the mirror: %w", err)
	}
	n, err := c.PayloadCount()
	if err != nil {
		return nil, nil, fmt.Errorf("opening the mirror: %w", err)
	}
	if n < c.Size() {
		err := fmt.Errorf("%w: the mirror has %d entries, and the payloads of %d", recovery.ErrNoPayloads, c.Size(), n)
		return nil, nil, cli.Hint(err, "leaves alone do not bring records back; if nobody has the payloads: keytrail recover --successor")
	}
	return &recovery.Source{Entries: c, Size: c.Size(), Checkpoint: c.Checkpoint()}, func() error { return nil }, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// explainRecovery says what to do about a recovery that was refused.
func explainRecovery(err error, d *logdir.Dir) error {
	if _, ok := errors.AsType[*recovery.ShortError](err); ok {
		return cli.Hint(err, "bring a source that has them; if nobody has them any more: keytrail recover --dir %s --successor NEWDIR", d.Path)
	}
	fork, isFork := errors.AsType[*recovery.ForkError](err)
	_, isDamage := errors.AsType[*recovery.DamageError](err)
	_, isConflict := errors.AsType[*feed.ConflictError](err)
	switch {
	case isFork:
		return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: fmt.Sprintf(
			"keep both as they are as evidence; if the store was restored and then written to, restore a backup of at most %d entries and recover again", fork.At)}
	case isDamage, isConflict:
		return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: "keep store and source as they are as evidence, and bring another source"}
	case errors.Is(err, recovery.ErrNothingLost):
		return cli.Hint(err, "start it: keytraild --dir %s", d.Path)
	case errors.Is(err, recovery.ErrEnded):
		return cli.Hint(err, "start the successor; an ended log never signs again")
	}
	return err
}

func warnUnasked(stderr io.Writer, unasked error) {
	if unasked != nil {
		fmt.Fprintf(stderr, "keytrail: note: too few witnesses answered, so that they may know more; the log asks them again before it signs: %s\n", printable(unasked.Error()))
	}
}

func (a *app) printRecovered(w io.Writer, d *logdir.Dir, r *recovery.Recovered) error {
	if a.json {
		return printJSON(w, map[string]any{
			"from": r.From, "to": r.To, "root": fmt.Sprintf("%x", r.Root), "signed": r.Signed, "erased": r.Erased, "unpublished_left": r.Left,
		})
	}
	if r.To == r.From {
		fmt.Fprintf(w, "nothing was missing: the log has %d entries\n", r.To)
	} else {
		fmt.Fprintf(w, "brought back entries %d to %d, %d of them without payload\n", r.From, r.To-1, r.Erased)
	}
	fmt.Fprintf(w, "size %d root %x\n", r.To, r.Root)
	if r.Left > 0 {
		fmt.Fprintf(w, "the source holds %d entries more, which nobody has signed; before the log starts --unpublished brings them back too\n", r.Left)
	}
	fmt.Fprintf(w, "start it: keytraild --dir %s\n", d.Path)
	return nil
}

func (a *app) endLog(ctx context.Context, d *logdir.Dir, f recoverFlags, stdout, stderr io.Writer) (err error) {
	s, err := openStopped(d, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	e := recovery.Succession{Old: d, Store: s.store, Ledger: s.ledger, Dir: f.successor, Ask: s.ask(), Now: time.Now(), OnFatal: cli.OnFatal("keytrail")}
	if f.last != "" {
		if e.LastCheckpoint, err = readInput(f.last, checkpoint.MaxNoteSize); err != nil {
			return err
		}
	}
	done, err := e.Run(ctx)
	if short, ok := errors.AsType[*recovery.ShortError](err); ok {
		return cli.Hint(err, "%s shows no checkpoint of it; get the newest one that anyone holds, and give it as --last-checkpoint", short.Who)
	}
	if err != nil {
		return explainRecovery(err, d)
	}
	warnUnasked(stderr, done.Unasked)
	return a.printEnded(stdout, d, f.successor, done)
}

func (a *app) printEnded(w io.Writer, d *logdir.Dir, dir string, e *recovery.Ended) error {
	if a.json {
		return printJSON(w, map[string]any{
			"origin": e.Origin, "signed": e.Signed.Size, "kept": e.Kept.Size, "successor": e.Successor, "dir": dir,
			"statement": filepath.Join(dir, recovery.PredecessorStatement),
		})
	}
	fmt.Fprintf(w, "the log %s has ended: it signed %d entries, %d of them are kept\n", e.Origin, e.Signed.Size, e.Kept.Size)
	fmt.Fprintf(w, "its successor is %s in %s\n", e.Successor, dir)
	fmt.Fprintf(w, "give to verifiers:   %s and %s\n", filepath.Join(dir, "policy"), filepath.Join(dir, recovery.PredecessorStatement))
	for _, k := range e.Keys {
		fmt.Fprintf(w, "give to witnesses:   keytrail-witness enroll --dir WITNESS %s\n", k)
	}
	if filepath.IsAbs(d.Config.Ledger) {
		fmt.Fprintf(w, "the old ledger was %s; before the first start move the new one out of %s too, and name it in config.yaml\n",
			d.Config.Ledger, filepath.Join(dir, "signer"))
	}
	fmt.Fprintf(w, "serve it with:       keytraild --dir %s\n", dir)
	return nil
}
