package interop_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/tlog"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// foreignWitness is a witness of another project.
type foreignWitness struct {
	*process
	url  string
	vkey string
	// enroll makes it serve a log with one Ed25519 key.
	enroll func(t testing.TB, origin, vkey string)
	// restart serves it again, at the same address, after a stop.
	restart func(t testing.TB)
}

// newLitewitness serves torchwood's litewitness.
func newLitewitness(t testing.TB, name string) *foreignWitness {
	t.Helper()
	dir := t.TempDir()
	fingerprint, key := serveAgent(t, filepath.Join(dir, "s"))
	signer, err := torchwood.NewCosignatureSigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	w := &foreignWitness{vkey: signer.Verifier().String()}
	args := func(addr string) []string {
		return []string{"-name", name, "-ssh-agent", "s", "-key", fingerprint, "-listen", addr}
	}
	var addr string
	w.process, addr = startAt(t, litewitness, dir, args)
	w.url = "http://" + addr
	w.restart = func(t testing.TB) {
		t.Helper()
		if w.process = start(t, litewitness, dir, args(addr)...); !w.listens(addr) {
			t.Fatal("litewitness does not come back")
		}
	}
	w.enroll = func(t testing.TB, origin, vkey string) {
		t.Helper()
		enrollLitewitness(t, filepath.Join(dir, "litewitness.db"), origin, vkey)
	}
	return w
}

// serveAgent serves a new Ed25519 key as an ssh-agent does.
func serveAgent(t testing.TB, socket string) (fingerprint string, key ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: &key}); err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed at the end
			}
			go func() { _ = agent.ServeAgent(keyring, c) }()
		}
	}()
	return ssh.FingerprintSHA256(public), key
}

// enrollLitewitness does what witnessctl's add-log and add-key do.
func enrollLitewitness(t testing.TB, db, origin, vkey string) {
	t.Helper()
	conn, err := sqlite.OpenConn(db, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	empty, err := tlog.TreeHash(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		text string
		args []any
	}{
		{"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", []any{origin, empty.String()}},
		{"INSERT INTO key (origin, key) VALUES (?, ?)", []any{origin, vkey}},
	} {
		if err := sqlitex.Execute(conn, q.text, &sqlitex.ExecOptions{Args: q.args}); err != nil {
			t.Fatal(err)
		}
	}
}

// newSunlight serves sunlight with its witness. It enrols logs from a log list, which it
// reads at its start: all logs must be known before. Without a log of its own sunlight
// ends at once, so it gets one.
func newSunlight(t testing.TB, name string, vkeys ...string) *foreignWitness {
	t.Helper()
	dir := t.TempDir()
	list := "logs/v0\n"
	for _, k := range vkeys {
		list += fmt.Sprintf("\nvkey %s\nqpd 86400\ncontact nobody\n", k)
	}
	lists := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(list)) }))
	t.Cleanup(lists.Close)
	seed := bytes.Repeat([]byte{42}, 32)
	write(t, filepath.Join(dir, "seed.bin"), seed)
	write(t, filepath.Join(dir, "roots.pem"), rootCertificate(t))
	makeSunlightDB(t, filepath.Join(dir, "checkpoints.db"))
	w := &foreignWitness{}
	var addr string
	w.process, addr = startAt(t, sunlight, dir, func(addr string) []string {
		write(t, filepath.Join(dir, "sunlight.yaml"), fmt.Appendf(nil, `listen: ["%s"]
checkpoints: checkpoints.db
witness: {name: "%s", secret: seed.bin, submissionprefix: "https://127.0.0.1/w", loglists: ["%s"]}
logs:
- shortname: own
  inception: "%s"
  submissionprefix: https://own.test
  monitoringprefix: https://own.test/read
  roots: roots.pem
  secret: seed.bin
  cache: cache.db
  localdirectory: own
  notafterstart: "2024-01-01T00:00:00Z"
  notafterlimit: "2034-01-01T00:00:00Z"
`, addr, name, lists.URL, time.Now().Format(time.DateOnly)))
		return []string{"-c", "sunlight.yaml"}
	})
	w.url = "http://" + addr + "/w"
	secret, err := hkdf.Key(sha256.New, seed, []byte("sunlight Ed25519 witness key"), name, ed25519.SeedSize)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := torchwood.NewCosignatureSigner(name, ed25519.NewKeyFromSeed(secret))
	if err != nil {
		t.Fatal(err)
	}
	w.vkey = signer.Verifier().String()
	// It reads the list beside serving; its home page names the logs.
	eventually(t, "sunlight reads the log list", func() error {
		home, err := get(t.Context(), "http://"+addr+"/")
		for _, k := range vkeys {
			if origin, _, _ := strings.Cut(k, "+"); err == nil && !bytes.Contains(home, []byte(origin)) {
				err = errors.New("not enrolled: " + origin)
			}
		}
		return err
	})
	return w
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// makeSunlightDB makes the database as sunlight's manual says.
func makeSunlightDB(t testing.TB, file string) {
	t.Helper()
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite, sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.Execute(conn, "CREATE TABLE checkpoints (logID BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT", nil); err != nil {
		t.Fatal(err)
	}
}

// rootCertificate is what sunlight's own log accepts; nobody submits anything.
func rootCertificate(t testing.TB) []byte {
	t.Helper()
	cert, _ := certificate(t)
	return cert
}

// certificate makes a certificate of 127.0.0.1 that is its own authority, and its key.
func certificate(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
