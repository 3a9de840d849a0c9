package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
)

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVarP(out, "output", "o", "", "file to write, - for standard output (required)")
	_ = cmd.MarkFlagRequired("output")
}

func (a *app) receiptCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "receipt INDEX -o FILE",
		Short:   "fetch the receipt of an entry (.tlog-proof)",
		Long:    "receipt fetches a tlog-proof of a published entry. With the log's policy file it verifies\noffline, for as long as its signatures hold.",
		Example: `  keytrail receipt 17 -o destroyed.tlog-proof`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := parseIndex(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				res, err := c.GetReceipt(ctx, &rpc.GetReceiptRequest{Index: index})
				if err != nil {
					return err
				}
				return writeOutput(cmd.OutOrStdout(), out, res.GetReceipt())
			})
		},
	}
	outputFlag(cmd, &out)
	return cmd
}

func (a *app) checkpointCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "checkpoint -o FILE",
		Short:   "fetch the latest checkpoint",
		Long:    "checkpoint fetches the latest published checkpoint. Keep it: with a later consistency bundle\nit shows that the log has changed nothing that was in it.",
		Example: `  keytrail checkpoint -o 2026-11-22.checkpoint`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				res, err := c.GetCheckpoint(ctx, &rpc.GetCheckpointRequest{})
				if err != nil {
					return err
				}
				return writeOutput(cmd.OutOrStdout(), out, res.GetCheckpoint())
			})
		},
	}
	outputFlag(cmd, &out)
	return cmd
}

