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
	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/policy"
)

// backupFlags are those of keytrail backup.
type backupFlags struct {
	dir, url, policy, config string
	verifyAll, serverGiven   bool
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup (--dir DIR | --url URL --policy FILE) TARGET",
		Short: "back a log up while it runs, or when it is stopped",
		Long: `backup copies a log into the directory TARGET, and the next time only what is new. With --dir
it reads the log's server when that runs, at the configured addresses or at --url and
--server, and the log's store when it is stopped. With --url it reads a server from elsewhere,
and --config names the configuration that is to be kept. Reading payloads needs the same access
as appending: a client certificate where the server demands one, else none.

TARGET then holds what is published: leaves, payloads, the signed checkpoint with its
cosignatures, configuration and policy. All that is new is read back after writing and held
against the signed root, with --verify-all everything that is there. Nothing replaces the last
finished backup before that, and a run that was cut off is run again. TARGET is plain files,
private ones 0600, for other tools to ship away; ship it while no backup runs. It is also a
mirror with payloads: keytrail fsck --url and keytrail recover --from read it.

Payloads that the log has erased are erased in TARGET too. The log is asked for them in each
run, and looks at all of its payloads for that. Copies that were shipped away, snapshots and
freed blocks of the disk are not reached: let them expire in time.

TARGET never holds private keys, which are backed up by their own means, nor the signer's
ledger. The ledger remembers the largest tree that was signed. One that comes back from a
backup has forgotten the last signatures, and the log would sign a second history over
them: that is how logs fork.

Exit status 3 means that the log has left its history or contradicts its checkpoint, or that
files of TARGET are not what was written.`,
		Example: `  keytrail backup --dir /var/lib/keytrail /backup/keytrail
  keytrail backup --url https://log.example.com/ --server log.example.com:7410 --policy policy \
    --tls-cert me.pem --tls-key me.key /backup/keytrail
  keytrail restore --check /backup/keytrail`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.serverGiven = cmd.Flags().Changed("server") || os.Getenv("KEYTRAIL_SERVER") != ""
			if err := f.check(); err != nil {
				return err
			}
			return a.backup(cmd.Context(), &f, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", "the log's directory")
	fl.StringVar(&f.url, "url", "", "prefix of the log's tile API; --server is its gRPC address")
	fl.StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy); with --dir the log's own")
	fl.StringVar(&f.config, "config", "", "without --dir: the log's config.yaml, to be kept")
	fl.BoolVar(&f.verifyAll, "verify-all", false, "read all of the backup back, not only what is new")
	return cmd
}

// check holds which flags go together.
func (f *backupFlags) check() error {
	switch {
	case f.dir == "" && f.url == "":
		return cli.Usage("give --dir, or --url and --policy")
	case f.dir == "" && f.policy == "":
		return cli.Usage("--url needs --policy: only it says whose signatures count")
	case f.dir != "" && f.config != "":
		return cli.Usage("--config goes without --dir, which has its own")
	}
	return nil
}

// contents reads the files that are kept with the tree. The directory is nil without --dir.
func (f *backupFlags) contents() (c backup.Contents, d *logdir.Dir, err error) {
	config, trust := f.config, f.policy
	if f.dir != "" {
		if d, err = logdir.LoadPublic(f.dir); err != nil {
			return c, nil, err
		}
		config = filepath.Join(f.dir, "config.yaml")
		if trust == "" {
			trust = filepath.Join(f.dir, "policy")
		}
	}
	for _, file := range []struct {
		path string
		to   *string
	}{{config, &c.Config}, {trust, &c.Policy}} {
		if file.path == "" {
			continue
		}
		b, err := readInput(file.path, backup.MaxContent)
		if err != nil {
			return c, nil, err
		}
		*file.to = string(b)
	}
	if d == nil && c.Config != "" {
		if _, err := logdir.ParseConfig([]byte(c.Config)); err != nil {
			return c, nil, cli.Usage("--config: %v", err)
		}
	}
	return c, d, nil
}

