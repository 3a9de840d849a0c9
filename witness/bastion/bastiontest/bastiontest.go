// Package bastiontest is an https-bastion for tests, written from the specification
// (C2SP https-bastion v1.0.0-rc.1). It accepts every backend, may be used concurrently,
// keeps nothing, and is trusted by nobody.
package bastiontest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a bastion on loopback.
type Server struct {
	// URL is where clients send requests, without the hash and without a slash at its end.
	URL string
	// Address is the HOST:PORT for backends.
	Address string
	// Authority is the certificate that its backends must trust, PEM.
	Authority []byte
	// Offered takes what each connection of a backend offers. It holds a hundred.
	Offered chan tls.ConnectionState

	mu sync.Mutex
	// known are the backends that ever came, with their connection, nil when it ended.
	known map[string]*backend
}

type backend struct {
	conn  net.Conn
	proxy http.Handler
}

// New starts a bastion that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	cert, authority := certificate(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Address: lis.Addr().String(), Authority: authority,
		Offered: make(chan tls.ConnectionState, 100), known: make(map[string]*backend),
	}
	front := httptest.NewServer(s)
	s.URL = front.URL
	config := &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"bastion/0"},
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
	}
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go s.take(tls.Server(conn, config))
		}
	}()
	t.Cleanup(func() { _ = lis.Close(); s.Drop(); front.Close() })
	return s
}

// Pool returns the authorities that a backend must trust.
func (s *Server) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(s.Authority)
	return p
}

// take makes a connection that of its backend.
func (s *Server) take(conn *tls.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if conn.HandshakeContext(ctx) != nil {
		_ = conn.Close()
		return
	}
	state := conn.ConnectionState()
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || state.NegotiatedProtocol != "bastion/0" {
		_ = conn.Close()
		return
	}
	hash := sha256.Sum256(key)
	p, err := proxy(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	s.mu.Lock()
	s.known[hex.EncodeToString(hash[:])] = &backend{conn: conn, proxy: p}
	s.mu.Unlock()
	s.Offered <- state
}

// proxy sends requests over a connection, as the side that is the client of HTTP/2.
func proxy(ctx context.Context, conn net.Conn) (http.Handler, error) {
	t := &http.Transport{
		Protocols:   new(http.Protocols),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return plain{conn}, nil },
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	client, err := t.NewClientConn(ctx, "http", "backend:80")
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Transport: client,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "backend"
			r.Out.Header["X-Forwarded-For"] = nil // All that the client sent.
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		},
	}, nil
}

// plain hides that a connection is encrypted, so that HTTP/2 begins at once.
type plain struct{ net.Conn }

// ServeHTTP answers clients.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hash, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	b, known := s.known[hash]
	s.mu.Unlock()
	switch {
	case !known:
		http.Error(w, "unknown backend", http.StatusMisdirectedRequest)
	case b == nil:
		http.Error(w, "no connection of the backend", http.StatusServiceUnavailable)
	default:
		r.URL.Path = "/" + path
		b.proxy.ServeHTTP(w, r)
	}
}

// Drop ends the connections of all backends without a word.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for hash, b := range s.known {
		if b != nil {
			_ = b.conn.Close()
			s.known[hash] = nil
		}
	}
}

// certificate makes a certificate for 127.0.0.1 that is its own authority.
func certificate(t testing.TB) (tls.Certificate, []byte) {
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
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
