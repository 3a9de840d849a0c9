package keystore

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// Errors, to be matched with errors.Is.
var (
	// ErrNoPKCS11 means that a key is in a token and this program cannot reach tokens.
	ErrNoPKCS11 = errors.New("this build has no PKCS#11 support; build with: make build-pkcs11")
	// ErrPIN means that the token refused the PIN. It is not tried again in this process:
	// tokens lock after a few wrong ones.
	ErrPIN = errors.New("the token refuses the PIN")
	// ErrKeyExists means that a key should be made where there is one.
	ErrKeyExists = errors.New("the token has a key with this object and id")
	// ErrSwapped means that the key in the token is not the one that was pinned.
	ErrSwapped = errors.New("the token holds another key than the one that is expected")
)

// maxPIN is the largest file with a PIN, in bytes.
const maxPIN = 1 << 10

// probe is signed to see which key a token holds. It is no note: those have three lines and a
// cosigned message begins otherwise (signed-note, tlog-cosignature).
const probe = "keytrail.dev/keystore/probe/v1\n"

// module is a PKCS#11 module of this process.
type module interface {
	// open logs in and finds the one private key.
	open(u uri, pin string) (session, error)
	// generate makes an Ed25519 key that never leaves the token. One that is there already
	// is ErrKeyExists.
	generate(u uri, pin string) (ed25519.PublicKey, error)
	// public reads the public key that lies beside the private one.
	public(u uri, pin string) (ed25519.PublicKey, error)
}

// session is a login into a token, with one private key. It is used by one at a time.
type session interface {
	// sign returns an Ed25519 signature, which nobody has verified.
	sign(msg []byte) ([]byte, error)
	close()
}

// tokenKey is a key in a token, as a crypto.Signer.
type tokenKey struct {
	uri  uri
	key  ed25519.PublicKey
	load func(path string) (module, error)

	// mu guards the rest and is held while the token works, which nothing can interrupt.
	mu      sync.Mutex
	module  module
	session session
	// refused is ErrPIN, once it happened.
	refused error
}

// newTokenKey returns the key with the public key v at a URI, without reaching for it.
func newTokenKey(v checkpoint.VerifierKey, text string) (Key, error) {
	u, err := parseURI(text)
	if err != nil {
		return Key{}, err
	}
	if v.Type() == checkpoint.TypeMLDSA44 {
		return Key{}, errNoMLDSA
	}
	t := &tokenKey{uri: u, key: v.PublicKey(), load: loadModule}
	s, err := checkpoint.NewSignerFrom(v, t)
	if err != nil {
		return Key{}, err
	}
	return Key{Signer: s, URI: text, token: t}, nil
}

var errNoMLDSA = errors.New("no token speaks ML-DSA-44 yet: keep that key in a file")

// GenerateInToken makes an Ed25519 key in a token, from where its secret cannot be had. A key
// that is there already is ErrKeyExists.
func GenerateInToken(name string, typ checkpoint.KeyType, uri string) (Key, error) {
	return fromToken(name, typ, uri, module.generate)
}

// InToken returns an Ed25519 key that is in a token already, with its public key beside it.
func InToken(name string, typ checkpoint.KeyType, uri string) (Key, error) {
	return fromToken(name, typ, uri, module.public)
}

func fromToken(name string, typ checkpoint.KeyType, text string, get func(module, uri, string) (ed25519.PublicKey, error)) (Key, error) {
	u, err := parseURI(text)
	if err != nil {
		return Key{}, err
	}
	if typ == checkpoint.TypeMLDSA44 {
		return Key{}, errNoMLDSA
	}
	if err := checkpoint.CheckName(name); err != nil { // before there is a key of that name
		return Key{}, err
	}
	m, err := loadModule(u.module)
	if err != nil {
		return Key{}, err
	}
	pin, err := readPIN(u.pinFile)
	if err != nil {
		return Key{}, err
	}
	public, err := get(m, u, pin)
	if err != nil {
		return Key{}, err
	}
	v, err := checkpoint.NewVerifierKey(name, typ, public)
	if err != nil {
		return Key{}, err
	}
	k, err := newTokenKey(v, text)
	if err != nil {
		return Key{}, err
	}
	return k, k.Check()
}

// Public returns the pinned public key.
func (t *tokenKey) Public() crypto.PublicKey { return t.key }

// Sign signs a message in the token. When it cannot, it logs in once more: the token may have
// been away.
func (t *tokenKey) Sign(_ io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("tokens sign the message itself")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session != nil {
		if sig, err := t.session.sign(msg); err == nil {
			return sig, nil
		}
		t.session.close()
		t.session = nil
	}
	if err := t.connect(); err != nil {
		return nil, err
	}
	return t.session.sign(msg)
}

// check reaches the token anew and holds its key against the pinned one.
func (t *tokenKey) check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session != nil {
		t.session.close()
		t.session = nil
	}
	return t.connect()
}

// connect sets t.session to a new one whose key is the pinned one. The caller holds t.mu.
func (t *tokenKey) connect() error {
	if t.refused != nil {
		return t.refused
	}
	if t.module == nil {
		m, err := t.load(t.uri.module)
		if err != nil {
			return err
		}
		t.module = m
	}
	pin, err := readPIN(t.uri.pinFile)
	if err != nil {
		return err
	}
	s, err := t.module.open(t.uri, pin)
	if err != nil {
		if errors.Is(err, ErrPIN) {
			t.refused = fmt.Errorf("%w (it is not tried again, so that the token does not lock)", err)
		}
		return err
	}
	sig, err := s.sign([]byte(probe))
	if err == nil && !ed25519.Verify(t.key, []byte(probe), sig) {
		err = ErrSwapped
	}
	if err != nil {
		s.close()
		return err
	}
	t.session = s
	return nil
}

// readPIN reads the PIN anew for each login, so that it can be changed.
func readPIN(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := readPrivate(path, maxPIN)
	if err != nil {
		return "", fmt.Errorf("reading the PIN in %s: %w", path, err)
	}
	pin := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if pin == "" {
		return "", fmt.Errorf("reading the PIN in %s: there is none", path)
	}
	return pin, nil
}
