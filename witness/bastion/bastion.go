// Package bastion is the backend side of a C2SP https-bastion (v1.0.0-rc.1): it lets a
// server that nobody can reach, behind NAT or on purpose, answer HTTP requests that come to
// a public reverse proxy.
//
// The backend connects to the bastion with TLS 1.3, shows an Ed25519 key and answers HTTP/2
// requests on that connection. Clients use https://BASTION/HASH/, where HASH is the key's
// Hash. A Backend may be asked for its state while Run is under way; it keeps nothing.
//
// The bastion is trusted with nothing but to be there: it sees every request and answer and
// can change or drop them, which is why only self-authenticating protocols such as
// tlog-witness belong behind it. The key proves to the bastion who the backend is, and is
// best used for nothing else (https-bastion, appendix A).
package bastion

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// protocol is the ALPN protocol of backends.
const protocol = "bastion/0"

// Limits of a connection.
const (
	dialWithin = 10 * time.Second
	stopWithin = 10 * time.Second
	// A connection on which nothing comes is asked for a sign of life, so that one that
	// a NAT has forgotten is noticed and made anew.
	quiet      = 20 * time.Second
	lifeWithin = 10 * time.Second
	streams    = 256
)

// The delay before the next attempt doubles from the first to the last. A connection that
// lasted longer than the last begins anew with the first.
const (
	firstDelay = time.Second
	lastDelay  = time.Minute
)

// Config is what a backend is made of.
type Config struct {
	// Address is the bastion's HOST:PORT for backends; its certificate must be for HOST.
	Address string
	// Key is the backend's key.
	Key ed25519.PrivateKey
	// Server answers the requests: its Handler, timeouts and limits count. It is not
	// used itself; its TLSConfig, TLSNextProto, Protocols and HTTP2 are ignored.
	Server *http.Server
	// Roots are the authorities of the bastion's certificate; nil takes the system's.
	Roots *x509.CertPool
	// Logger takes what happens; nil discards it.
	Logger *slog.Logger
}

// Backend keeps a connection to one bastion.
type Backend struct {
	config    Config
	tls       *tls.Config
	connected atomic.Bool
}

// Hash returns the first segment of the path of requests to a backend: the SHA-256 hash of
// its public key, 64 lower-case hexadecimal digits.
func Hash(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return hex.EncodeToString(h[:])
}

// New returns a backend; an error is about the configuration.
func New(c Config) (*Backend, error) {
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("bastion: no key")
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err == nil && (host == "" || port == "") {
		err = errors.New("not HOST:PORT")
	}
	if err != nil {
		return nil, fmt.Errorf("bastion: address %q: %w", c.Address, err)
	}
	cert, err := certificate(c.Key)
	if err != nil {
		return nil, fmt.Errorf("bastion: making a certificate: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Backend{config: c, tls: &tls.Config{
		ServerName: host, RootCAs: c.Roots, NextProtos: []string{protocol},
		Certificates: []tls.Certificate{cert},
		// "Other TLS versions MUST be rejected": below 1.3 anyone on the way sees the key.
		MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS13,
	}}, nil
}

// Connected reports whether the connection to the bastion is there.
func (b *Backend) Connected() bool { return b.connected.Load() }

// Run connects, and connects again whenever the connection ends, until ctx does. Requests
// that are under way then are answered before it returns, for at most ten seconds. It
// returns nil: whatever goes wrong with the bastion may be well later.
func (b *Backend) Run(ctx context.Context) error {
	log := b.config.Logger.With(slog.String("bastion", b.config.Address))
	delay := firstDelay
	for {
		begin := time.Now()
		err := b.serve(ctx, log)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begin) > lastDelay {
			delay = firstDelay
		}
		// Half of the delay is chance, so that the backends of a bastion that was
		// restarted do not all come at once.
		wait := delay/2 + rand.N(delay/2)
		log.WarnContext(ctx, "not connected to the bastion", slog.Any("error", err), slog.Duration("again_in", wait))
		delay = min(2*delay, lastDelay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// serve answers requests on one connection until it or ctx ends.
func (b *Backend) serve(ctx context.Context, log *slog.Logger) error {
	conn, err := b.dial(ctx)
	if err != nil {
		return err
	}
	b.connected.Store(true)
	defer b.connected.Store(false)
	log.InfoContext(ctx, "connected to the bastion", slog.String("hash", Hash(b.config.Key.Public().(ed25519.PublicKey))))
	s := b.server()
	lis := newOneListener(conn)
	ended := make(chan struct{})
	go func() {
		err = s.Serve(lis)
		close(ended)
	}()
	select {
	case <-ended:
		return errors.Join(err, conn.Close())
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if s.Shutdown(stop) != nil {
		_ = s.Close()
	}
	<-ended
	return conn.Close()
}

func (b *Backend) dial(ctx context.Context) (net.Conn, error) {
	dial, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true}}, Config: b.tls}
	conn, err := d.DialContext(dial, "tcp", b.config.Address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	// A server that knows no ALPN at all would be no bastion.
	if p := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; p != protocol {
		return nil, errors.Join(fmt.Errorf("connecting: the server speaks %q, not %s", p, protocol), conn.Close())
	}
	return conn, nil
}

// server returns an HTTP/2 server for one connection. To net/http the connection is not
// encrypted: TLS is done, and its ALPN protocol is one that net/http does not know.
func (b *Backend) server() *http.Server {
	c := b.config.Server
	s := &http.Server{
		Handler: c.Handler, ReadHeaderTimeout: c.ReadHeaderTimeout, ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout,
		MaxHeaderBytes: c.MaxHeaderBytes, ErrorLog: c.ErrorLog,
		IdleTimeout: -1, // The connection stays when no request comes.
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: streams, SendPingTimeout: quiet, PingTimeout: lifeWithin, WriteByteTimeout: lifeWithin},
	}
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}
