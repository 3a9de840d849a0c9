// Package client appends to a keytrail log and reads from it over gRPC.
//
// A Client may be used concurrently. Events that many goroutines have to append one by one
// cost least by way of a Queue. An append that has returned is durable in the log;
// one that failed with a transport error may be recorded or not, and sending the event
// again, with its id, settles it. The package verifies nothing: package client/verify
// does, from what the log gives out.
package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// DefaultServer is where keytraild listens when nothing else is configured.
const DefaultServer = "127.0.0.1:7410"

// maxMessage bounds an answer, in bytes: a page of 1,000 events, or receipts of as many.
const maxMessage = 64 << 20

// What the log may send ahead of what is read, in bytes, of one stream and in all. They are fixed
// so that gRPC does not send a PING for nearly every answer to estimate them.
const (
	streamAhead     = 1 << 20
	connectionAhead = 4 << 20
)

// TLS names files in PEM. The zero value means plain text to loopback addresses, and TLS
// with the system's roots to all others.
type TLS struct {
	// CA replaces the system's roots.
	CA string
	// Cert and Key prove who the client is.
	Cert, Key string
}

// Client is a connection to a log.
type Client struct {
	rpc.LogServiceClient
	conn *grpc.ClientConn
}

// Dial prepares a connection to HOST:PORT; it is made by the first call.
func Dial(server string, t TLS) (*Client, error) {
	creds, err := t.credentials(server)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+server,
		grpc.WithTransportCredentials(creds),
		grpc.WithStaticStreamWindowSize(streamAhead),
		grpc.WithStaticConnWindowSize(connectionAhead),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	return &Client{LogServiceClient: rpc.NewLogServiceClient(conn), conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func (t TLS) credentials(server string) (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("server address %q is no HOST:PORT: %w", server, err)
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || (ip != nil && ip.IsLoopback())
	if loopback && t == (TLS{}) {
		return insecure.NewCredentials(), nil
	}
	cfg, err := t.Config()
	if err != nil {
		return nil, err
	}
	cfg.ServerName = host
	return credentials.NewTLS(cfg), nil
}

// Config reads the files, for a connection of another kind to the same log.
func (t TLS) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("loading the CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("loading the CA: %s holds no certificate", t.CA)
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("loading the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