func (a *app) backup(ctx context.Context, f *backupFlags, target string, stdout, stderr io.Writer) (err error) {
	contents, d, err := f.contents()
	if err != nil {
		return err
	}
	trust, err := policy.Parse([]byte(contents.Policy))
	if err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	src, err := a.openBackupSource(ctx, f, d)
	if err != nil {
		return a.explainBackup(err)
	}
	defer func() { err = errors.Join(err, src.close()) }()
	if contents.Predecessor, err = predecessorOf(src, d); err != nil {
		return err
	}
	progress, finish := progressOn(stderr)
	defer finish()
	begin := time.Now()
	res, err := backup.Run(ctx, target, backup.Options{
		Log: src.log, Policy: trust, Service: src.service, Contents: contents, VerifyAll: f.verifyAll, Progress: progress,
	})
	if err != nil {
		if ctx.Err() != nil {
			return cli.Hint(errors.New("interrupted"), "run it again: it goes on from what is there, and the last finished backup is whole")
		}
		return a.explainBackup(err)
	}
	finish()
	unpublished, err := src.unpublished(ctx)
	if err != nil {
		return a.explainBackup(err)
	}
	return a.printBackup(stdout, stderr, target, res, unpublished, time.Since(begin))
}

// backupJSON is what --json prints.
type backupJSON struct {
	Origin       string  `json:"origin"`
	Size         uint64  `json:"tree_size"`
	Root         string  `json:"root"`
	Added        uint64  `json:"added"`
	Erased       uint64  `json:"payloads_erased"`
	Dropped      uint64  `json:"payloads_dropped"`
	VerifiedFrom uint64  `json:"verified_from"`
	Unpublished  uint64  `json:"unpublished"`
	Seconds      float64 `json:"seconds"`
}

func (a *app) printBackup(stdout, stderr io.Writer, target string, r *backup.Result, unpublished uint64, took time.Duration) error {
	if unpublished > 0 {
		fmt.Fprintf(stderr, "keytrail: note: %d entries are acknowledged and not published, and so not in the backup; keytrail log-info says what publication waits for\n", unpublished)
	}
	if a.json {
		return printJSON(stdout, backupJSON{
			Origin: r.Origin, Size: r.Size, Root: fmt.Sprintf("%x", r.Root), Added: r.Added, Erased: r.Erased, Dropped: r.Dropped,
			VerifiedFrom: r.VerifiedFrom, Unpublished: unpublished, Seconds: took.Seconds(),
		})
	}
	fmt.Fprintf(stdout, "%s: %d entries, %d new, root %x\n", printable(r.Origin), r.Size, r.Added, r.Root)
	if r.Erased > 0 {
		fmt.Fprintf(stdout, "the log has erased %d payloads, %d of them since the last backup\n", r.Erased, r.Dropped)
	}
	fmt.Fprintf(stdout, "read back and verified: %d entries\n", r.Size-r.VerifiedFrom)
	_, err := fmt.Fprintf(stdout, "finished in %s after %v; private keys and the signer's ledger are not in it\n", target, took.Round(time.Millisecond))
	return err
}

// explainBackup turns an error of a backup into what a person needs.
func (a *app) explainBackup(err error) error {
	_, unverifiable := errors.AsType[*verify.UnverifiableError](err)
	switch {
	case errors.Is(err, mirror.ErrDamaged):
		return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: "the log is not to blame; keep what you have, and make a new backup in another directory"}
	case errors.Is(err, mirror.ErrLocked):
		return cli.Hint(errors.New("another process reads or writes this backup"), "wait for it")
	case errors.Is(err, backup.ErrUnfinished):
		return cli.Hint(err, "name the directory that keytrail backup wrote; one that was cut off is finished by running keytrail backup again")
	case errors.Is(err, fs.ErrExist):
		return cli.Hint(err, "name a directory of its own")
	case unverifiable:
		return cli.Hint(err, "only what the policy covers is backed up; keytrail log-info says what publication waits for")
	case errors.Is(err, fs.ErrPermission):
		return cli.Hint(err, "run it as who may read the log and write the backup; private files must be readable by their owner only")
	}
	return a.explainRemote(err)
}
