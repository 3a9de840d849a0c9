// Package logdir lays out the directory of a log: its configuration, private keys, signer's
// ledger, store, and what is derived from the store.
//
//	config.yaml   configuration, for people to edit
//	policy        the log's public keys as a tlog-policy, to be given to whoever verifies
//	keys/         private keys, one file each, 0600
//	signer/       the signer's ledger
//	store/        tree and payloads
//	index/        the writer's memory; can be deleted while the log is stopped
//	views/        what lists and histories read; can be deleted while the log is stopped
//
// Init makes a directory, Load reads one; neither opens store or ledger for long. Private
// keys leave this package only as signers, which do not print them.
package logdir

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// maxFile bounds the files that are read whole, in bytes.
const maxFile = 1 << 20

// keyFiles are the private keys, in the order in which they sign.
var keyFiles = []string{"ed25519.key", "mldsa44.key"}

// Dir is a log's directory.
type Dir struct {
	Path    string
	Config  Config
	Signers []*checkpoint.SignerKey
	Policy  string
}

// Store is the path of the store.
func (d *Dir) Store() string { return filepath.Join(d.Path, "store") }

// Index is the path of the writer's memory.
func (d *Dir) Index() string { return filepath.Join(d.Path, "index") }

// Views is the path of the views.
func (d *Dir) Views() string { return filepath.Join(d.Path, "views") }

// Ledger is the path of the signer's ledger.
func (d *Dir) Ledger() string { return d.file(d.Config.Ledger) }

// TLS returns the configured files, with their whole paths.
func (d *Dir) TLS() TLS {
	t := d.Config.TLS
	return TLS{Cert: d.file(t.Cert), Key: d.file(t.Key), ClientCA: d.file(t.ClientCA)}
}

// file is the path of a configured file; none stays none.
func (d *Dir) file(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.Path, path)
}

// Keys returns the log's public keys.
func (d *Dir) Keys() []checkpoint.VerifierKey {
	keys := make([]checkpoint.VerifierKey, len(d.Signers))
	for i, s := range d.Signers {
		keys[i] = s.VerifierKey()
	}
	return keys
}

// Init makes the directory of a new log: keys, policy, ledger, empty store, configuration.
// It refuses a directory that holds anything (fs.ErrExist). The configuration is written
// last, so that what a broken-off Init leaves is no log.
func Init(dir, origin string) (*Dir, error) {
	if err := checkpoint.CheckName(origin); err != nil {
		return nil, fmt.Errorf("origin %q: %w", origin, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking into %s: %w", dir, err)
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("making a log in %s: the directory is not empty: %w", dir, fs.ErrExist)
	}
	d := &Dir{Path: dir, Config: DefaultConfig(origin)}
	for _, sub := range []string{"", "keys", "signer"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("making a log in %s: %w", dir, err)
		}
	}
	if err := d.makeKeys(origin); err != nil {
		return nil, err
	}
	if err := ledger.Create(d.Ledger(), origin); err != nil {
		return nil, err
	}
	s, err := pebblestore.Create(d.Store(), pebblestore.Options{})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, fmt.Errorf("closing the new store: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "policy"), []byte(d.Policy), 0o644); err != nil {
		return nil, err
	}
	b, err := d.Config.encode()
	if err != nil {
		return nil, err
	}
	return d, writeFile(filepath.Join(dir, configFile), b, 0o600)
}

func (d *Dir) makeKeys(origin string) error {
	for i, generate := range []func(string, io.Reader) (*checkpoint.SignerKey, error){
		checkpoint.GenerateEd25519, checkpoint.GenerateMLDSA44,
	} {
		k, err := generate(origin, rand.Reader)
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		if err := writeFile(filepath.Join(d.Path, "keys", keyFiles[i]), []byte(k.Encode()+"\n"), 0o600); err != nil {
			return err
		}
		d.Signers = append(d.Signers, k)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Public keys of the log %s, as a tlog-policy (c2sp.org/tlog-policy).\n", origin)
	fmt.Fprintf(&b, "# Whoever verifies its receipts needs this file, and should get it on a trusted way.\n")
	for _, s := range d.Signers {
		fmt.Fprintf(&b, "log %s\n", s.VerifierKey())
	}
	fmt.Fprintf(&b, "quorum none\n")
	if _, err := policy.Parse([]byte(b.String())); err != nil {
		return fmt.Errorf("writing the policy: %w", err)
	}
	d.Policy = b.String()
	return nil
}

// Load reads the directory of a log. A directory that is none is fs.ErrNotExist, private
// keys that others can read are fs.ErrPermission.
func Load(dir string) (*Dir, error) {
	d := &Dir{Path: dir}
	b, err := readFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, fmt.Errorf("reading the log's configuration: %w", err)
	}
	if d.Config, err = parseConfig(b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, configFile), err)
	}
	for _, name := range keyFiles {
		k, err := readKey(filepath.Join(dir, "keys", name))
		if err != nil {
			return nil, err
		}
		if k.Name() != d.Config.Origin {
			return nil, fmt.Errorf("key %s is named %q, the log's origin is %q", name, k.Name(), d.Config.Origin)
		}
		d.Signers = append(d.Signers, k)
	}
	p, err := readFile(filepath.Join(dir, "policy"))
	if err != nil {
		return nil, fmt.Errorf("reading the log's policy: %w", err)
	}
	d.Policy = string(p)
	if err := d.checkPolicy(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, "policy"), err)
	}
	return d, nil
}

// checkPolicy checks that whoever uses the policy accepts what this log signs.
func (d *Dir) checkPolicy() error {
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return err
	}
	listed := p.LogKeys(d.Config.Origin)
	for _, k := range d.Keys() {
		found := false
		for _, l := range listed {
			found = found || l.Equal(k)
		}
		if !found {
			return fmt.Errorf("the log's %v key %s is not in it", k.Type(), k)
		}
	}
	return nil
}

func readKey(path string) (*checkpoint.SignerKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading a private key: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("reading private key %s: %w: its mode is %04o, others can read it; make it 0600 and consider the key exposed",
			path, fs.ErrPermission, perm)
	}
	b, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a private key: %w", err)
	}
	k, err := checkpoint.ParseSignerKey(string(bytes.TrimSuffix(b, []byte("\n"))))
	if err != nil {
		return nil, fmt.Errorf("reading private key %s: %w", path, err)
	}
	return k, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, nil
}

// writeFile makes a new file, synced, in a directory that is synced too.
func writeFile(path string, b []byte, perm fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
