package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/fsck"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// dirFlag adds --dir to a command.
func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "the log's directory (required)")
	_ = cmd.MarkFlagRequired("dir")
}

func (a *app) initCommand() *cobra.Command {
	var dir, origin string
	cmd := &cobra.Command{
		Use:   "init --dir DIR --origin ORIGIN",
		Short: "make a new log",
		Long: `init makes the directory of a new log: its keys (Ed25519 and ML-DSA-44), its signer's
ledger, an empty store, a configuration, and DIR/policy, the file with which others verify
what the log gives out. ORIGIN names the log for ever; a host and path that you own is
usual. A directory that holds anything is refused.`,
		Example: `  keytrail init --dir /var/lib/keytrail --origin log.example.com/keys`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkpoint.CheckName(origin); err != nil {
				return cli.Usage("--origin: %v", err)
			}
			d, err := logdir.Make(dir, origin, cli.OnFatal("keytrail"))
			if errors.Is(err, fs.ErrExist) {
				return cli.Hint(err, "choose an empty directory; an existing log is never overwritten")
			}
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"dir": dir, "origin": origin, "policy": d.Policy})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made the log %s in %s\n", origin, dir)
			fmt.Fprintf(cmd.OutOrStdout(), "serve it with:       keytraild --dir %s\n", dir)
			fmt.Fprintf(cmd.OutOrStdout(), "give to verifiers:   %s/policy\n", dir)
			return nil
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVar(&origin, "origin", "", "the log's name (required)")
	_ = cmd.MarkFlagRequired("origin")
	return cmd
}

func (a *app) fsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck (--dir DIR | --url URL --policy FILE)",
		Short: "check a log from the first byte to the last: a stopped log's store, or a log from outside",
		Long: `With --dir fsck derives every leaf from its record, every node and root from the leaves, and
every key's chain from the events, and holds the published checkpoint and the signer's
ledger against them. It also holds every block of the store's files that none of this reads,
old rows among them, against its checksum. It writes nothing. The server must be stopped. With --tree it leaves the
records out: leaves, nodes and roots alone take a fraction of the time.

With --url it does the same from outside, over the tile API or from a mirror's directory: it
verifies the checkpoint under the policy and holds every entry and every tile that is
served against the tree that the leaves give. With --payloads and access to the log's gRPC
server it also checks every record and every key's chain, of up to 4 million keys.

Exit status 3 means that the log contradicts itself or what it has signed, 1 that something
could not be read.`,
		Example: `  keytrail fsck --dir /var/lib/keytrail
  keytrail fsck --dir /var/lib/keytrail --tree
  keytrail fsck --url https://log.example.com/ --policy policy
  keytrail fsck --url https://log.example.com/ --policy policy --payloads --server log.example.com:7410`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if f.url != "" {
				return a.fsckURL(cmd.Context(), &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return a.fsck(cmd.Context(), &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", "a stopped log's directory")
	fl.StringVar(&f.url, "url", "", "prefix of a log's tile API, or a directory with a mirror")
	fl.StringVar(&f.policy, "policy", "", "with --url: the trust policy's file (tlog-policy)")
	fl.BoolVar(&f.tree, "tree", false, "with --dir: check the tree alone, not the records")
	fl.BoolVar(&f.payloads, "payloads", false, "with --url: check records and key histories too, read from --server")
	return cmd
}

// fsckCache is the block cache of a store that is read once, from its beginning to its end.
const fsckCache = 8 << 20

func (a *app) fsck(ctx context.Context, f *fsckFlags, stdout, stderr io.Writer) (err error) {
	d, err := logdir.Load(f.dir)
	if err != nil {
		return err
	}
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{ReadOnly: true, CacheBytes: fsckCache})
	switch {
	case errors.Is(err, storage.ErrLocked):
		return cli.Hint(err, "stop keytraild first")
	case errors.Is(err, storage.ErrCorrupt):
		return a.printReport(stdout, &fsck.Report{Problems: []fsck.Problem{{Where: "store", What: err.Error()}}}, f.tree)
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	opts := fsck.Options{Origin: d.Config.Origin, Keys: d.Keys(), CheckpointCell: log.CheckpointCell, TreeOnly: f.tree}
	if isTerminal(stderr) {
		bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(stderr), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription("checking"), progressbar.OptionShowCount(), progressbar.OptionShowIts())
		opts.Progress = func(done, total uint64) {
			bar.ChangeMax64(int64(total))
			_ = bar.Set64(int64(done))
		}
		defer func() { _ = bar.Finish() }()
	}
	var lost error
	if opts.Signed, err = signed(d); errors.Is(err, ledger.ErrLocked) || errors.Is(err, fs.ErrPermission) {
		return err
	} else if err != nil { // missing, damaged or of another log; the store is checked all the same
		lost = err
	}
	r, err := fsck.Check(ctx, s, opts)
	if err != nil {
		return err
	}
	if lost != nil {
		r.Problems = append(r.Problems, fsck.Problem{Where: "signer's ledger", What: lost.Error()})
	}
	if _, err := recovery.Predecessor(d.Path); err != nil {
		r.Problems = append(r.Problems, fsck.Problem{Where: "predecessor's statement", What: err.Error()})
	}
	err = s.VerifyTables(ctx, func(file, what string) {
		r.Problems = append(r.Problems, fsck.Problem{Where: file, What: what})
	})
	if err != nil {
		return err
	}
	return a.printReport(stdout, r, f.tree)
}

// signed reads the signer's ledger.
func signed(d *logdir.Dir) (*ledger.State, error) {
	l, err := ledger.Open(d.Ledger(), d.Config.Origin)
	if err != nil {
		return nil, err
	}
	st := l.State()
	return &st, l.Close()
}

func (a *app) printReport(w io.Writer, r *fsck.Report, treeOnly bool) error {
	if a.json {
		if err := printJSON(w, r); err != nil {
			return err
		}
	} else {
		if treeOnly {
			fmt.Fprintln(w, "records    not checked")
		}
		printReportText(w, r)
		if len(r.Problems) == 0 {
			fmt.Fprintln(w, "clean")
		}
	}
	return reportError(r, "keep the store as it is as evidence, and bring back a good copy")
}

func printReportText(w io.Writer, r *fsck.Report) {
	fmt.Fprintf(w, "entries    %d of %d checked, %d payloads erased, %d keys\n", r.Entries, r.Size, r.Erased, r.Keys)
	fmt.Fprintf(w, "root       %s\n", r.Root)
	fmt.Fprintf(w, "published  %d entries, %d good signatures\n", r.Published, r.Signatures)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "PROBLEM    %s\n", printable(p.String()))
	}
	if r.Unlisted > 0 {
		fmt.Fprintf(w, "PROBLEM    and %d more\n", r.Unlisted)
	}
}

