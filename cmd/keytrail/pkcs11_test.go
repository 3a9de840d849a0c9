//go:build cgo && pkcs11

package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keytrail/keytrail/storage/keystore/keystoretest"
)

// TestPKCS11 runs the scripts that need a token of SoftHSM. make test-pkcs11 has keytraild
// built with PKCS#11, too.
func TestPKCS11(t *testing.T) {
	pin := keystoretest.Tokens(t, "keytrail")
	p := scripts(t, "testdata/pkcs11")
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		env.Setenv("SOFTHSM2_CONF", os.Getenv("SOFTHSM2_CONF"))
		env.Setenv("PIN_FILE", pin)
		env.Setenv("PIN", keystoretest.PIN)
		env.Setenv("LOG_KEY", keystoretest.URI("keytrail", "log", pin))
		env.Setenv("OTHER_KEY", keystoretest.URI("keytrail", "other", pin))
		return setup(env)
	}
	testscript.Run(t, p)
}
