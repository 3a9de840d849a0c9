//go:build cgo && pkcs11

package keystore

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Numbers of PKCS#11 3.0 that the library does not name.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEDDSA               = 0x1057
)

// ed25519OID is id-Ed25519 (RFC 8410) in DER, which names the curve.
var ed25519OID = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}

var errNoKey = errors.New("the token has no Ed25519 key with the object and id of the URI")

// ckModule is a loaded and initialized module. It stays so until the process ends: modules
// keep their state for a whole process, and another key may use the same one.
type ckModule struct{ ctx *pkcs11.Ctx }

func loadModule(path string) (module, error) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("loading PKCS#11 module %s: there is none that can be loaded", path)
	}
	if err := ctx.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, fmt.Errorf("initializing PKCS#11 module %s: %w", path, err)
	}
	return ckModule{ctx}, nil
}

// slot finds the token.
func (m ckModule) slot(u uri) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, info, fmt.Errorf("looking for the token: %w", err)
	}
	found := 0
	for _, s := range slots {
		i, err := m.ctx.GetTokenInfo(s)
		if err != nil { // pulled out, or none that can be used
			continue
		}
		if is(i.Label, u.token) && is(i.SerialNumber, u.serial) && is(i.ManufacturerID, u.manufacturer) && is(i.Model, u.model) {
			slot, info = s, i
			found++
		}
	}
	switch found {
	case 0:
		return 0, info, fmt.Errorf("looking for the token: none of the %d that are present is the one of the URI", len(slots))
	case 1:
		return slot, info, nil
	}
	return 0, info, fmt.Errorf("looking for the token: %d are like the one of the URI: add serial=", found)
}

// is compares a padded name of the token with what the URI wants, if it wants anything.
func is(padded, want string) bool {
	return want == "" || strings.TrimRight(padded, " \x00") == want
}

// login opens a session and logs in.
func (m ckModule) login(u uri, pin string, flags uint) (*ckSession, error) {
	slot, info, err := m.slot(u)
	if err != nil {
		return nil, err
	}
	if pin == "" && info.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0 {
		return nil, errors.New("the token demands a PIN: state pin-source=file:/… in the URI")
	}
	h, err := m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	s := &ckSession{ctx: m.ctx, handle: h}
	if pin == "" {
		return s, nil
	}
	// The login is the process's, with one token: another key may have logged in.
	err = m.ctx.Login(h, pkcs11.CKU_USER, pin)
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		s.close()
		switch code, _ := errors.AsType[pkcs11.Error](err); code {
		case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED:
			err = fmt.Errorf("%w: %w", ErrPIN, err)
		}
		return nil, fmt.Errorf("logging in: %w", err)
	}
	return s, nil
}

func (m ckModule) open(u uri, pin string) (session, error) {
	s, err := m.login(u, pin, 0)
	if err != nil {
		return nil, err
	}
	if s.key, err = s.find(u, pkcs11.CKO_PRIVATE_KEY); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (m ckModule) public(u uri, pin string) (ed25519.PublicKey, error) {
	s, err := m.login(u, pin, 0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	key, err := s.find(u, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	return s.point(key)
}

func (m ckModule) generate(u uri, pin string) (ed25519.PublicKey, error) {
	s, err := m.login(u, pin, pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		if _, err := s.find(u, class); !errors.Is(err, errNoKey) {
			if err == nil {
				err = ErrKeyExists
			}
			return nil, err
		}
	}
	public := append(u.template(), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, ed25519OID))
	private := append(u.template(), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false))
	key, _, err := m.ctx.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmECEdwardsKeyPairGen, nil)}, public, private)
	if err != nil {
		return nil, fmt.Errorf("making an Ed25519 key in the token: %w", err)
	}
	return s.point(key)
}

// template is what the URI says of the key.
func (u uri) template() []*pkcs11.Attribute {
	var t []*pkcs11.Attribute
	if u.object != "" {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.object))
	}
	if u.id != "" {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_ID, u.id))
	}
	return t
}

// ckSession is a session with a key, once it was found.
type ckSession struct {
	ctx    *pkcs11.Ctx
	handle pkcs11.SessionHandle
	key    pkcs11.ObjectHandle
}

// find returns the one Ed25519 key of a class. None is errNoKey.
func (s *ckSession) find(u uri, class uint) (pkcs11.ObjectHandle, error) {
	template := append(u.template(), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ckkECEdwards))
	if err := s.ctx.FindObjectsInit(s.handle, template); err != nil {
		return 0, fmt.Errorf("looking for the key: %w", err)
	}
	found, _, err := s.ctx.FindObjects(s.handle, 2)
	if err := errors.Join(err, s.ctx.FindObjectsFinal(s.handle)); err != nil {
		return 0, fmt.Errorf("looking for the key: %w", err)
	}
	switch len(found) {
	case 0:
		return 0, errNoKey
	case 1:
		return found[0], nil
	}
	return 0, errors.New("the token has several keys with the object and id of the URI: state both")
}

// point reads a public key: the bytes of RFC 8032, by PKCS#11 3.0 in a DER OCTET STRING, which
// some tokens leave out.
func (s *ckSession) point(key pkcs11.ObjectHandle) (ed25519.PublicKey, error) {
	a, err := s.ctx.GetAttributeValue(s.handle, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil || len(a) != 1 {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	p := a[0].Value
	if len(p) == ed25519.PublicKeySize+2 {
		p = bytes.TrimPrefix(p, []byte{0x04, ed25519.PublicKeySize})
	}
	if len(p) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("reading the public key: it has %d bytes", len(a[0].Value))
	}
	return p, nil
}

func (s *ckSession) sign(msg []byte) ([]byte, error) {
	if err := s.ctx.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEDDSA, nil)}, s.key); err != nil {
		return nil, fmt.Errorf("signing in the token: %w", err)
	}
	sig, err := s.ctx.Sign(s.handle, msg)
	if err != nil {
		return nil, fmt.Errorf("signing in the token: %w", err)
	}
	return sig, nil
}

func (s *ckSession) close() {
	_ = s.ctx.CloseSession(s.handle) // it may be gone
}
