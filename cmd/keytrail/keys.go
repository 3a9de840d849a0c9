package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/cmd/internal/newkey"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/keystore"
)

func (a *app) keygenCommand() *cobra.Command {
	var name, out string
	cmd := &cobra.Command{
		Use:   "keygen --name NAME --type TYPE -o FILE",
		Short: "make a private key, and print its public key",
		Long: `keygen makes a private key for a log or a witness and prints its public key, a vkey. The
secret is in FILE, which its owner alone can read; a file that exists is refused. Types:

  ed25519           a log's Ed25519 key
  mldsa44           an ML-DSA-44 key (FIPS 204), of a log or a witness
  ed25519-cosigner  a witness's Ed25519 key

With --pkcs11 the key is made inside of a PKCS#11 token and never leaves it; FILE holds its
address and its public key, by which a key that was swapped in the token is noticed. The PIN
stands in a file of its own, mode 0600. Tokens sign with Ed25519 only. This needs a build
with PKCS#11 (make build-pkcs11).`,
		Example: `  keytrail keygen --name log.example.com/keys --type ed25519 -o new.key
  keytrail keygen --name log.example.com/keys --type ed25519 -o new.key \
      --pkcs11 'pkcs11:token=keytrail;object=log?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keytrail/pin'`,
		Args: cobra.NoArgs,
	}
	source := newkey.Flags(cmd.Flags(), newkey.Types{
		"ed25519": checkpoint.TypeEd25519, "mldsa44": checkpoint.TypeMLDSA44, "ed25519-cosigner": checkpoint.TypeEd25519Cosignature,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkpoint.CheckName(name); err != nil {
			return cli.Usage("--name: %v", err)
		}
		// Before a key is made in a token for nothing.
		if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fmt.Errorf("writing %s: %w", out, fs.ErrExist)
			}
			return cli.Hint(err, "name a new file; a key is never overwritten")
		}
		k, err := source.Key(name)
		if err != nil {
			return err
		}
		if err := keystore.Write(out, k); err != nil {
			return err
		}
		return a.printKey(cmd.OutOrStdout(), out, k.Signer.VerifierKey())
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "the key's name: the log's origin, or the witness's name (required)")
	f.StringVarP(&out, "output", "o", "", "file to make (required)")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

func (a *app) printKey(w io.Writer, file string, v checkpoint.VerifierKey) error {
	if a.json {
		return printJSON(w, map[string]string{"file": file, "vkey": v.String()})
	}
	_, err := fmt.Fprintln(w, v)
	return err
}

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "list, add and retire the keys of a log",
		Long: `A log signs each checkpoint with all of its keys: one Ed25519 and one ML-DSA-44 key, and
while one is rotated, the new one besides. A rotation is

  1. keytrail key add         makes the new key and adds it to DIR/policy
  2. witnesses take it        keytrail-witness enroll VKEY
  3. restart keytraild        it signs with both keys from now on
  4. verifiers get DIR/policy which has both keys
  5. keytrail key retire      of the old key, with keytraild stopped; start it again
  6. witnesses drop it        keytrail-witness remove ORIGIN --key VKEY

Between 3 and 5 verifiers with the old policy and with the new one both verify what the log
gives out. Run the commands as the user that keytraild runs as.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyListCommand(), a.keyAddCommand(), a.keyRetireCommand())
	return cmd
}

func (a *app) keyListCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "list --dir DIR",
		Short: "list the keys of a log",
		Long: `list shows the keys that sign, those that are retired, and those that are listed in
