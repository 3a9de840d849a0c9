package bastion

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"sync"
	"time"
)

// certificate returns a self-signed certificate of a key. Bastions look at the key alone
// (https-bastion), so that it is made for as long as X.509 can say (RFC 5280, 4.1.2.5).
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "bastion backend"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// oneListener is a listener of one connection, and ends when that ends.
type oneListener struct {
	conn  net.Conn
	first sync.Once
	ended chan struct{}
	end   sync.Once
}

func newOneListener(conn net.Conn) *oneListener {
	return &oneListener{conn: conn, ended: make(chan struct{})}
}

// Accept returns the connection, then waits for its end.
func (l *oneListener) Accept() (net.Conn, error) {
	var c net.Conn
	l.first.Do(func() { c = &notingConn{l.conn, l} })
	if c != nil {
		return c, nil
	}
	<-l.ended
	return nil, io.EOF
}

// Close ends the waiting; the connection stays open.
func (l *oneListener) Close() error {
	l.end.Do(func() { close(l.ended) })
	return nil
}

// Addr implements net.Listener.
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// notingConn tells the listener that the connection was closed.
type notingConn struct {
	net.Conn
	l *oneListener
}

// Close implements net.Conn.
func (c *notingConn) Close() error {
	err := c.Conn.Close()
	_ = c.l.Close()
	return err
}
