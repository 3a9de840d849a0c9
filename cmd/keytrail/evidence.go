package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// evidenceFlags say whose signatures count.
type evidenceFlags struct {
	policy  string
	logKeys []string
	origin  string
}

func (a *app) verifyEvidence() *cobra.Command {
	var f evidenceFlags
	cmd := &cobra.Command{
		Use:   "evidence FILE… --policy FILE",
		Short: "verify evidence of misbehaviour",
		Long: `evidence proves from a file of keytrail, keytrail monitor or keytrail-witness, and from the
public keys, that a log or a witness misbehaved. What the file says of itself counts for
nothing; its signatures and proofs do. The policy's quorum is not asked for: signatures
convict whoever made them.

Exit status 3: misbehaviour is proven. 1: the file proves nothing, and what is missing is
named. Of a log whose origin is not the name of its key, as other people's logs may have,
give the key and the origin instead of a policy, or besides one that names witnesses.`,
		Example: `  keytrail verify evidence fork.json --policy policy
  keytrail verify evidence fork.json --log-key sum.golang.org+033de0ae+Ac4z… \
    --origin 'go.sum database tree'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, keys, err := f.load()
			if err != nil {
				return err
			}
			proven := 0
			for _, path := range args {
				v := convict(path, p, keys)
				if v.Verdict == "proven" {
					proven++
				}
				if err := a.printConviction(cmd.OutOrStdout(), v); err != nil {
					return err
				}
			}
			switch {
			case proven > 0:
				return &cli.Error{Err: errors.New("misbehaviour is proven"), Exit: cli.ExitTampered, Silent: true}
			default:
				return &cli.Error{Err: errors.New("nothing is proven"), Exit: cli.ExitError, Silent: true}
			}
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy) with the keys of logs and witnesses")
	cmd.Flags().StringArrayVar(&f.logKeys, "log-key", nil, "a log's public key (vkey), besides those of the policy")
	cmd.Flags().StringVar(&f.origin, "origin", "", "the origin of the log of --log-key (default the key's name)")
	return cmd
}

func (f *evidenceFlags) load() (*policy.Policy, []verify.LogKey, error) {
	if f.policy == "" && len(f.logKeys) == 0 {
		return nil, nil, cli.Usage("give --policy or --log-key: without keys nothing can be proven")
	}
	if f.origin != "" && len(f.logKeys) == 0 {
		return nil, nil, cli.Usage("--origin belongs to --log-key")
	}
	var keys []verify.LogKey
	for _, vkey := range f.logKeys {
		k, err := checkpoint.ParseVerifierKey(vkey)
		if err != nil {
			return nil, nil, cli.Usage("--log-key: %v", err)
		}
		l := verify.LogKey{Origin: f.origin, Key: k}
		if l.Origin == "" {
			l.Origin = k.Name()
		}
		if err := checkpoint.CheckOrigin(l.Origin); err != nil {
			return nil, nil, cli.Usage("--origin: %v", err)
		}
		keys = append(keys, l)
	}
	if f.policy == "" {
		return nil, keys, nil
	}
	p, err := loadPolicy(f.policy)
	return p, keys, err
}

// conviction is what --json prints for one file.
type conviction struct {
	File      string   `json:"file"`
	Verdict   string   `json:"verdict"`
	Kind      string   `json:"kind"`
	Detail    string   `json:"detail"`
	Origin    string   `json:"origin,omitempty"`
	Log       bool     `json:"log_convicted"`
	Witnesses []string `json:"witnesses_convicted,omitempty"`
	Proven    []string `json:"proven,omitempty"`
	NotProven []string `json:"not_proven,omitempty"`
}

// convict verifies one file.
func convict(path string, p *policy.Policy, keys []verify.LogKey) conviction {
	v := conviction{File: path, Verdict: "unverifiable"}
	data, err := readInput(path, verify.MaxEvidenceSize)
	if err != nil {
		v.Kind, v.Detail = string(verify.ReasonMalformed), err.Error()
		return v
	}
	c, err := verify.Evidence(data, p, keys...)
	var unverifiable *verify.UnverifiableError
	switch {
	case errors.As(err, &unverifiable):
		v.Kind, v.Detail = string(unverifiable.Reason), unverifiable.Detail
		return v
	case err != nil:
		v.Detail = err.Error()
		return v
	}
	v.Verdict, v.Kind, v.Origin, v.Log, v.Witnesses = "proven", string(c.Kind), c.Origin, c.Log, c.Witnesses
	v.Detail = fmt.Sprintf("the log %s %s", c.Origin, c.Detail)
	if !c.Log {
		v.Detail = "a witness cosigned two contradicting trees of the log " + c.Origin
	}
	v.Proven, v.NotProven = c.Proven(), c.NotProven()
	return v
}

func (a *app) printConviction(w io.Writer, v conviction) error {
	if a.json {
		return printJSON(w, v)
	}
	fmt.Fprintf(w, "%s: %s\n  %s: %s\n", printable(v.File), v.Verdict, v.Kind, printable(v.Detail))
	for _, s := range v.Proven {
		fmt.Fprintf(w, "  proven      %s\n", printable(s))
	}
	for _, s := range v.NotProven {
		fmt.Fprintf(w, "  not proven  %s\n", printable(s))
	}
	return nil
}
