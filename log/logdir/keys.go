package logdir

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/keystore"
)

// Keys returns the log's public keys.
func (d *Dir) Keys() []checkpoint.VerifierKey {
	keys := make([]checkpoint.VerifierKey, len(d.Signers))
	for i, s := range d.Signers {
		keys[i] = s.VerifierKey()
	}
	return keys
}

// makeKeys makes the keys of a new log, and its policy.
func (d *Dir) makeKeys(origin string) error {
	for _, n := range []struct {
		file string
		typ  checkpoint.KeyType
	}{{"ed25519.key", checkpoint.TypeEd25519}, {"mldsa44.key", checkpoint.TypeMLDSA44}} {
		k, err := keystore.Generate(origin, n.typ)
		if err != nil {
			return err
		}
		if err := keystore.Write(filepath.Join(d.keyDir(), n.file), k); err != nil {
			return err
		}
		k.File = n.file
		d.private = append(d.private, k)
	}
	d.Signers = keystore.Signers(d.private)
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

// readKeys reads the private keys, which all sign.
func (d *Dir) readKeys() (err error) {
	if d.private, err = keystore.ReadDir(d.keyDir()); err != nil {
		return err
	}
	for _, k := range d.private {
		if err := d.checkKey(k); err != nil {
			return fmt.Errorf("key %s: %w", k.File, err)
		}
	}
	d.Signers = keystore.Signers(d.private)
	return nil
}

// checkKey returns why a key is none of this log.
func (d *Dir) checkKey(k keystore.Key) error {
	if k.Signer.Name() != d.Config.Origin {
		return fmt.Errorf("it is named %q, the log's origin is %q", k.Signer.Name(), d.Config.Origin)
	}
	if typ := k.Signer.VerifierKey().Type(); typ == checkpoint.TypeEd25519Cosignature {
		return fmt.Errorf("it is for a witness: a log signs with Ed25519 or ML-DSA-44, not %v", typ)
	}
	return nil
}

// CheckKeys reaches the tokens of the keys that are in one, and sees that they hold the keys
// which the files name. It does nothing for keys in files.
func (d *Dir) CheckKeys() error {
	for _, k := range d.private {
		if err := k.Check(); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(d.keyDir(), k.File), err)
		}
	}
	return nil
}

// checkPolicy checks that whoever uses the policy accepts what this log signs.
func (d *Dir) checkPolicy() error {
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return err
	}
	for _, k := range d.Keys() {
		if !lists(p, k) {
			return fmt.Errorf("the log's %v key is not in it; where it belongs there, add the line: log %s", k.Type(), k)
		}
	}
	return nil
}

// lists says whether a policy has a key as one of its log.
func lists(p *policy.Policy, k checkpoint.VerifierKey) bool {
	for _, l := range p.LogKeys(k.Name()) {
		if l.Equal(k) {
			return true
		}
	}
	return false
}
