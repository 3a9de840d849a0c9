package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
)

// receiptSuffix is the name's end of the receipts in a directory.
const receiptSuffix = ".tlog-proof"

func (a *app) verifyReceipt() *cobra.Command {
	var f verifyFlags
	var quiet bool
	cmd := &cobra.Command{
		Use:   "receipt (FILE | DIR)… --policy FILE",
		Short: "verify receipts",
		Long: `receipt verifies receipts, each by itself; a directory stands for the files below it whose
names end in .tlog-proof. The signatures of a checkpoint are verified once however many
receipts hold it. With --quiet only what is not verified is printed, and the counts.`,
		Example: `  keytrail verify receipt destroyed.tlog-proof --policy policy
  keytrail verify receipt --quiet receipts/ --policy policy`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.load()
			if err != nil {
				return err
			}
			v := verdicts{app: a, out: cmd.OutOrStdout(), flags: &f}
			if err := v.receipts(args, p, quiet); err != nil {
				return err
			}
			if quiet {
				v.printCounts()
			}
			return v.end()
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only what is not verified, and the counts")
	return cmd
}

func (v *verdicts) printCounts() {
	if v.app.json {
		_ = printJSON(v.out, map[string]int{"verified": v.verified, "tampered": v.tampered, "unverifiable": v.unverifiable})
		return
	}
	fmt.Fprintf(v.out, "%d verified, %d tampered, %d unverifiable\n", v.verified, v.tampered, v.unverifiable)
}

// receipts adds the verdicts on files and on the receipts below directories.
func (v *verdicts) receipts(args []string, p *policy.Policy, quiet bool) error {
	verifier := verify.NewVerifier(p)
	one := func(path string) error {
		b, err := readInput(path, receipt.MaxSize)
		if err != nil {
			v.unreadable(path, err)
			return nil
		}
		if quiet {
			proof, err := verifier.CheckReceipt(b)
			return v.check(path, proof.Checkpoint, p, err)
		}
		res, err := verifier.Receipt(b)
		if err == nil {
			err = v.flags.checkAge(res, p)
		}
		return v.add(path, res, err)
	}
	for _, arg := range args {
		if info, err := os.Stat(arg); err != nil || !info.IsDir() {
			if err := one(arg); err != nil {
				return err
			}
			continue
		}
		if err := v.below(arg, one); err != nil {
			return err
		}
	}
	return nil
}

// below calls one with each receipt below a directory, in the order of their names.
func (v *verdicts) below(dir string, one func(path string) error) error {
	found := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			v.unreadable(path, err)
			return nil
		case e.IsDir() || filepath.Ext(path) != receiptSuffix:
			return nil
		}
		found = true
		return one(path)
	})
	if err == nil && !found {
		v.unreadable(dir, errors.New("holds no file whose name ends in "+receiptSuffix))
	}
	return err
}