DIR/policy without a file here. --json has the public keys. The server may be running.`,
		Example: `  keytrail key list --dir /var/lib/keytrail`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := logdir.Load(dir)
			if err != nil {
				return err
			}
			keys, err := d.ListKeys()
			if err != nil {
				return err
			}
			return a.printKeys(cmd.OutOrStdout(), keys)
		},
	}
	dirFlag(cmd, &dir)
	return cmd
}

func (a *app) printKeys(w io.Writer, keys []logdir.KeyInfo) error {
	if a.json {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, k := range keys {
			if err := enc.Encode(map[string]string{
				"state": string(k.State), "id": fmt.Sprintf("%08x", k.Key.ID()), "type": k.Key.Type().String(),
				"file": k.File, "pkcs11": k.URI, "vkey": k.Key.String(),
			}); err != nil {
				return fmt.Errorf("printing JSON: %w", err)
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STATE\tID\tTYPE\tFILE\tTOKEN")
	for _, k := range keys {
		fmt.Fprintf(t, "%s\t%08x\t%s\t%s\t%s\n", k.State, k.Key.ID(), k.Key.Type(), orDash(k.File), orDash(k.URI))
	}
	return t.Flush()
}

// orDash fills the place of what is not there.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

func (a *app) keyAddCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "add --dir DIR (--type TYPE | --file FILE)",
		Short: "make a log sign with another key, too",
		Long: `add makes a key, or copies one that keytrail keygen made (destroy its file then), into
DIR/keys and adds its line to DIR/policy; everything else in the policy stays as it is. It
prints the public key. The log signs with it from the next start of keytraild on, beside
the keys that it has. At most four keys sign at a time.`,
		Example: `  keytrail key add --dir /var/lib/keytrail --type ed25519
  keytrail key add --dir /var/lib/keytrail --file new.key`,
		Args: cobra.NoArgs,
	}
	source := newkey.Flags(cmd.Flags(), newkey.Types{"ed25519": checkpoint.TypeEd25519, "mldsa44": checkpoint.TypeMLDSA44})
	source.FileFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := logdir.Load(dir)
		if err != nil {
			return err
		}
		k, err := source.Key(d.Config.Origin)
		if err != nil {
			return err
		}
		// A log with a key that cannot be reached does not start.
		if err := k.Check(); err != nil {
			return err
		}
		path, err := d.AddKey(k)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "made %s; the log signs with it from the next start of keytraild on\n", path)
		fmt.Fprintf(cmd.ErrOrStderr(), "next: let witnesses enroll the key, restart keytraild, give %s/policy to verifiers\n", dir)
		return a.printKey(cmd.OutOrStdout(), path, k.Signer.VerifierKey())
	}
	dirFlag(cmd, &dir)
	return cmd
}

func (a *app) keyRetireCommand() *cobra.Command {
	var dir string
	var lost bool
	cmd := &cobra.Command{
		Use:   "retire --dir DIR KEYID|FILE",
		Short: "make a log sign no more with a key",
		Long: `retire moves the file of a key, named by its id or its file's name, to DIR/keys/retired,
where it does not sign. keytraild must be stopped. It refuses the last key of an algorithm,
and one whose successor has not signed the published checkpoint yet.

The key's line stays in DIR/policy, because receipts of its time carry no other signature of
its algorithm. Whoever gets hold of the file can still sign what this policy accepts, where
no witnesses are demanded: destroy the file when the rotation is over. If the key was
stolen, take its line out of the policy by hand, give the policy out, and have receipts of
its time made anew with keytrail receipt.

A key whose token is gone cannot sign an overlap: add its successor, and retire it with
--lost. Verifiers that know this key alone need the new policy then.`,
		Example: `  keytrail key retire --dir /var/lib/keytrail d4fb6bb4
  keytrail key retire --dir /var/lib/keytrail ed25519.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.retireKey(cmd.Context(), dir, args[0], lost, cmd.OutOrStdout())
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&lost, "lost", false, "the key cannot sign any more: do without an overlap")
	return cmd
}

func (a *app) retireKey(ctx context.Context, dir, what string, lost bool, stdout io.Writer) error {
	d, err := logdir.Load(dir)
	if err != nil {
		return err
	}
	path, err := d.RetireKey(ctx, what, lost)
	switch {
	case errors.Is(err, storage.ErrLocked):
		return cli.Hint(err, "stop keytraild first")
	case errors.Is(err, logdir.ErrNotPublished):
		return cli.Hint(err, "start keytraild with the new key and let it publish, then stop it and try again")
	case errors.Is(err, fs.ErrNotExist):
		return cli.Hint(err, "see the ids and files with: keytrail key list --dir %s", dir)
	case err != nil:
		return err
	}
	if a.json {
		return printJSON(stdout, map[string]string{"file": path})
	}
	_, err = fmt.Fprintf(stdout, "moved to %s; its line stays in %s/policy for the receipts of its time\n", path, dir)
	return err
}
