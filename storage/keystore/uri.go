package keystore

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// maxURI is the longest URI in bytes.
const maxURI = 4 << 10

// uri says where a key in a token is (RFC 7512).
type uri struct {
	// What the token calls itself. Those that are set must all be right.
	token, serial, manufacturer, model string
	// object is the key's label and id its CKA_ID; those that are set must be right.
	object, id string
	// module is the path of the PKCS#11 module, a shared library.
	module string
	// pinFile is the path of the file that holds the PIN, empty for a token without one.
	pinFile string
}

// parseURI reads a pkcs11 URI (RFC 7512) of which it takes the attributes that a signer needs:
// the token by token, serial, manufacturer or model, the key by object or id, module-path,
// and pin-source as a file. It refuses all others, and a PIN in the URI itself. Its errors hold
// no value of an attribute but paths.
func parseURI(s string) (uri, error) {
	var u uri
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, errors.New("not a URI of the scheme pkcs11")
	}
	if len(s) > maxURI {
		return u, fmt.Errorf("pkcs11 URI of %d bytes is longer than %d", len(s), maxURI)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return u, errors.New("pkcs11 URI: write spaces and letters beyond ASCII with %")
		}
	}
	path, query, _ := strings.Cut(rest, "?")
	var class string
	err := errors.Join(
		attributes(path, ";", map[string]*string{
			"token": &u.token, "serial": &u.serial, "manufacturer": &u.manufacturer, "model": &u.model,
			"object": &u.object, "id": &u.id, "type": &class,
		}),
		attributes(query, "&", map[string]*string{"module-path": &u.module, "pin-source": &u.pinFile}))
	if err != nil {
		return uri{}, fmt.Errorf("pkcs11 URI: %w", err)
	}
	if u.pinFile, err = pinFile(u.pinFile); err != nil {
		return uri{}, fmt.Errorf("pkcs11 URI: %w", err)
	}
	switch {
	case u.token == "" && u.serial == "":
		err = errors.New("it names no token: state token= or serial=")
	case u.object == "" && u.id == "":
		err = errors.New("it names no key: state object= or id=")
	case class != "" && class != "private":
		err = errors.New("type is not private")
	case u.module == "":
		err = errors.New("it names no PKCS#11 module: state ?module-path=/…/module.so")
	case !filepath.IsAbs(u.module):
		err = fmt.Errorf("module-path %q is not absolute", u.module)
	}
	if err != nil {
		return uri{}, fmt.Errorf("pkcs11 URI: %w", err)
	}
	return u, nil
}

// attributes reads NAME=VALUE between separators into the values of the names that are known.
func attributes(s, separator string, known map[string]*string) error {
	if s == "" {
		return nil
	}
	for attribute := range strings.SplitSeq(s, separator) {
		name, value, ok := strings.Cut(attribute, "=")
		if name == "pin-value" {
			return errors.New("a PIN does not belong into the URI: put it into a file of mode 0600 and state pin-source=file:/…")
		}
		to := known[name]
		switch {
		case to == nil:
			return fmt.Errorf("attribute %.40q is not known here", name)
		case !ok || value == "":
			return fmt.Errorf("%s is empty", name)
		case *to != "":
			return fmt.Errorf("%s stands twice", name)
		}
		var err error
		if *to, err = url.PathUnescape(value); err != nil || strings.ContainsRune(*to, 0) && name != "id" {
			return fmt.Errorf("%s is not percent-encoded text", name)
		}
	}
	return nil
}

// pinFile reads a pin-source, which is a file: URI with an absolute path.
func pinFile(source string) (string, error) {
	if source == "" {
		return "", nil
	}
	path, ok := strings.CutPrefix(source, "file:")
	if !ok {
		return "", errors.New("pin-source is not of the form file:/…")
	}
	path = strings.TrimPrefix(path, "//") // file:///PATH
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the path of pin-source, %q, is not absolute", path)
	}
	return path, nil
}
