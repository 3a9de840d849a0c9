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

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client/backup"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/policy"
)

// restoreFlags are those of keytrail restore.
type restoreFlags struct {
	policy, ledger string
	check          bool
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore BACKUP DIR | restore --check BACKUP",
		Short: "make a log's directory from a backup, or try it and leave nothing",
		Long: `restore makes the directory of a log from what keytrail backup wrote: every entry at its
place, configuration and policy. It computes the tree from the entries, compares its root
with the backup's signed checkpoint, reads everything back as fsck does, and puts the
directory into its place last. DIR must not exist or be empty; a restore that was cut off
is run again.

The checkpoint is verified under --policy, whose quorum must have cosigned it, and which becomes
DIR/policy. Without it the backup's own policy is taken, which says that nothing is damaged,
and not that nobody has made another backup of it. The configuration is not signed: look at it.

What a backup does not hold is brought from elsewhere: the private keys, and the signer's ledger,
which knows the largest tree that the log has signed. --ledger FILE copies one that is not in
use; a configuration that names it outside of DIR finds it there. If it is lost, ask
everyone for the newest checkpoint: keytrail ledger adopt. A log whose ledger or witnesses
know more than the backup holds refuses to start, since signing would fork it; keytrail
recover fetches the rest from whoever has it. The index and the views are rebuilt by the
first start.

--check is the drill: all of it into a temporary directory (TMPDIR), which is removed.

Exit status 3 means that the backup is not what the log has signed.`,
		Example: `  keytrail restore --check /backup/keytrail --policy policy
  keytrail restore /backup/keytrail /var/lib/keytrail --policy policy --ledger /safe/ledger
  cp -p /safe/keys/*.key /var/lib/keytrail/keys/
  keytraild --dir /var/lib/keytrail`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.check && len(args) != 1:
				return cli.Usage("--check takes the backup, and no directory")
			case !f.check && len(args) != 2:
				return cli.Usage("give the backup and the directory to make")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.check {
				return a.drill(cmd.Context(), args[0], &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return a.restore(cmd.Context(), args[0], args[1], &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy)")
	fl.StringVar(&f.ledger, "ledger", "", "the file with the signer's ledger, which is copied")
	fl.BoolVar(&f.check, "check", false, "restore into a temporary directory, report, and remove it")
	return cmd
}

// drill restores into a directory that is removed.
func (a *app) drill(ctx context.Context, from string, f *restoreFlags, stdout, stderr io.Writer) (err error) {
	temp, err := os.MkdirTemp("", "keytrail-restore-")
	if err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	return a.restore(ctx, from, filepath.Join(temp, "log"), f, stdout, stderr)
}

func (a *app) restore(ctx context.Context, from, dir string, f *restoreFlags, stdout, stderr io.Writer) (err error) {
	b, err := backup.Open(ctx, from)
	if err != nil {
		return a.explainBackup(err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c := b.Contents()
	if f.policy != "" {
		given, err := readInput(f.policy, policy.MaxSize)
		if err != nil {
			return fmt.Errorf("reading the policy: %w", err)
		}
		c.Policy = string(given)
	}
	trust, err := policy.Parse([]byte(c.Policy))
	if err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	if _, err := verify.Checkpoint(b.Checkpoint(), trust); err != nil {
		return fmt.Errorf("verifying the backup's checkpoint: %w", err)
	}
	progress, finish := progressOn(stderr)
	defer finish()
	r := recovery.Restore{
		Dir: dir, Config: []byte(c.Config), Policy: []byte(c.Policy), Predecessor: []byte(c.Predecessor), Ledger: f.ledger,
		Source: &recovery.Source{Entries: b, Size: b.Size(), Checkpoint: b.Checkpoint()}, Progress: progress, Drill: f.check,
		OnFatal: cli.OnFatal("keytrail"),
	}
	begin := time.Now()
	done, err := r.Run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return cli.Hint(errors.New("interrupted"), "nothing was put into its place; run it again")
		}
		return a.explainRestore(err)
	}
	finish()
	took := time.Since(begin)
	if f.policy == "" {
		fmt.Fprintln(stderr, "keytrail: note: verified under the backup's own policy; --policy verifies it under yours")
	}
	return a.printRestored(stdout, b, dir, f, done, took)
}

// restoredJSON is what --json prints.
type restoredJSON struct {
	Origin     string   `json:"origin"`
	Size       uint64   `json:"tree_size"`
	Root       string   `json:"root"`
	Erased     uint64   `json:"payloads_erased"`
	Keys       uint64   `json:"keys"`
	Completed  string   `json:"backup_completed"`
	Dir        string   `json:"dir,omitempty"`
	LedgerSize *uint64  `json:"ledger_size,omitempty"`
	Missing    []string `json:"missing,omitempty"`
	Seconds    float64  `json:"seconds"`
}

func (a *app) printRestored(w io.Writer, b *backup.Backup, dir string, f *restoreFlags, r *recovery.Restored, took time.Duration) error {
	if a.json {
		v := restoredJSON{
			Origin: r.Origin, Size: r.Size, Root: fmt.Sprintf("%x", r.Root), Erased: r.Erased, Keys: r.Keys,
			Completed: b.Completed().Format(time.RFC3339), Seconds: took.Seconds(),
		}
		if r.Signed != nil {
			v.LedgerSize = &r.Signed.Size
		}
		if !f.check {
			v.Dir, v.Missing = dir, append([]string{filepath.Join(dir, "keys")}, r.Missing...)
		}
		return printJSON(w, v)
	}
	fmt.Fprintf(w, "%s: %d entries, %d of them without payload, %d keys; root %x, as signed\n", printable(r.Origin), r.Size, r.Erased, r.Keys, r.Root)
	fmt.Fprintf(w, "the backup was finished at %s\n", timeCell(b.Completed()))
	fmt.Fprintf(w, "restored and read back in %v: %.0f entries/s, %.1f MB/s of payloads\n",
		took.Round(time.Millisecond), float64(r.Size)/took.Seconds(), float64(r.Bytes)/1e6/took.Seconds())
	if r.Signed != nil && r.Signed.Size > r.Size {
		fmt.Fprintf(w, "the signer's ledger knows %d entries: the log will not start before the rest is back: keytrail recover --dir %s --from SOURCE\n", r.Signed.Size, dir)
	}
	if f.check {
		_, err := fmt.Fprintln(w, "nothing is left of it")
		return err
	}
	printToBring(w, dir, r)
	_, err := fmt.Fprintf(w, "then start it:       keytraild --dir %s\n", dir)
	return err
}

// printToBring says what the restored log still needs, and how.
func printToBring(w io.Writer, dir string, r *recovery.Restored) {
	fmt.Fprintf(w, "bring the keys:      cp -p SAFE/*.key %s/\n", filepath.Join(dir, "keys"))
	for _, path := range r.Missing {
		if path != r.Ledger {
			fmt.Fprintf(w, "bring, for TLS:      %s\n", printable(path))
			continue
		}
		fmt.Fprintf(w, "bring the ledger:    %s, mode 0600; only the one that the log used last\n", printable(path))
		fmt.Fprintf(w, "  if it is lost:     keytrail ledger adopt --dir %s CHECKPOINT, the newest that anyone holds, not the backup's\n", dir)
	}
}

// explainRestore turns an error of a restore into what a person needs.
func (a *app) explainRestore(err error) error {
	_, isDamage := errors.AsType[*recovery.DamageError](err)
	switch {
	case isDamage:
		return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: "nothing was put into its place; keep the backup as it is, and take another one"}
	case errors.Is(err, ledger.ErrLocked):
		return cli.Hint(err, "a server signs with this ledger: the log runs, or another one stands in its place; stop it first")
	case errors.Is(err, ledger.ErrOrigin):
		return cli.Hint(err, "give the ledger of this log")
	case errors.Is(err, recovery.ErrLedgerElsewhere):
		return cli.Hint(err, "put the ledger there, and restore without --ledger")
	case errors.Is(err, recovery.ErrEnded):
		return cli.Hint(err, "start the successor; an ended log never signs again")
	case errors.Is(err, recovery.ErrRestoring):
		return cli.Hint(err, "wait for it")
	case errors.Is(err, fs.ErrExist):
		return cli.Hint(err, "choose a directory that does not exist; an existing log is never overwritten")
	}
	return a.explainBackup(err)
}
