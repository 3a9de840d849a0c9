// Package server offers a log over gRPC (keytrail.v1, health, reflection) and its health
// and metrics over HTTP.
//
// Its methods are called concurrently by gRPC. It makes nothing durable itself: an answer
// to an append leaves after the log says that the event is. It is trusted to name the
// producer of an event as the connection authenticated it, and to show callers no more
// than they may see.
package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// MaxMessageSize is the largest request in bytes: 1,000 events of ordinary size, or 127
// of the largest.
const MaxMessageSize = 4 << 20

// maxStreams bounds the calls under way on one connection.
const maxStreams = 1024

// Limits on connections that do nothing. A client whose connection is closed for idleness is
// told so beforehand (GOAWAY), and opens another with its next call.
const (
	handshakeTimeout  = 5 * time.Second
	idleTimeout       = 15 * time.Minute
	pingAfter         = time.Minute      // without a sign of life from the other end
	pingTimeout       = 20 * time.Second // for its answer
	leastPingInterval = 10 * time.Second // of clients; more often is answered by closing
)

// What a stream may send ahead of what is read here, and a connection ahead of what has arrived,
// in bytes: gRPC gives a connection's window back when data comes, a stream's when it is read. They
// are fixed, since gRPC's own estimate sends a PING for nearly every message of a client that waits
// for answers, and may let each stream that is held back send 16 MB. At 20 ms to the client and
// back this is 25 MB/s a stream.
const (
	streamAhead     = 512 << 10
	connectionAhead = 1 << 20
)

// streamWorkers is how many goroutines are kept for calls. A new goroutine for each call spends
// an eighth of a unary append's time on growing its stack; calls beyond these get one.
const streamWorkers = 256

// Config is what a Server is made of.
type Config struct {
	Log  *log.Log
	View *view.View
	// Policy is the log's policy file, as clients should use it.
	Policy string
	// Predecessor is the final statement of the log that this one continues; nil when it
	// continues none.
	Predecessor []byte
	// Version is that of the program.
	Version string
	// Logger, nil for none.
	Logger *slog.Logger
}

// Server implements keytrail.v1.LogService; its appends only by way of GRPC.
type Server struct {
	rpc.UnimplementedLogServiceServer
	log    *log.Log
	view   *view.View
	policy string
	// predecessor is shown as it is; nobody here relies on it.
	predecessor []byte
	version     string
	logger      *slog.Logger
	health      *health.Server

	stopOnce sync.Once
	stopping chan struct{} // closed by Shutdown
}

// New returns a server for a log that runs.
func New(c Config) *Server {
	s := &Server{
		log: c.Log, view: c.View, policy: c.Policy, predecessor: c.Predecessor, version: c.Version, logger: c.Logger,
		health: health.NewServer(), stopping: make(chan struct{}),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.health.SetServingStatus(rpc.LogService_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	return s
}

// GRPC returns a gRPC server with the log's service, health and reflection; creds nil
// means plain text.
func (s *Server) GRPC(creds credentials.TransportCredentials) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(MaxMessageSize),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(streamAhead),
		grpc.StaticConnWindowSize(connectionAhead),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: leastPingInterval, PermitWithoutStream: true,
		}),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	g := grpc.NewServer(opts...)
	g.RegisterService(serviceDesc(), s)
	grpc_health_v1.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// Shutdown tells health checks that the server no longer serves, and append streams that
// they end: each answers what it has received, then UNAVAILABLE. Other calls are served on;
// grpc.Server.GracefulStop waits for them.
func (s *Server) Shutdown() {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.health.Shutdown()
}

// producer names who is at the other end, as TLS authenticated it: the certificate's URI
// (SPIFFE) first, then its DNS name, then its common name. Empty without a certificate.
func producer(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return ""
	}
	cert := info.State.VerifiedChains[0][0]
	switch {
	case len(cert.URIs) > 0:
		return cert.URIs[0].String()
	case len(cert.DNSNames) > 0:
		return cert.DNSNames[0]
	}
	return cert.Subject.CommonName
}
