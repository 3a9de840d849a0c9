package logdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/keystore"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

// A key is rotated in two steps, between which the log runs with both keys: AddKey, and when
// a checkpoint with the new signature is published, RetireKey. Each takes effect when the log
// is started next. The policy keeps the lines of retired keys, because receipts of their
// time carry no other signature. What that costs: whoever gets hold of a retired key can still
// sign what the policy accepts. So its file is best destroyed, and after a theft the line must
// go, and with it the receipts of that time, which can be had anew.

// ErrNotPublished means that a key cannot be retired yet: the published checkpoint carries no
// signature of a key that stays.
var ErrNotPublished = errors.New("no key that stays has signed the published checkpoint")

// KeyState says what becomes of a key of the log.
type KeyState string

// The states of a key.
const (
	// KeySigns is a key that signs.
	KeySigns KeyState = "signs"
	// KeyRetired is a key that signs no more, with its file in keys/retired/.
	KeyRetired KeyState = "retired"
	// KeyListed is a key that the policy alone has.
	KeyListed KeyState = "listed"
)

// KeyInfo is a key of the log.
type KeyInfo struct {
	Key   checkpoint.VerifierKey
	State KeyState
	// File is the path of its file from the log's directory, empty for KeyListed.
	File string
	// URI is where in a token the key is, empty for one in the file.
	URI string
}

// ListKeys returns the keys that sign, those that are retired, and those that the policy has
// besides.
func (d *Dir) ListKeys() ([]KeyInfo, error) {
	retired, err := keystore.ReadRetired(d.keyDir())
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return nil, err
	}
	var out []KeyInfo
	for _, k := range d.private {
		out = append(out, KeyInfo{k.Signer.VerifierKey(), KeySigns, filepath.Join("keys", k.File), k.URI})
	}
	for _, k := range retired {
		out = append(out, KeyInfo{k.Signer.VerifierKey(), KeyRetired, filepath.Join("keys", keystore.RetiredDir, k.File), k.URI})
	}
	for _, v := range p.LogKeys(d.Config.Origin) {
		if !slices.ContainsFunc(out, func(i KeyInfo) bool { return i.Key.Equal(v) }) {
			out = append(out, KeyInfo{Key: v, State: KeyListed})
		}
	}
	return out, nil
}

// AddKey makes the log sign with another key from its next start on. It writes the policy
// first, then the file of the key: after a crash between the two the policy has a key that
// never signs, which does no harm. It returns the file's path.
func (d *Dir) AddKey(k keystore.Key) (path string, err error) {
	v := k.Signer.VerifierKey()
	if err := d.checkKey(k); err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	k.File = keystore.FileName(v)
	if err := keystore.CheckSet(append(slices.Clone(d.private), k)); err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	retired, err := keystore.ReadRetired(d.keyDir())
	if err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	for _, r := range retired {
		if r.Signer.VerifierKey().SameKey(v) {
			return "", fmt.Errorf("adding a key: it was retired as %s", filepath.Join(keystore.RetiredDir, r.File))
		}
	}
	path = filepath.Join(d.keyDir(), k.File)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("adding a key: %s: %w", path, fs.ErrExist)
	}
	text, err := addLogLine(d.Policy, v)
	if err != nil {
		return "", fmt.Errorf("adding a key to the policy: %w", err)
	}
	if err := replaceFile(d.policyFile(), []byte(text)); err != nil {
		return "", fmt.Errorf("adding a key to the policy: %w", err)
	}
	d.Policy = text
	return path, keystore.Write(path, k)
}

// addLogLine adds the line of a key to the text of a policy, behind those of the same log, and
// leaves everything else as it is.
func addLogLine(text string, v checkpoint.VerifierKey) (string, error) {
	p, err := policy.Parse([]byte(text))
	if err != nil {
		return "", err
	}
	if lists(p, v) {
		return text, nil
	}
	lines := strings.SplitAfter(text, "\n")
	at := 0
	for i, l := range lines {
		items := strings.Fields(l)
		if len(items) > 1 && items[0] == "log" && strings.HasPrefix(items[1], v.Name()+"+") {
			at = i + 1
		}
	}
	text = strings.Join(slices.Insert(lines, at, "log "+v.String()+"\n"), "")
	if p, err = policy.Parse([]byte(text)); err != nil {
		return "", err
	}
	if !lists(p, v) {
		return "", errors.New("the new line is not read as a key of the log")
	}
	return text, nil
}

// RetireKey makes the log sign no more with the key that a file's name or an id means, from
// its next start on. The log must be stopped (storage.ErrLocked). It refuses when no key of
// the same algorithm would be left, and with ErrNotPublished when none of those that are left
// has signed the published checkpoint: the log would not know its own at the next start, and
// verifiers would see no overlap. A key that is lost signs no overlap: then a signature of any
// key that is left is enough. It returns the path to which the file was moved.
func (d *Dir) RetireKey(ctx context.Context, what string, lost bool) (path string, err error) {
	k, err := keystore.Find(d.private, what)
	if err != nil {
		return "", fmt.Errorf("retiring a key: %w", err)
	}
	v := k.Signer.VerifierKey()
	rest := slices.DeleteFunc(slices.Clone(d.private), func(o keystore.Key) bool { return o.File == k.File })
	if err := keystore.CheckSet(rest); err != nil {
		return "", fmt.Errorf("retiring key %s: %w", k.File, err)
	}
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{ReadOnly: true})
	if err != nil {
		return "", fmt.Errorf("retiring key %s: %w", k.File, err)
	}
	// The store stays open, so that no server starts with the key meanwhile.
	defer func() { err = errors.Join(err, s.Close()) }()
	if !lost {
		rest = slices.DeleteFunc(rest, func(o keystore.Key) bool { return o.Signer.VerifierKey().Type() != v.Type() })
	}
	if err := published(ctx, s, rest); err != nil {
		return "", fmt.Errorf("retiring key %s: %w", k.File, err)
	}
	if err := keystore.Retire(d.keyDir(), k.File); err != nil {
		return "", err
	}
	return filepath.Join(d.keyDir(), keystore.RetiredDir, k.File), nil
}

// published checks that one of the keys has signed the published checkpoint, if there is one.
func published(ctx context.Context, s storage.Store, keys []keystore.Key) error {
	note, err := s.Cell(ctx, log.CheckpointCell)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	c, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	for _, k := range keys {
		v := k.Signer.VerifierKey()
		for _, sig := range sigs {
			if !v.Made(sig) {
				continue
			}
			if _, err := v.Verify(c, sig); err != nil {
				return fmt.Errorf("the published checkpoint: key %s: %w", k.File, err)
			}
			return nil
		}
	}
	return ErrNotPublished
}

// replaceFile puts new content in the place of a file, at once and durably. The file keeps its
// mode; where it is a link, that to which it points is replaced.
func replaceFile(path string, b []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	beside := path + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return err
	}
	if err := writeFile(beside, b, info.Mode().Perm()); err != nil {
		return err
	}
	// The umask had its say when the file was made.
	if err := errors.Join(os.Chmod(beside, info.Mode().Perm()), os.Rename(beside, path)); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return syncDir(filepath.Dir(path))
}
