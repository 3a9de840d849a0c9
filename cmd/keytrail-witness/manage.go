package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness"
)

func initCommand(l *location) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "init --dir DIR --name NAME",
		Short: "Make a witness: keys and an empty store, and print its public keys",
		Args:  cobra.NoArgs,
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
				fmt.Fprintln(cmd.OutOrStdout(), k.VerifierKey())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the witness's name, best a URL without https://, such as witness.example.com/w1 (required)")
	_ = cmd.MarkFlagRequired("name")
	return cmd
}

// with runs fn with the opened witness, which no other process has.
func (l *location) with(ctx context.Context, fn func(*opened) error) (err error) {
	if err := l.require(); err != nil {
		return err
	}
	w, err := l.open(ctx, nil)
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
keys: when it names another key for an enrolled log, nothing of it is taken.`,
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
			var logs []witness.Log
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
				logs = append(logs, log)
			}
			return l.with(cmd.Context(), func(w *opened) error {
				return w.Enroll(cmd.Context(), logs...)
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
	return l.with(ctx, func(w *opened) error {
		added, err := w.EnrollListed(ctx, logs)
		if err == nil {
			fmt.Fprintf(stdout, "%d logs in the list, %d new\n", len(logs), added)
		}
		return err
	})
}

func listCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "list --dir DIR",
		Short: "List the enrolled logs and what was cosigned of each",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.with(cmd.Context(), func(w *opened) error {
				for _, k := range w.Keys() {
					fmt.Fprintf(cmd.OutOrStdout(), "witness %s\n", k)
				}
				for _, s := range w.Logs() {
					printLog(cmd.OutOrStdout(), s)
				}
				return nil
			})
		},
	}
}

func printLog(out io.Writer, s witness.Status) {
	fmt.Fprintf(out, "\nlog %s\n", s.Origin)
	for _, k := range s.Keys {
		fmt.Fprintf(out, "  vkey %s\n", k)
	}
	if s.PerDay != 0 {
		fmt.Fprintf(out, "  qpd %d\n", s.PerDay)
	}
	if s.Contact != "" {
		fmt.Fprintf(out, "  contact %s\n", s.Contact)
	}
	if s.Time == 0 {
		fmt.Fprintln(out, "  never cosigned")
		return
	}
	fmt.Fprintf(out, "  cosigned size %d root %x at %s\n", s.Size, s.Root, time.Unix(int64(s.Time), 0).UTC().Format(time.RFC3339))
}

func removeCommand(l *location) *cobra.Command {
	var vkey string
	cmd := &cobra.Command{
		Use:   "remove --dir DIR ORIGIN [--key VKEY]",
		Short: "Serve a log no more, or trust one of its keys no more",
		Long: `Remove makes the witness refuse a log, or with --key one of its keys, as at the end of a
rotation. What was cosigned is kept: a log that is enrolled again goes on from there.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if vkey == "" {
				return l.with(cmd.Context(), func(w *opened) error { return w.Remove(cmd.Context(), args[0]) })
			}
			k, err := checkpoint.ParseVerifierKey(vkey)
			if err != nil {
				return cli.Usage("--key: %v", err)
			}
			return l.with(cmd.Context(), func(w *opened) error { return w.RemoveKey(cmd.Context(), args[0], k) })
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
if that is possible, make a new witness with new keys instead.`,
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
