package keystore_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/storage/keystore"
)

const name = "log.test/keys"

func generate(t testing.TB, name string, typ checkpoint.KeyType) keystore.Key {
	t.Helper()
	k, err := keystore.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// write writes keys into a new directory, under the names that are given with them.
func write(t testing.TB, keys map[string]keystore.Key) string {
	t.Helper()
	dir := t.TempDir()
	for file, k := range keys {
		if err := keystore.Write(filepath.Join(dir, file), k); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWriteThenRead(t *testing.T) {
	for _, typ := range []checkpoint.KeyType{checkpoint.TypeEd25519, checkpoint.TypeEd25519Cosignature, checkpoint.TypeMLDSA44} {
		k := generate(t, name, typ)
		path := filepath.Join(t.TempDir(), keystore.FileName(k.Signer.VerifierKey()))
		if err := keystore.Write(path, k); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%v: mode %04o", typ, info.Mode().Perm())
		}
		again, err := keystore.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if again.Signer.Encode() != k.Signer.Encode() || again.URI != "" || again.File != filepath.Base(path) {
			t.Errorf("%v: read as %+v", typ, again)
		}
		if err := again.Check(); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
		if err := keystore.Write(path, k); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v: written over: %v", typ, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	k := generate(t, name, checkpoint.TypeEd25519)
	secret := k.Signer.Encode()
	for what, c := range map[string]struct {
		content string
		mode    fs.FileMode
		says    string
		is      error
	}{
		"others read":     {secret + "\n", 0o640, "mode is 0640, others can read it", fs.ErrPermission},
		"world reads":     {secret + "\n", 0o604, "mode is 0604, others can read it", fs.ErrPermission},
		"nothing":         {"", 0o600, "PRIVATE+KEY+", nil},
		"public key":      {k.Signer.VerifierKey().String() + "\n", 0o600, "PRIVATE+KEY+", nil},
		"cut off":         {secret[:len(secret)-4] + "\n", 0o600, "signer key", nil},
		"two keys":        {secret + "\n" + secret + "\n", 0o600, "line 1", nil},
		"reference alone": {k.Signer.VerifierKey().String() + "\n\n", 0o600, "line 2", nil},
		"no text":         {secret + "\x00\n", 0o600, "no text", nil},
		"too large":       {strings.Repeat("x", 64<<10+1), 0o600, "larger than", nil},
	} {
		path := filepath.Join(t.TempDir(), "k.key")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := keystore.Read(path)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) || (c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), secret[len(secret)-30:len(secret)-10]) {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
	}
	if _, err := keystore.Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "mode") && !strings.Contains(err.Error(), "no file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := keystore.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestReadDir(t *testing.T) {
	a, b := generate(t, name, checkpoint.TypeMLDSA44), generate(t, name, checkpoint.TypeEd25519)
	dir := write(t, map[string]keystore.Key{"b.key": b, "a.key": a, "c.key.new": b, ".d.key": b})
	if err := os.Mkdir(filepath.Join(dir, "e.key"), 0o700); err != nil {
		t.Fatal(err)
	}
	keys, err := keystore.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || keys[0].File != "a.key" || keys[1].File != "b.key" || !keys[1].Signer.VerifierKey().Equal(b.Signer.VerifierKey()) {
		t.Errorf("read %v", keys)
	}
	if s := keystore.Signers(keys); len(s) != 2 || s[0] != keys[0].Signer {
		t.Errorf("signers %v", s)
	}
}

func TestReadDirRefuses(t *testing.T) {
	ed := func() keystore.Key { return generate(t, name, checkpoint.TypeEd25519) }
	pq := func() keystore.Key { return generate(t, name, checkpoint.TypeMLDSA44) }
	same := ed()
	for what, c := range map[string]struct {
		keys map[string]keystore.Key
		says string
	}{
		"none":       {map[string]keystore.Key{"a.txt": ed()}, "no Ed25519 key"},
		"no ML-DSA":  {map[string]keystore.Key{"a.key": ed(), "b.key": ed()}, "no ML-DSA-44 key"},
		"no Ed25519": {map[string]keystore.Key{"a.key": pq()}, "no Ed25519 key"},
		"five":       {map[string]keystore.Key{"a.key": ed(), "b.key": ed(), "c.key": ed(), "d.key": ed(), "e.key": pq()}, "5 keys, 4 can sign"},
		"two names":  {map[string]keystore.Key{"a.key": ed(), "b.key": generate(t, "other.test", checkpoint.TypeMLDSA44)}, `a.key is of "log.test/keys", b.key of "other.test"`},
		"twice":      {map[string]keystore.Key{"a.key": same, "b.key": same, "c.key": pq()}, "a.key and b.key hold the same key"},
	} {
		if _, err := keystore.ReadDir(write(t, c.keys)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := keystore.ReadDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestRetire(t *testing.T) {
	a, b := generate(t, name, checkpoint.TypeEd25519), generate(t, name, checkpoint.TypeEd25519)
	dir := write(t, map[string]keystore.Key{"a.key": a, "b.key": b, "c.key": generate(t, name, checkpoint.TypeMLDSA44)})
	if keys, err := keystore.ReadRetired(dir); err != nil || len(keys) != 0 {
		t.Errorf("retired before: %v, %v", keys, err)
	}
	if err := keystore.Retire(dir, "a.key"); err != nil {
		t.Fatal(err)
	}
	keys, err := keystore.ReadDir(dir)
	if err != nil || len(keys) != 2 || keys[0].File != "b.key" {
		t.Errorf("left: %v, %v", keys, err)
	}
	retired, err := keystore.ReadRetired(dir)
	if err != nil || len(retired) != 1 || retired[0].Signer.Encode() != a.Signer.Encode() {
		t.Errorf("retired: %v, %v", retired, err)
	}
	if info, err := os.Stat(filepath.Join(dir, keystore.RetiredDir, "a.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the retired file: %v, %v", info, err)
	}
	// Another key under the name of a retired one must not replace it.
	if err := keystore.Write(filepath.Join(dir, "a.key"), b); err != nil {
		t.Fatal(err)
	}
	if err := keystore.Retire(dir, "a.key"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a retired key: %v", err)
	}
	if err := keystore.Retire(dir, "none.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such key: %v", err)
	}
}

func TestFind(t *testing.T) {
	a, b := generate(t, name, checkpoint.TypeEd25519), generate(t, name, checkpoint.TypeEd25519)
	keys, err := keystore.ReadDir(write(t, map[string]keystore.Key{"a.key": a, "b.key": b, "d.key": generate(t, name, checkpoint.TypeMLDSA44)}))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSuffix(strings.TrimPrefix(keystore.FileName(b.Signer.VerifierKey()), "ed25519-"), ".key")
	for _, what := range []string{"b.key", id, strings.ToUpper(id)} {
		if k, err := keystore.Find(keys, what); err != nil || k.File != "b.key" {
			t.Errorf("%s: %v, %v", what, k, err)
		}
	}
	if _, err := keystore.Find(keys, "c.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if _, err := keystore.Find(append(keys, keys[1]), id); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("two: %v", err)
	}
}

// The most that MaxKeys can sign, with the longest name and proof, is a request that witnesses
// with a limit of 16 KiB read.
func TestMaxKeysFitIntoARequest(t *testing.T) {
	longest := strings.Repeat("n", checkpoint.MaxNameLength)
	keys := []keystore.Key{generate(t, longest, checkpoint.TypeEd25519)}
	for len(keys) < keystore.MaxKeys {
		keys = append(keys, generate(t, longest, checkpoint.TypeMLDSA44))
	}
	if err := keystore.CheckSet(keys); err != nil {
		t.Fatal(err)
	}
	const size = 1<<63 - 1
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: longest, Size: size, Root: [32]byte{1}}, time.Unix(1<<40, 0), keystore.Signers(keys)...)
	if err != nil {
		t.Fatal(err)
	}
	b := consistency.Bundle{OldSize: size - 1, Hashes: make([][32]byte, 63), Checkpoint: note}
	request := b.Append(nil)
	if len(request) > 16<<10 {
		t.Errorf("a request has %d bytes", len(request))
	}
	t.Logf("%d bytes", len(request))
}

func TestWriteRefusesWhatItDoesNotHave(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v, err := checkpoint.NewVerifierKey(name, checkpoint.TypeEd25519, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	s, err := checkpoint.NewSignerFrom(v, private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "k.key")
	if err := keystore.Write(path, keystore.Key{Signer: s}); err == nil || !strings.Contains(err.Error(), "its secret is not here") {
		t.Errorf("a key whose secret is elsewhere: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
}

// FuzzParse holds that what is a file has one content, and that errors show no secret.
func FuzzParse(f *testing.F) {
	ed := generate(f, name, checkpoint.TypeEd25519)
	f.Add(ed.Signer.Encode() + "\n")
	f.Add(generate(f, name, checkpoint.TypeMLDSA44).Signer.Encode() + "\n")
	f.Add(ed.Signer.VerifierKey().String() + "\npkcs11:token=a%20b;object=c;id=%01?module-path=/m.so&pin-source=file:/p\n")
	f.Add(ed.Signer.VerifierKey().String() + "\npkcs11:serial=1;manufacturer=m;model=o;id=%01%00;type=private?pin-source=file:///p&module-path=/m.so\n")
	f.Add("PRIVATE+KEY+a+00000000+\n")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := keystore.Parse([]byte(s))
		if err != nil {
			return
		}
		b, err := k.Encode()
		if err != nil {
			t.Fatalf("%q cannot be written: %v", s, err)
		}
		if strings.TrimSuffix(s, "\n") != strings.TrimSuffix(string(b), "\n") {
			t.Errorf("%q is written as %q", s, b)
		}
	})
}