// reportError is the verdict on a report; nil when it is clean.
func reportError(r *fsck.Report, hint string) error {
	if len(r.Problems) == 0 {
		return nil
	}
	n, s := uint64(len(r.Problems))+r.Unlisted, "s"
	if n == 1 {
		s = ""
	}
	err := fmt.Errorf("the log has %d problem%s", n, s)
	return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: hint}
}

func (a *app) ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "show the signer's ledger, or give it a newer checkpoint",
		Long: `The signer's ledger holds the largest tree that the log has signed, so that it never signs
a smaller or different one. adopt gives it a checkpoint of this log: use it when the
ledger was lost or set back, with the newest checkpoint that anyone holds.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir string
	show := &cobra.Command{
		Use:     "show --dir DIR",
		Short:   "show the largest tree signed",
		Example: `  keytrail ledger show --dir /var/lib/keytrail`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := logdir.Load(dir)
			if err != nil {
				return err
			}
			st, err := signed(d)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"size": st.Size, "root": fmt.Sprintf("%x", st.Root)})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "size %d root %x\n", st.Size, st.Root)
			return nil
		},
	}
	adopt := &cobra.Command{
		Use:   "adopt --dir DIR CHECKPOINT",
		Short: "raise the ledger to a checkpoint that this log has signed",
		Long: `adopt raises the signer's ledger to a checkpoint of this log, and makes the ledger if it
is lost. The log's own signature is enough, witnesses need not have cosigned it. The
checkpoint must be the newest that exists: the log can sign a second history
if it has signed a larger tree than this one. Ask everyone who keeps its checkpoints.`,
		Example: `  keytrail ledger adopt --dir /var/lib/keytrail newest.checkpoint`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return adoptCheckpoint(dir, args[0], cmd.OutOrStdout())
		},
	}
	dirFlag(show, &dir)
	dirFlag(adopt, &dir)
	cmd.AddCommand(show, adopt)
	return cmd
}

func adoptCheckpoint(dir, path string, stdout io.Writer) (err error) {
	d, err := logdir.Load(dir)
	if err != nil {
		return err
	}
	note, err := readInput(path, checkpoint.MaxNoteSize)
	if err != nil {
		return err
	}
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return err
	}
	// What counts is what the log has signed, not what witnesses made of it.
	cp, _, err := recovery.OpenNote(note, d.Config.Origin, p.LogKeys(d.Config.Origin))
	if err != nil {
		return fmt.Errorf("verifying %s: %w", path, err)
	}
	if _, err := os.Lstat(filepath.Join(d.Path, recovery.FinalStatement)); err == nil {
		return cli.Hint(fmt.Errorf("%w: see %s", recovery.ErrEnded, filepath.Join(d.Path, recovery.FinalStatement)),
			"start the successor; an ended log never signs again")
	}
	l, err := ledger.Open(d.Ledger(), d.Config.Origin)
	if errors.Is(err, fs.ErrNotExist) {
		if err := ledger.Create(d.Ledger(), d.Config.Origin); err != nil {
			return err
		}
		l, err = ledger.Open(d.Ledger(), d.Config.Origin)
	}
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return cli.Hint(err, "stop keytraild first")
	case errors.Is(err, ledger.ErrCorrupt):
		return cli.Hint(err, "move the damaged file away and adopt again")
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Advance(ledger.State{Size: cp.Size, Root: cp.Root}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "the ledger holds size %d root %x\n", cp.Size, cp.Root)
	return err
}
