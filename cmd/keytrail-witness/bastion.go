package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/witness/bastion"
)

// The key for bastions is one of its own and cosigns nothing: https-bastion prefers that, and
// what goes wrong with it harms nobody who trusts the witness. DIR/bastion.key holds it as
// PKCS #8 in PEM.

const keyBlock = "PRIVATE KEY"

func (l location) bastionFile() string { return filepath.Join(l.dir, "bastion.key") }

// bastionKey reads the key for bastions, and makes it at its first use.
func (l location) bastionKey() (ed25519.PrivateKey, error) {
	path := l.bastionFile()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l.makeBastionKey()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key for bastions: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, cli.Hint(fmt.Errorf("reading the key for bastions %s: %w: its mode is %04o, others can read it", path, fs.ErrPermission, perm),
			"make it 0600, and consider the key exposed")
	}
	b, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the key for bastions: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("reading the key for bastions %s: it holds no PEM block %q", path, keyBlock)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key for bastions %s: it is not PKCS #8", path)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the key for bastions %s: it is not an Ed25519 key", path)
	}
	return key, nil
}

func (l location) makeBastionKey() (ed25519.PrivateKey, error) {
	// A directory that is no witness's gets no key: the path is a mistake.
	if _, err := os.Stat(l.store()); err != nil {
		return nil, l.hint(fmt.Errorf("making a key for bastions: %w", err))
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for bastions: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making a key for bastions: %w", err)
	}
	f, err := os.OpenFile(l.bastionFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a key for bastions: %w", err)
	}
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("making a key for bastions: %w", err), os.Remove(l.bastionFile()))
	}
	return key, nil
}

// backends returns a backend for each bastion, which all answer what s does.
func backends(l location, o serveOptions, s *http.Server, logger *slog.Logger) ([]*bastion.Backend, error) {
	if len(o.bastions) == 0 {
		return nil, nil
	}
	key, err := l.bastionKey()
	if err != nil {
		return nil, err
	}
	var all []*bastion.Backend
	for i, address := range o.bastions {
		if slices.Contains(o.bastions[:i], address) {
			return nil, cli.Usage("--bastion %s is there twice", address)
		}
		b, err := bastion.New(bastion.Config{Address: address, Key: key, Server: s, Logger: logger})
		if err != nil {
			return nil, cli.Usage("--bastion: %v", err)
		}
		all = append(all, b)
	}
	return all, nil
}

func bastionKeyCommand(l *location) *cobra.Command {
	return &cobra.Command{
		Use:   "bastion-key --dir DIR",
		Short: "Show the hash by which bastions know the witness, and make its key if there is none",
		Long: `Bastion-key prints the SHA-256 hash of the public key with which the witness connects to
bastions, in hexadecimal: the bastion's operator allows it, and logs reach the witness at
https://BASTION/HASH. The key is in DIR/bastion.key, is made when there is none, and cosigns
nothing. The witness may be running.`,
		Example: `  keytrail-witness bastion-key --dir /var/lib/witness`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.require(); err != nil {
				return err
			}
			key, err := l.bastionKey()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), bastion.Hash(key.Public().(ed25519.PublicKey)))
			return err
		},
	}
}
