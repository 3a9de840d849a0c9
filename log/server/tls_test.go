package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(t *testing.T, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestProducerIsWhoTheCertificateNames(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	spiffe := &url.URL{Scheme: "spiffe", Host: "acme.example", Path: "/kms"}
	serverCreds := func(auth tls.ClientAuthType) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{ca.issue(t, x509.Certificate{DNSNames: []string{"log.test"}})},
			ClientCAs:    ca.pool(), ClientAuth: auth, MinVersion: tls.VersionTLS13,
		})
	}
	for _, c := range []struct {
		name     string
		template *x509.Certificate
		want     string
	}{
		{"URI", &x509.Certificate{Subject: pkix.Name{CommonName: "cn"}, DNSNames: []string{"kms.acme.example"}, URIs: []*url.URL{spiffe}}, "spiffe://acme.example/kms"},
		{"DNS name", &x509.Certificate{Subject: pkix.Name{CommonName: "cn"}, DNSNames: []string{"kms.acme.example"}}, "kms.acme.example"},
		{"common name", &x509.Certificate{Subject: pkix.Name{CommonName: "kms-3"}}, "kms-3"},
		{"no certificate", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &tls.Config{RootCAs: ca.pool(), ServerName: "log.test", MinVersion: tls.VersionTLS13}
			auth := tls.NoClientCert
			if c.template != nil {
				cfg.Certificates = []tls.Certificate{ca.issue(t, *c.template)}
				auth = tls.RequireAndVerifyClientCert
			}
			f := start(t, options{server: serverCreds(auth), client: credentials.NewTLS(cfg)})
			if _, err := f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(0, "k"), Wait: rpc.Wait_WAIT_PUBLISHED}); err != nil {
				t.Fatal(err)
			}
			s := stream(t, f)
			send(t, s, rpc.Wait_WAIT_PUBLISHED, logtest.Event(1, "k"))
			receive(t, s)
			for i := range uint64(2) {
				e, err := f.GetEntry(t.Context(), &rpc.GetEntryRequest{Index: i})
				if err != nil {
					t.Fatal(err)
				}
				if got := e.GetEntry().GetProducer(); got != c.want {
					t.Errorf("producer of entry %d is %q, want %q", i, got, c.want)
				}
			}
		})
	}
	t.Run("certificate of a stranger", func(t *testing.T) {
		cfg := &tls.Config{
			RootCAs: ca.pool(), ServerName: "log.test", MinVersion: tls.VersionTLS13,
			Certificates: []tls.Certificate{newAuthority(t).issue(t, x509.Certificate{DNSNames: []string{"kms.acme.example"}})},
		}
		f := start(t, options{server: serverCreds(tls.RequireAndVerifyClientCert), client: credentials.NewTLS(cfg)})
		fails(t, second(f.Append(t.Context(), &rpc.AppendRequest{Event: logtest.Event(0, "k")})), codes.Unavailable)
	})
}
