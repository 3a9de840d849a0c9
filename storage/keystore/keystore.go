// Package keystore keeps private signing keys in files of mode 0600. A file holds the secret
// itself, or names a key in a PKCS#11 token together with its public key.
//
//	PRIVATE+KEY+NAME+ID+BASE64      the secret (golang.org/x/mod/sumdb/note)
//
//	NAME+ID+BASE64                  the public key of a key in a token, and
//	pkcs11:token=T;object=O?…       where it is (RFC 7512)
//
// The public key stands beside the token's address so that an object that was swapped in the
// token is noticed before anything is signed with it, and so that whoever needs the public
// keys alone needs no token. Tokens sign with Ed25519; none is known that speaks ML-DSA-44,
// so those keys stay in files.
//
// PKCS#11 needs a C compiler: the package has it in builds with CGO_ENABLED=1 and the tag
// pkcs11 (make build-pkcs11). In other builds everything works but reaching a token, which is
// ErrNoPKCS11.
//
// Functions and keys may be used concurrently, but for two that write one directory. What
// Write and Retire did is durable when they return. The package is trusted with the secrets:
// it refuses files that others can read, and puts nothing of a secret or a PIN into an error.
package keystore

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

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// MaxKeys is how many keys of a directory sign: two of either algorithm in the overlap of a
// rotation, whose signatures take 7 KB. Some witnesses read requests of at most 16 KiB, into
// which the signatures of four keys and a proof always fit.
const MaxKeys = 4

// maxFile is the largest file that is read, in bytes. An ML-DSA-44 public key takes 1.8 KB.
const maxFile = 64 << 10

// suffix ends the names of the files in a directory that hold keys to sign with.
const suffix = ".key"

// RetiredDir is the directory, in that of the keys, of keys that sign no more.
const RetiredDir = "retired"

// Key is a private key of a file.
type Key struct {
	// File is the file's name without its directory, empty for a key of no file.
	File string
	// Signer signs. A key in a token is reached when it signs or is checked first, and holds
	// a session in the token until the process ends.
	Signer *checkpoint.SignerKey
	// URI says where in a token the key is; it is empty for a secret in the file.
	URI string

	token *tokenKey
}

// Check reaches the token and has it sign something that is no checkpoint, to see that the
// key there is the one of the file. It does nothing for a secret in the file.
func (k Key) Check() error {
	if k.token == nil {
		return nil
	}
	if err := k.token.check(); err != nil {
		return fmt.Errorf("reaching key %s: %w", k.id(), err)
	}
	return nil
}

// id names a key to people.
func (k Key) id() string {
	v := k.Signer.VerifierKey()
	return fmt.Sprintf("%s+%08x", v.Name(), v.ID())
}

