package keystore

import (
	"crypto/ed25519"
	"errors"
)

// Parse and Encode read and write the content of a file.
var Parse = parse

func (k Key) Encode() ([]byte, error) { return k.encode() }

// Token is a token in memory, in which a test changes what it likes between two calls.
type Token struct {
	PIN string
	Key ed25519.PrivateKey
	// Epoch grows when the token is pulled out and put back: older sessions are dead.
	Epoch int
	// Logins counts calls that tried a PIN.
	Logins int
	// Spoil makes signatures wrong but those over the probe.
	Spoil bool
}

type fakeSession struct {
	t     *Token
	epoch int
}

// Plug makes a key reach t instead of a PKCS#11 module.
func (k Key) Plug(t *Token) { k.token.load = func(string) (module, error) { return t, nil } }

func (t *Token) open(_ uri, pin string) (session, error) {
	t.Logins++
	if pin != t.PIN {
		return nil, ErrPIN
	}
	return &fakeSession{t, t.Epoch}, nil
}

func (t *Token) generate(uri, string) (ed25519.PublicKey, error) { return nil, errors.ErrUnsupported }

func (t *Token) public(uri, string) (ed25519.PublicKey, error) { return nil, errors.ErrUnsupported }

func (s *fakeSession) sign(msg []byte) ([]byte, error) {
	if s.epoch != s.t.Epoch {
		return nil, errors.New("session is dead")
	}
	sig := ed25519.Sign(s.t.Key, msg)
	if s.t.Spoil && string(msg) != probe {
		sig[0] ^= 1
	}
	return sig, nil
}

func (s *fakeSession) close() {}
