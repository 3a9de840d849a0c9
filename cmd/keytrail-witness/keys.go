package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/cmd/internal/newkey"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
)

// makeKeys makes the keys of a new witness.
func (l location) makeKeys(name string) ([]keystore.Key, error) {
	var keys []keystore.Key
	for _, n := range []struct {
		file string
		typ  checkpoint.KeyType
	}{{"ed25519.key", checkpoint.TypeEd25519Cosignature}, {"mldsa44.key", checkpoint.TypeMLDSA44}} {
		k, err := keystore.Generate(name, n.typ)
		if err != nil {
			return nil, err
		}
		if err := keystore.Write(filepath.Join(l.keyDir(), n.file), k); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// keys reads the private keys, which all cosign.
func (l location) keys() ([]keystore.Key, error) {
	keys, err := keystore.ReadDir(l.keyDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Hint(err, "make a witness with: keytrail-witness init --dir %s --name NAME", l.dir)
	}
	return keys, err
}

// checkKeys reaches the tokens of the keys that are in one.
func (l location) checkKeys() error {
	keys, err := l.keys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := k.Check(); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(l.keyDir(), k.File), err)
		}
	}
	return nil
}

func keyCommand(l *location) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, add and retire the witness's own keys",
		Long: `A witness cosigns with all of its keys: one Ed25519 and one ML-DSA-44 key, and while one
is rotated, the new one besides. A rotation is

  1. keytrail-witness key add     makes the new key
  2. restart the witness          it cosigns with both keys from now on
  3. policies take the new key    as a witness of its own, in a group with the old one:
                                    witness w1-old VKEY URL
                                    witness w1-new VKEY URL
                                    group w1 any w1-old w1-new
                                  so that the two count once
  4. keytrail-witness key retire  of the old key, with the witness stopped; start it again

Who verifies receipts of before 3 keeps the old key in the policy.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(keyListCommand(l), keyAddCommand(l), keyRetireCommand(l))
	return cmd
}

func keyListCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "list --dir DIR",
		Short: "List the witness's keys",
		Long: `List shows the keys that cosign and those that are retired; keytrail-witness list shows the
public keys of a witness. It may be running.`,
		Example: `  keytrail-witness key list --dir /var/lib/witness`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.require(); err != nil {
				return err
			}
			return l.listKeys(cmd.OutOrStdout())
		},
	}
}

func (l location) listKeys(w io.Writer) error {
	keys, err := l.keys()
	if err != nil {
		return err
	}
	retired, err := keystore.ReadRetired(l.keyDir())
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STATE\tID\tTYPE\tFILE\tTOKEN")
	for i, k := range append(slices.Clone(keys), retired...) {
		state, file := "signs", filepath.Join("keys", k.File)
		if i >= len(keys) {
			state, file = "retired", filepath.Join("keys", keystore.RetiredDir, k.File)
		}
		v, token := k.Signer.VerifierKey(), k.URI
		if token == "" {
			token = "-"
		}
		fmt.Fprintf(t, "%s\t%08x\t%s\t%s\t%s\n", state, v.ID(), v.Type(), printable(file), token)
	}
	return t.Flush()
}

func keyAddCommand(l *location) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add --dir DIR (--type TYPE | --file FILE)",
		Short: "Cosign with another key, too",
		Long: `Add makes a key, or copies one that keytrail keygen made (destroy its file then), into
DIR/keys and prints its public key. The witness cosigns with it from its next start on,
beside the keys that it has. At most four keys cosign at a time.

With --pkcs11 the key is made inside of a PKCS#11 token and never leaves it; the file holds
its address and its public key. The PIN stands in a file of its own, mode 0600. Tokens sign
with Ed25519 only. This needs a build with PKCS#11 (make build-pkcs11).`,
		Example: `  keytrail-witness key add --dir /var/lib/witness --type ed25519
  keytrail-witness key add --dir /var/lib/witness --type ed25519 \
      --pkcs11 'pkcs11:token=witness;object=w1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/witness/pin'`,
		Args: cobra.NoArgs,
	}
	source := newkey.Flags(cmd.Flags(), newkey.Types{"ed25519": checkpoint.TypeEd25519Cosignature, "mldsa44": checkpoint.TypeMLDSA44})
	source.FileFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := l.require(); err != nil {
			return err
		}
		keys, err := l.keys()
		if err != nil {
			return err
		}
		k, err := source.Key(keys[0].Signer.Name())
		if err != nil {
			return err
		}
		path, err := l.addKey(keys, k)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "made %s; the witness cosigns with it from its next start on\n", path)
		_, err = fmt.Fprintln(cmd.OutOrStdout(), k.Signer.VerifierKey())
		return err
	}
	return cmd
}

// addKey writes the file of one more key and returns its path.
func (l location) addKey(keys []keystore.Key, k keystore.Key) (string, error) {
	v := k.Signer.VerifierKey()
	if !v.Type().Timestamped() {
		return "", fmt.Errorf("adding a key: %v keys are for logs; make one of the type ed25519-cosigner", v.Type())
	}
	// A witness with a key that cannot be reached does not start.
	if err := k.Check(); err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	k.File = keystore.FileName(v)
	if err := keystore.CheckSet(append(slices.Clone(keys), k)); err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	path := filepath.Join(l.keyDir(), k.File)
	return path, keystore.Write(path, k)
}

func keyRetireCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "retire --dir DIR KEYID|FILE",
		Short: "Cosign with a key no more",
		Long: `Retire moves the file of a key, named by its id or its file's name, to DIR/keys/retired,
where it does not cosign. The witness must be stopped. The last key of an algorithm is
refused. Before, what was cosigned last of each log is cosigned with the keys that stay,
so that the witness knows its own state without the old key. Destroy the file when the
rotation is over.`,
		Example: `  keytrail-witness key retire --dir /var/lib/witness ed25519.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := l.require(); err != nil {
				return err
			}
			path, err := l.retireKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "moved to %s\n", path)
			return err
		},
	}
}

func (l location) retireKey(ctx context.Context, what string) (path string, err error) {
	keys, err := l.keys()
	if err != nil {
		return "", err
	}
	k, err := keystore.Find(keys, what)
	if err != nil {
		return "", cli.Hint(fmt.Errorf("retiring a key: %w", err), "see the ids and files with: keytrail-witness key list --dir %s", l.dir)
	}
	rest := slices.DeleteFunc(slices.Clone(keys), func(o keystore.Key) bool { return o.File == k.File })
	if err := keystore.CheckSet(rest); err != nil {
		return "", fmt.Errorf("retiring key %s: %w", k.File, err)
	}
	// Opening makes the cosignatures that are missing of the keys that stay, and keeps a
	// witness from starting with the old one meanwhile. The old one signs nothing: it may be
	// in a token that is lost.
	w, err := l.open(ctx, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := keystore.Retire(l.keyDir(), k.File); err != nil {
		return "", err
	}
	return filepath.Join(l.keyDir(), keystore.RetiredDir, k.File), nil
}