// Generate makes a key with a secret of its own.
func Generate(name string, typ checkpoint.KeyType) (Key, error) {
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil { // it ends the process instead
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	s, err := checkpoint.NewSignerKey(name, typ, seed)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	return Key{Signer: s}, nil
}

// Read reads a file. One that others can read is fs.ErrPermission.
func Read(path string) (Key, error) {
	b, err := readPrivate(path, maxFile)
	if err != nil {
		return Key{}, fmt.Errorf("reading private key %s: %w", path, err)
	}
	k, err := parse(b)
	if err != nil {
		return Key{}, fmt.Errorf("reading private key %s: %w", path, err)
	}
	k.File = filepath.Base(path)
	return k, nil
}

// parse reads the content of a file.
func parse(b []byte) (Key, error) {
	text := strings.TrimSuffix(string(b), "\n")
	if vkey, uri, ok := strings.Cut(text, "\n"); ok {
		return parseReference(vkey, uri)
	}
	s, err := checkpoint.ParseSignerKey(text)
	if err != nil {
		return Key{}, err
	}
	return Key{Signer: s}, nil
}

func parseReference(vkey, uri string) (Key, error) {
	v, err := checkpoint.ParseVerifierKey(vkey)
	if err != nil {
		return Key{}, fmt.Errorf("line 1: %w", err)
	}
	k, err := newTokenKey(v, uri)
	if err != nil {
		return Key{}, fmt.Errorf("line 2: %w", err)
	}
	return k, nil
}

// encode returns the content of a file.
func (k Key) encode() ([]byte, error) {
	if k.URI != "" {
		return fmt.Appendf(nil, "%s\n%s\n", k.Signer.VerifierKey(), k.URI), nil
	}
	skey := k.Signer.Encode()
	if skey == "" {
		return nil, errors.New("its secret is not here")
	}
	return []byte(skey + "\n"), nil
}

// Write makes a file of mode 0600. One that exists is fs.ErrExist.
func Write(path string, k Key) error {
	b, err := k.encode()
	if err != nil {
		return fmt.Errorf("writing private key %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing a private key: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing private key %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing private key %s: %w", path, err)
	}
	return nil
}

// FileName is the name of a file in a directory of keys, from the kind and the id of the key.
func FileName(v checkpoint.VerifierKey) string {
	kind := "ed25519"
	if v.Type() == checkpoint.TypeMLDSA44 {
		kind = "mldsa44"
	}
	return fmt.Sprintf("%s-%08x%s", kind, v.ID(), suffix)
}

// ReadDir reads the keys of a directory: all files whose names end in .key, in the order of
// their names. They must be a set that CheckSet takes.
func ReadDir(dir string) ([]Key, error) {
	keys, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	if err := CheckSet(keys); err != nil {
		return nil, fmt.Errorf("reading private keys in %s: %w", dir, err)
	}
	return keys, nil
}

// ReadRetired reads the keys of a directory that sign no more; there may be none.
func ReadRetired(dir string) ([]Key, error) {
	keys, err := readDir(filepath.Join(dir, RetiredDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return keys, err
}

func readDir(dir string) ([]Key, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading private keys: %w", err)
	}
	var keys []Key
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), suffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		k, err := Read(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// CheckSet returns why keys cannot sign side by side. It demands a key of either algorithm, as
// logs and witnesses sign with both, MaxKeys at most, one name for all of them, and no key
// twice.
func CheckSet(keys []Key) error {
	var ed25519, mldsa bool
	for _, k := range keys {
		if k.Signer.VerifierKey().Type() == checkpoint.TypeMLDSA44 {
			mldsa = true
		} else {
			ed25519 = true
		}
	}
	switch {
	case !ed25519:
		return errors.New("there is no Ed25519 key: one of either algorithm must sign")
	case !mldsa:
		return errors.New("there is no ML-DSA-44 key: one of either algorithm must sign")
	}
	if len(keys) > MaxKeys {
		return fmt.Errorf("%d keys, %d can sign at a time: retire one first", len(keys), MaxKeys)
	}
	for i, k := range keys {
		if k.Signer.Name() != keys[0].Signer.Name() {
			return fmt.Errorf("%s is of %q, %s of %q", keys[0].File, keys[0].Signer.Name(), k.File, k.Signer.Name())
		}
		for _, o := range keys[:i] {
			if k.Signer.VerifierKey().SameKey(o.Signer.VerifierKey()) {
				return fmt.Errorf("%s and %s hold the same key", o.File, k.File)
			}
		}
	}
	return nil
}

// Signers returns the keys as signers, in their order.
func Signers(keys []Key) []*checkpoint.SignerKey {
	signers := make([]*checkpoint.SignerKey, len(keys))
	for i, k := range keys {
		signers[i] = k.Signer
	}
	return signers
}

// Find returns the one of keys that a person means by its file's name or its id, 8 hexadecimal
// digits. None is fs.ErrNotExist.
func Find(keys []Key, what string) (Key, error) {
	var found []Key
	for _, k := range keys {
		if what == k.File || strings.EqualFold(what, fmt.Sprintf("%08x", k.Signer.VerifierKey().ID())) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return Key{}, fmt.Errorf("key %.60q: %w", what, fs.ErrNotExist)
	case 1:
		return found[0], nil
	}
	return Key{}, fmt.Errorf("key %.60q is two: name the file", what)
}

// Retire moves the file of a key into the directory RetiredDir, where it does not sign.
func Retire(dir, file string) error {
	retired := filepath.Join(dir, RetiredDir)
	if err := os.Mkdir(retired, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("retiring key %s: %w", file, err)
	}
	to := filepath.Join(retired, file)
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s: %w", to, fs.ErrExist)
		}
		return fmt.Errorf("retiring key %s: %w", file, err)
	}
	if err := os.Rename(filepath.Join(dir, file), to); err != nil {
		return fmt.Errorf("retiring key %s: %w", file, err)
	}
	if err := errors.Join(syncDir(retired), syncDir(dir)); err != nil {
		return fmt.Errorf("retiring key %s: %w", file, err)
	}
	return nil
}

// readPrivate reads a file of at most limit bytes that its owner alone can read.
func readPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%w: its mode is %04o, others can read it; make it 0600 and consider the secret exposed", fs.ErrPermission, perm)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, errors.New("it is no text")
	}
	return b, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
