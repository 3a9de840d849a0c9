package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/statement"
)

func (a *app) verifyStatement() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "statement FILE --policy FILE",
		Short: "verify the final statement of a log that has ended",
		Long: `statement verifies the last words of a log that lost a part of what it had signed: which
log continues it, and with which keys. The policy is that of the log that ended.`,
		Example: `  keytrail verify statement predecessor.statement --policy old-policy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy(f.policy)
			if err != nil {
				return err
			}
			v := verdicts{app: a, out: cmd.OutOrStdout(), flags: &f}
			b, err := readInput(args[0], statement.MaxSize)
			if err != nil {
				v.unreadable(args[0], err)
				return v.end()
			}
			s, err := verify.Statement(b, p)
			if err == nil {
				v.print(verdict{File: args[0], Verdict: "verified", Proven: s.Proven(), NotProven: s.NotProven()})
				return nil
			}
			return errors.Join(v.add(args[0], nil, err), v.end())
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", "", "the policy of the log that ended (tlog-policy; required)")
	_ = cmd.MarkFlagRequired("policy")
	return cmd
}