func (a *app) consistencyCommand() *cobra.Command {
	var out, from string
	cmd := &cobra.Command{
		Use:   "consistency --from FILE -o FILE",
		Short: "fetch proof that the log extends an earlier checkpoint",
		Long: `consistency fetches the latest checkpoint with the proof that its tree extends that of an
earlier checkpoint, in the form that witnesses take (c2sp.org/tlog-witness).`,
		Example: `  keytrail consistency --from 2026-11-22.checkpoint -o update`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			note, err := readInput(from, checkpoint.MaxNoteSize)
			if err != nil {
				return err
			}
			cp, _, err := checkpoint.ParseNote(note)
			if err != nil {
				return fmt.Errorf("reading %s: %w", from, err)
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				res, err := c.GetConsistencyProof(ctx, &rpc.GetConsistencyProofRequest{FromSize: cp.Size})
				if err != nil {
					return err
				}
				b := consistency.Bundle{OldSize: cp.Size, Checkpoint: res.GetCheckpoint()}
				for _, h := range res.GetHashes() {
					if len(h) != 32 {
						return fmt.Errorf("server sent a hash of %d bytes", len(h))
					}
					b.Hashes = append(b.Hashes, [32]byte(h))
				}
				return writeOutput(cmd.OutOrStdout(), out, b.Append(nil))
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the earlier checkpoint's file (required)")
	_ = cmd.MarkFlagRequired("from")
	outputFlag(cmd, &out)
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "verify receipts, consistency and evidence, offline",
		Long: `verify needs no server and no network: the file, and a policy with the log's public keys.
There are three verdicts: verified (exit status 0), tampered (3, with evidence), and
unverifiable (1): something that is needed is missing, and nothing is said. Evidence is
verified when it proves misbehaviour (3); else it is unverifiable (1).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.verifyReceipt(), a.verifyConsistency(), a.verifyEvidence(), a.verifyStatement())
	return cmd
}

// verifyFlags are common to receipts and bundles.
type verifyFlags struct {
	policy, evidence string
	// maxAge holds only when ageSet.
	maxAge time.Duration
	ageSet func() bool
}

func (f *verifyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy; required)")
	_ = cmd.MarkFlagRequired("policy")
	cmd.Flags().StringVar(&f.evidence, "evidence", "", "where to write evidence of tampering (JSON)")
	cmd.Flags().DurationVar(&f.maxAge, "max-age", 0, "demand that witnesses called the tree the newest at most so long ago, by this computer's clock")
	f.ageSet = func() bool { return cmd.Flags().Changed("max-age") }
}

// checkAge holds --max-age.
func (f *verifyFlags) checkAge(res *verify.Result, p *policy.Policy) error {
	if !f.ageSet() {
		return nil
	}
	return res.CheckAge(time.Now(), f.maxAge, p)
}

func (f *verifyFlags) load() (*policy.Policy, error) {
	if f.ageSet() && f.maxAge <= 0 {
		return nil, cli.Usage("--max-age: %v is no age", f.maxAge)
	}
	return loadPolicy(f.policy)
}

func loadPolicy(path string) (*policy.Policy, error) {
	b, err := readInput(path, policy.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading the policy %s: %w", path, err)
	}
	return p, nil
}

func (a *app) verifyConsistency() *cobra.Command {
	var f verifyFlags
	var from string
	cmd := &cobra.Command{
		Use:     "consistency FILE --from FILE --policy FILE",
		Short:   "verify that a log extends an earlier checkpoint",
		Example: `  keytrail verify consistency update --from 2026-11-22.checkpoint --policy policy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.load()
			if err != nil {
				return err
			}
			v := verdicts{app: a, out: cmd.OutOrStdout(), flags: &f}
			bundle, err := readInput(args[0], consistency.MaxSize)
			if err != nil {
				v.unreadable(args[0], err)
				return v.end()
			}
			old, err := readInput(from, checkpoint.MaxNoteSize)
			if err != nil {
				v.unreadable(from, err)
				return v.end()
			}
			res, err := verify.Consistency(bundle, old, p)
			if err == nil {
				err = f.checkAge(res, p)
			}
			if err := v.add(args[0], res, err); err != nil {
				return err
			}
			return v.end()
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "the earlier checkpoint's file (required)")
	_ = cmd.MarkFlagRequired("from")
	return cmd
}

// verdicts prints verdicts and remembers the worst.
type verdicts struct {
	app   *app
	out   io.Writer
	flags *verifyFlags
	// verified counts what check was given.
	verified, tampered, unverifiable int
}

// verdict is what --json prints for one file.
type verdict struct {
	File      string   `json:"file"`
	Verdict   string   `json:"verdict"`
	Kind      string   `json:"kind,omitempty"`
	Detail    string   `json:"detail,omitempty"`
	Proven    []string `json:"proven,omitempty"`
	NotProven []string `json:"not_proven,omitempty"`
	Event     any      `json:"event,omitempty"`
}

func (v *verdicts) unreadable(path string, err error) {
	v.unverifiable++
	v.print(verdict{File: path, Verdict: "unverifiable", Kind: string(verify.ReasonMalformed), Detail: err.Error()})
}

// check adds the verdict on a receipt of which nothing is printed when it is good.
func (v *verdicts) check(path string, s *verify.Signed, p *policy.Policy, err error) error {
	if err == nil && v.flags.ageSet() {
		_, err = s.CheckAge(time.Now(), v.flags.maxAge, p)
	}
	if err == nil {
		v.verified++
		return nil
	}
	return v.add(path, nil, err)
}

func (v *verdicts) add(path string, res *verify.Result, err error) error {
	var tampered *verify.TamperError
	var unverifiable *verify.UnverifiableError
	switch {
	case err == nil:
		v.print(verdict{File: path, Verdict: "verified", Proven: res.Proven(), NotProven: res.NotProven()})
	case errors.As(err, &tampered):
		v.tampered++
		v.print(verdict{File: path, Verdict: "tampered", Kind: string(tampered.Kind), Detail: tampered.Detail})
		return v.saveEvidence(tampered)
	case errors.As(err, &unverifiable):
		v.unverifiable++
		v.print(verdict{File: path, Verdict: "unverifiable", Kind: string(unverifiable.Reason), Detail: unverifiable.Detail})
	default:
		return err
	}
	return nil
}

// saveEvidence writes the first evidence found; it never replaces a file, which could be
// evidence too.
func (v *verdicts) saveEvidence(e *verify.TamperError) error {
	if v.flags.evidence == "" || v.tampered > 1 {
		return nil
	}
	f, err := os.OpenFile(v.flags.evidence, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the evidence: %w", err)
	}
	_, err = f.Write(e.Evidence())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the evidence: %w", err)
	}
	return nil
}

func (v *verdicts) print(d verdict) {
	if v.app.json {
		_ = printJSON(v.out, d)
		return
	}
	fmt.Fprintf(v.out, "%s: %s\n", printable(d.File), d.Verdict)
	if d.Detail != "" {
		fmt.Fprintf(v.out, "  %s: %s\n", d.Kind, printable(d.Detail))
	}
	for _, s := range d.Proven {
		fmt.Fprintf(v.out, "  proven      %s\n", printable(s))
	}
	for _, s := range d.NotProven {
		fmt.Fprintf(v.out, "  not proven  %s\n", printable(s))
	}
}

func (v *verdicts) end() error {
	switch {
	case v.tampered > 0:
		return &cli.Error{Err: errors.New("tampered"), Exit: cli.ExitTampered, Silent: true}
	case v.unverifiable > 0:
		return &cli.Error{Err: errors.New("unverifiable"), Exit: cli.ExitError, Silent: true}
	}
	return nil
}
