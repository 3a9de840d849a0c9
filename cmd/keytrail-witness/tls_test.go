package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate makes a certificate for 127.0.0.1 that is its own authority.
func writeCertificate(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		encoded := pem.EncodeToMemory(b)
		pool.AppendCertsFromPEM(encoded)
		if err := os.WriteFile(path, encoded, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, pool
}

// TestTLS serves over TLS, with health and metrics on an address of their own.
func TestTLS(t *testing.T) {
	base := t.TempDir()
	l := location{dir: filepath.Join(base, "w")}
	mustRun(t, "init", "--dir", l.dir, "--name", "witness.test/w1")
	cert, key, pool := writeCertificate(t, base)
	w, err := l.open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		s := service{opened: w, location: l, logger: slog.New(slog.DiscardHandler),
			options: serveOptions{listen: "127.0.0.1:0", metrics: "127.0.0.1:0", cert: cert, key: key}}
		ended <- s.run(ctx, in)
	}()
	line := make([]byte, 200)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(strings.TrimSpace(string(line[:n])), "ready http=")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	lg := newLog(t)
	r, err := client.Post("https://"+addr+"/add-checkpoint", "", bytes.NewReader(lg.request(t, 0, 3)))
	if err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("a log that is not enrolled: %v, %v; want 404", r, err)
	}
	if r, err := client.Get("https://" + addr + "/metrics"); err != nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("metrics on the public address: %v, %v; want 404", r, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("a clean stop: %v", err)
	}
}
