package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/witness"
)

func initCommand(l *location) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "init --dir DIR --name NAME",
		Short: "Make a witness: keys and an empty store, and print its public keys",
		Example: `  keytrail-witness init --dir /var/lib/witness --name witness.example.com/w1
  keytrail-witness init --dir /var/lib/witness --counter /mnt/other/counter --name witness.example.com/w1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.require(); err != nil {
				return err
			}
			if err := checkpoint.CheckName(name); err != nil {
				return cli.Usage("--name: %v", err)
			}
			keys, err := l.make(cmd.Context(), name)
			if err != nil {
				return err
			}
			for _, k := range keys {
				fmt.Fprintln(cmd.OutOrStdout(), k.Signer.VerifierKey())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the witness's name, best a URL without https://, such as witness.example.com/w1 (required)")
	_ = cmd.MarkFlagRequired("name")
	return cmd
}

// with runs fn with the witness: the one that runs, else with the store, which no other
// process has then.
func (l *location) with(ctx context.Context, fn func(register) error) (err error) {
	if err := l.require(); err != nil {
		return err
	}
	if r, ok := runningAt(*l); ok {
		return fn(r)
	}
	w, err := l.open(ctx, nil)
	if errors.Is(err, storage.ErrLocked) {
		// It may have begun to run since.
		if r, ok := runningAt(*l); ok {
			return fn(r)
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return fn(w)
}

func enrollCommand(l *location) *cobra.Command {
	var origin, contact, list string
	var perDay uint32
	cmd := &cobra.Command{
		Use:   "enroll --dir DIR (VKEY… | --log-list FILE)",
		Short: "Serve logs from now on, or take further keys of a log",
		Long: `Enroll makes the witness serve the logs of the given public keys (Ed25519 or ML-DSA-44, as
the log's operator hands them out). Several keys of one name are of one log; a key of a
log that is enrolled is added to its keys, for the overlap of a rotation.

With --log-list it takes a list in the format of the witness network. A list changes no
keys: when it names another key for an enrolled log, nothing of it is taken.

The witness may be running; what is enrolled is on stable storage when the command ends.`,
		Example: `  keytrail-witness enroll --dir /var/lib/witness log.example.com/keys+d4fb6bb4+AdVz…
  keytrail-witness enroll --dir /var/lib/witness --log-list log-list.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (list == "") {
				return cli.Usage("state public keys or --log-list, one of the two")
			}
			if list != "" {
				if origin != "" || contact != "" || perDay != 0 {
					return cli.Usage("--origin, --contact and --qpd are in the list")
				}
				return enrollList(cmd.Context(), l, list, cmd.OutOrStdout())
			}
			var logs []logJSON
			for _, arg := range args {
				k, err := checkpoint.ParseVerifierKey(arg)
				if err != nil {
					return cli.Usage("%.60q: %v", arg, err)
				}
				log := witness.Log{Origin: origin, Keys: []checkpoint.VerifierKey{k}, PerDay: perDay, Contact: contact}
				if origin == "" {
					log.Origin = k.Name()
				}
				if err := log.Validate(); err != nil {
					return cli.Usage("%.60q: %v", arg, err)
				}
				logs = append(logs, toJSON(log))
			}
			return l.with(cmd.Context(), func(w register) error {
				_, err := w.enroll(cmd.Context(), enrolment{Logs: logs})
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&origin, "origin", "", "first line of the log's checkpoints, where it is not the name of the keys")
	f.Uint32Var(&perDay, "qpd", 0, "cosignatures that the log may have a day, 0 for no limit")
	f.StringVar(&contact, "contact", "", "how to reach the log's operator")
	f.StringVar(&list, "log-list", "", "file in the witness network's logs/v0 format")
	return cmd
}

func enrollList(ctx context.Context, l *location, path string, stdout io.Writer) error {
	b, err := readFile(path, witness.MaxList)
	if err != nil {
		return fmt.Errorf("reading the log list: %w", err)
	}
	logs, err := witness.ParseLogList(b)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	e := enrolment{Listed: true}
	for _, log := range logs {
		e.Logs = append(e.Logs, toJSON(log))
	}
	return l.with(ctx, func(w register) error {
		done, err := w.enroll(ctx, e)
		if err == nil {
			fmt.Fprintf(stdout, "%d logs in the list, %d new\n", len(logs), done.Added)
		}
		return err
	})
}

func listCommand(l *location) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list --dir DIR",
		Short: "List the enrolled logs and what was cosigned of each",
		Example: `  keytrail-witness list --dir /var/lib/witness
  keytrail-witness list --dir /var/lib/witness --json | jq '.logs[].origin'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.with(cmd.Context(), func(w register) error {
				all, err := w.list(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
				}
				for _, k := range all.Keys {
					fmt.Fprintf(cmd.OutOrStdout(), "witness %s\n", k)
				}
				for _, log := range all.Logs {
					printLog(cmd.OutOrStdout(), log)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func printLog(out io.Writer, l logJSON) {
	fmt.Fprintf(out, "\nlog %s\n", printable(l.Origin))
	for _, k := range l.Keys {
		fmt.Fprintf(out, "  vkey %s\n", k)
	}
	if l.PerDay != 0 {
		fmt.Fprintf(out, "  qpd %d\n", l.PerDay)
	}
	if l.Contact != "" {
		fmt.Fprintf(out, "  contact %s\n", printable(l.Contact))
	}
	if c := l.Cosigned; c == nil {
		fmt.Fprintln(out, "  never cosigned")
	} else {
		fmt.Fprintf(out, "  cosigned size %d root %s at %s\n", c.Size, c.Root, c.Time.Format(time.RFC3339))
	}
}

// printable replaces what would move the cursor or hide text on a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func removeCommand(l *location) *cobra.Command {
	var vkey string
	cmd := &cobra.Command{
		Use:   "remove --dir DIR ORIGIN [--key VKEY]",
		Short: "Serve a log no more, or trust one of its keys no more",
		Long: `Remove makes the witness refuse a log, or with --key one of its keys, as at the end of a
rotation. What was cosigned is kept: a log that is enrolled again goes on from there.
The witness may be running.`,
		Example: `  keytrail-witness remove --dir /var/lib/witness log.example.com/keys
  keytrail-witness remove --dir /var/lib/witness log.example.com/keys --key log.example.com/keys+d4fb6bb4+AdVz…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := checkpoint.ParseVerifierKey(vkey); vkey != "" && err != nil {
				return cli.Usage("--key: %v", err)
			}
			return l.with(cmd.Context(), func(w register) error {
				return w.remove(cmd.Context(), removal{Origin: args[0], Key: vkey})
			})
		},
	}
	cmd.Flags().StringVar(&vkey, "key", "", "remove this key alone")
	return cmd
}

func evidenceCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "evidence --dir DIR [FILE]",
		Short: "List contradictions that logs signed, or write one of them to standard output",
		Long: `Evidence lists the files that prove that a log signed two trees of one size. With the
name of one it writes it to standard output, to be handed to anyone who has the log's
public keys. The witness may be running.`,
		Example: `  keytrail-witness evidence --dir /var/lib/witness
  keytrail-witness evidence --dir /var/lib/witness 3f5a…-8-91c0….json > fork.json
  keytrail verify evidence fork.json --policy policy.txt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := l.require(); err != nil {
				return err
			}
			names, err := witness.EvidenceFiles(l.evidence())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return nil
			}
			if filepath.Base(args[0]) != args[0] || !strings.HasSuffix(args[0], ".json") {
				return cli.Usage("%q is no name of a file of evidence", args[0])
			}
			f, err := os.Open(filepath.Join(l.evidence(), args[0]))
			if err != nil {
				return fmt.Errorf("reading evidence: %w", err)
			}
			defer f.Close()
			_, err = io.Copy(cmd.OutOrStdout(), f)
			return err
		},
	}
}

func adoptCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "adopt --dir DIR [CHECKPOINT…]",
		Short: "Go on with a store that went back, or without the counter file",
		Long: `Adopt accepts the store as it is, and writes the counter file anew. The files are
checkpoints that this witness cosigned, the newest that anyone holds of each log (ask the
logs for /checkpoint): the state of their logs is moved up to them. Where a larger tree
was cosigned than any of them shows, the witness may cosign another tree of that size:
if that is possible, make a new witness with new keys instead. The witness must be stopped.`,
		Example: `  keytrail-witness adopt --dir /var/lib/witness log-a.checkpoint log-b.checkpoint`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := l.require(); err != nil {
				return err
			}
			var notes [][]byte
			for _, path := range args {
				b, err := readFile(path, maxCheckpoint)
				if err != nil {
					return fmt.Errorf("reading a checkpoint: %w", err)
				}
				notes = append(notes, b)
			}
			c, err := l.config(nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Store.Close()) }()
			return witness.Adopt(cmd.Context(), c, l.counterFile(), notes...)
		},
	}
}
