//go:build !cgo || !pkcs11

package keystore

// loadModule says that this build reaches no token.
func loadModule(string) (module, error) { return nil, ErrNoPKCS11 }
