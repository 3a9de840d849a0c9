package logdir_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/keystore"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

func newKey(t *testing.T, name string, typ checkpoint.KeyType) keystore.Key {
	t.Helper()
	k, err := keystore.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// load reads a log that must be good.
func load(t *testing.T, d *logdir.Dir) *logdir.Dir {
	t.Helper()
	d, err := logdir.Load(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// publish puts a checkpoint of the signers into the store, as the log does.
func publish(t *testing.T, d *logdir.Dir, signers ...*checkpoint.SignerKey) {
	t.Helper()
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: origin, Root: checkpoint.EmptyRoot()}, time.Now(), signers...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.Cell(t.Context(), log.CheckpointCell)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := errors.Join(s.SwapCell(t.Context(), log.CheckpointCell, old, note), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// states returns what ListKeys says, as FILE:STATE words.
func states(t *testing.T, d *logdir.Dir) string {
	t.Helper()
	infos, err := load(t, d).ListKeys()
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, i := range infos {
		words = append(words, i.File+":"+string(i.State))
	}
	return strings.Join(words, " ")
}

// TestRotation is a whole rotation of the Ed25519 key, with the log read after each step.
func TestRotation(t *testing.T) {
	t.Parallel()
	d := create(t)
	old := d.Signers[0].VerifierKey()
	k := newKey(t, origin, checkpoint.TypeEd25519)
	publish(t, d, d.Signers...)
	if _, err := d.AddKey(k); err != nil {
		t.Fatal(err)
	}
	d = load(t, d)
	name := keystore.FileName(k.Signer.VerifierKey())
	if got, want := states(t, d), "keys/"+name+":signs keys/ed25519.key:signs keys/mldsa44.key:signs"; got != want {
		t.Errorf("keys %q, want %q", got, want)
	}
	if info, err := os.Stat(filepath.Join(d.Path, "keys", name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the new file: %v, %v", info, err)
	}
	// The published checkpoint is of the old keys still. That its ML-DSA-44 key stays is not
	// enough: whoever knows the Ed25519 keys alone must see both in one checkpoint.
	if _, err := d.RetireKey(t.Context(), "ed25519.key", false); !errors.Is(err, logdir.ErrNotPublished) {
		t.Errorf("retired before the new key signed: %v", err)
	}
	publish(t, d, d.Signers...)
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.RetireKey(t.Context(), "ed25519.key", false); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("retired while the store is open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path, err := d.RetireKey(t.Context(), fmt.Sprintf("%08x", old.ID()), false)
	if err != nil {
		t.Fatal(err)
	}
	if path != filepath.Join(d.Path, "keys/retired/ed25519.key") {
		t.Errorf("moved to %s", path)
	}
	if got, want := states(t, d), "keys/"+name+":signs keys/mldsa44.key:signs keys/retired/ed25519.key:retired"; got != want {
		t.Errorf("keys %q, want %q", got, want)
	}
	d = load(t, d)
	for _, v := range d.Keys() {
		if v.Equal(old) {
			t.Error("the retired key signs")
		}
	}
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.LogKeys(origin)) != 3 {
		t.Errorf("the policy has %d keys, want the retired one, too", len(p.LogKeys(origin)))
	}
	if _, err := d.RetireKey(t.Context(), name, false); err == nil || !strings.Contains(err.Error(), "no Ed25519 key") {
		t.Errorf("retired the last Ed25519 key: %v", err)
	}
	if _, err := d.RetireKey(t.Context(), "ed25519.key", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("retired twice: %v", err)
	}
	// When its file is destroyed, the key is one of the policy alone.
	remove(t, d, "keys/retired/ed25519.key")
	if got, want := states(t, d), "keys/"+name+":signs keys/mldsa44.key:signs :listed"; got != want {
		t.Errorf("keys %q, want %q", got, want)
	}
}

// A key whose token is lost signs no overlap. Its successor takes over when another key has
// signed what is published, so that the log knows its own.
func TestRetireLostKey(t *testing.T) {
	t.Parallel()
	d := create(t)
	publish(t, d, d.Signers...)
	if _, err := d.RetireKey(t.Context(), "ed25519.key", true); err == nil || !strings.Contains(err.Error(), "no Ed25519 key") {
		t.Errorf("without a successor: %v", err)
	}
	if _, err := d.AddKey(newKey(t, origin, checkpoint.TypeEd25519)); err != nil {
		t.Fatal(err)
	}
	d = load(t, d)
	publish(t, d, d.Signers[1]) // ed25519.key alone
	if _, err := d.RetireKey(t.Context(), "ed25519.key", true); !errors.Is(err, logdir.ErrNotPublished) {
		t.Errorf("the only key that signed: %v", err)
	}
	publish(t, d, d.Signers[2]) // mldsa44.key
	if _, err := d.RetireKey(t.Context(), "ed25519.key", true); err != nil {
		t.Error(err)
	}
	load(t, d)
}

func TestAddKeyRefuses(t *testing.T) {
	t.Parallel()
	d := create(t)
	before := read(t, d, "policy")
	for what, c := range map[string]struct {
		key  keystore.Key
		says string
	}{
		"another log's":   {newKey(t, "else.test/log", checkpoint.TypeEd25519), `named "else.test/log"`},
		"witness's":       {newKey(t, origin, checkpoint.TypeEd25519Cosignature), "for a witness"},
		"one that it has": {keystore.Key{Signer: d.Signers[0]}, "the same key"},
	} {
		if _, err := d.AddKey(c.key); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if read(t, d, "policy") != before {
		t.Error("the policy has changed")
	}
	for range 2 {
		if _, err := d.AddKey(newKey(t, origin, checkpoint.TypeMLDSA44)); err != nil {
			t.Fatal(err)
		}
		d = load(t, d)
	}
	if _, err := d.AddKey(newKey(t, origin, checkpoint.TypeEd25519)); err == nil || !strings.Contains(err.Error(), "5 keys, 4 can sign") {
		t.Errorf("a fifth: %v", err)
	}
	// A key that was retired stays so: its file would be in the way of its next retirement.
	publish(t, d, d.Signers...)
	path, err := d.RetireKey(t.Context(), "mldsa44.key", false)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keystore.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, d).AddKey(k); err == nil || !strings.Contains(err.Error(), "was retired as retired/mldsa44.key") {
		t.Errorf("a retired key: %v", err)
	}
}

// What people wrote into the policy stays: comments, witnesses, the order of it all.
func TestAddKeyKeepsThePolicy(t *testing.T) {
	t.Parallel()
	d := create(t)
	other := newKey(t, "else.test/log", checkpoint.TypeEd25519).Signer.VerifierKey()
	w := newKey(t, "witness.test/w", checkpoint.TypeEd25519Cosignature).Signer.VerifierKey()
	keys := d.Keys()
	text := fmt.Sprintf(`# Ours.

log	%s   https://log.test/
   log %s
# Theirs.
log %s
witness w %s https://w.test
# two of one
group g any w
quorum g
`, keys[0], keys[1], other, w)
	write(t, d, "policy", text)
	if err := os.Chmod(filepath.Join(d.Path, "policy"), 0o664); err != nil {
		t.Fatal(err)
	}
	// A crash may have left this.
	write(t, d, "policy.new", "half")
	d = load(t, d)
	k := newKey(t, origin, checkpoint.TypeMLDSA44)
	if _, err := d.AddKey(k); err != nil {
		t.Fatal(err)
	}
	mine := fmt.Sprintf("   log %s\n", keys[1])
	want := strings.Replace(text, mine, mine+fmt.Sprintf("log %s\n", k.Signer.VerifierKey()), 1)
	if got := read(t, d, "policy"); got != want || d.Policy != want {
		t.Errorf("the policy is\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Stat(filepath.Join(d.Path, "policy")); err != nil || info.Mode().Perm() != 0o664 {
		t.Errorf("the policy's mode: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(d.Path, "policy.new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("policy.new: %v", err)
	}
}

// A crash between policy and key leaves a log that starts, and the key can be added again.
func TestAddKeyAfterACrash(t *testing.T) {
	t.Parallel()
	d := create(t)
	k := newKey(t, origin, checkpoint.TypeEd25519)
	path, err := d.AddKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got, want := states(t, d), "keys/ed25519.key:signs keys/mldsa44.key:signs :listed"; got != want {
		t.Errorf("keys %q, want %q", got, want)
	}
	before := read(t, d, "policy")
	if _, err := load(t, d).AddKey(k); err != nil {
		t.Fatal(err)
	}
	if read(t, d, "policy") != before {
		t.Error("the line was added twice")
	}
	if len(load(t, d).Signers) != 3 {
		t.Error("the key does not sign")
	}
}

func TestLoadRefusesKeysInTheWrongPlace(t *testing.T) {
	t.Parallel()
	d := create(t)
	k := newKey(t, origin, checkpoint.TypeEd25519)
	if err := keystore.Write(filepath.Join(d.Path, "keys", "new.key"), k); err != nil {
		t.Fatal(err)
	}
	_, err := logdir.Load(d.Path)
	if err == nil || !strings.Contains(err.Error(), "add the line: log "+k.Signer.VerifierKey().String()) {
		t.Errorf("a key that the policy does not have: %v", err)
	}
	remove(t, d, "keys/new.key")
	if err := keystore.Write(filepath.Join(d.Path, "keys", "new.key"), newKey(t, origin, checkpoint.TypeEd25519Cosignature)); err != nil {
		t.Fatal(err)
	}
	if _, err := logdir.Load(d.Path); err == nil || !strings.Contains(err.Error(), "new.key: it is for a witness") {
		t.Errorf("a witness's key: %v", err)
	}
}

// Whoever reads the log without signing needs no token; the server does.
func TestKeyInAToken(t *testing.T) {
	t.Parallel()
	d := create(t)
	v := newKey(t, origin, checkpoint.TypeEd25519).Signer.VerifierKey()
	reference := v.String() + "\npkcs11:token=none;object=o?module-path=/none.so\n"
	write(t, d, "token.key", reference)
	k, err := keystore.Read(filepath.Join(d.Path, "token.key"))
	if err != nil {
		t.Fatal(err)
	}
	path, err := d.AddKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != reference {
		t.Errorf("the file holds %q, %v", b, err)
	}
	d = load(t, d)
	if err := d.CheckKeys(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("without its token: %v", err)
	}
	if err := create(t).CheckKeys(); err != nil {
		t.Errorf("keys in files: %v", err)
	}
}
