// Package logdir lays out the directory of a log: its configuration, private keys, signer's
// ledger, store, and what is derived from the store.
//
//	config.yaml   configuration, for people to edit
//	policy        the log's public keys as a tlog-policy, to be given to whoever verifies
//	keys/         private keys, one file each, 0600; all of them sign
//	keys/retired/ keys that signed once
//	signer/       the signer's ledger
//	store/        tree and payloads
//	index/        the writer's memory; can be deleted while the log is stopped
//	nodes/        hashes for proofs; can be deleted while the log is stopped
//	views/        what lists and histories read; can be deleted while the log is stopped
//
// Init makes a directory, Load reads one; neither opens store or ledger for long. Private
// keys leave this package only as signers, which do not print them.
package logdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// maxFile bounds the files that are read whole, in bytes.
const maxFile = 1 << 20

// Dir is a log's directory.
type Dir struct {
	Path    string
	Config  Config
	Signers []*checkpoint.SignerKey
	Policy  string

	private []keystore.Key
}

func (d *Dir) policyFile() string { return filepath.Join(d.Path, "policy") }

func (d *Dir) keyDir() string { return filepath.Join(d.Path, "keys") }

// Store is the path of the store.
func (d *Dir) Store() string { return filepath.Join(d.Path, "store") }

// Index is the path of the writer's memory.
func (d *Dir) Index() string { return filepath.Join(d.Path, "index") }

// Nodes is the path of the hashes for proofs.
func (d *Dir) Nodes() string { return filepath.Join(d.Path, "nodes") }

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

// Init makes the directory of a new log: keys, policy, ledger, empty store, configuration.
// It refuses a directory that holds anything (fs.ErrExist). The configuration is written
// last, so that what a broken-off Init leaves is no log.
func Init(dir, origin string) (*Dir, error) { return Make(dir, origin, nil) }

// Make is Init with the OnFatal of pebblestore.Options, without which a sync that fails can
// only crash the process.
func Make(dir, origin string, onFatal func(error)) (*Dir, error) {
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
	s, err := pebblestore.Create(d.Store(), pebblestore.Options{OnFatal: onFatal})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, fmt.Errorf("closing the new store: %w", err)
	}
	if err := writeFile(d.policyFile(), []byte(d.Policy), 0o644); err != nil {
		return nil, err
	}
	b, err := d.Config.encode()
	if err != nil {
		return nil, err
	}
	return d, writeFile(filepath.Join(dir, configFile), b, 0o600)
}

// Prepare makes the directory of a log that exists already, as from a backup: configuration,
// policy, an empty store, and places for keys and ledger, which it does not make. Text is
// the configuration as it is to be written, empty for one that Prepare writes. The directory
// is there, empty, and for its caller alone. OnFatal is that of pebblestore.Options.
func Prepare(dir string, c Config, text []byte, policy string, onFatal func(error)) (*Dir, error) {
	d := &Dir{Path: dir, Config: c, Policy: policy}
	for _, sub := range []string{"keys", "signer"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("making a log in %s: %w", dir, err)
		}
	}
	s, err := pebblestore.Create(d.Store(), pebblestore.Options{OnFatal: onFatal})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, fmt.Errorf("closing the new store: %w", err)
	}
	if err := writeFile(d.policyFile(), []byte(policy), 0o644); err != nil {
		return nil, err
	}
	if len(text) == 0 {
		if text, err = c.encode(); err != nil {
			return nil, err
		}
	}
	return d, writeFile(filepath.Join(dir, configFile), text, 0o600)
}

// Load reads the directory of a log. A directory that is none is fs.ErrNotExist, private
// keys that others can read are fs.ErrPermission. Keys in a token are not reached for: see
// CheckKeys.
func Load(dir string) (*Dir, error) {
	d, err := LoadPublic(dir)
	if err != nil {
		return nil, err
	}
	if err := d.readKeys(); err != nil {
		return nil, err
	}
	if err := d.checkPolicy(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.policyFile(), err)
	}
	return d, nil
}

// LoadPublic is Load without the private keys: who only reads the log needs none. The
// directory has no Signers then.
func LoadPublic(dir string) (*Dir, error) {
	d := &Dir{Path: dir}
	b, err := readFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, fmt.Errorf("reading the log's configuration: %w", err)
	}
	if d.Config, err = ParseConfig(b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, configFile), err)
	}
	p, err := readFile(d.policyFile())
	if err != nil {
		return nil, fmt.Errorf("reading the log's policy: %w", err)
	}
	d.Policy = string(p)
	return d, nil
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
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
