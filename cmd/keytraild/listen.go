package main

import (
	"log/slog"
	"net"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// filesForLog is how many open files are kept from connections: the store, its index and
// its views must be able to open theirs however many clients come.
const filesForLog = 1024

// httpConnections bounds the connections to health, metrics and tiles.
const httpConnections = 1024

// connectionLimit is how many gRPC connections are taken: as many as configured, and no
// more than the limit of open files leaves room for.
func connectionLimit(configured int, logger *slog.Logger) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return configured
	}
	room := int(min(files.Cur, 1<<30)) - filesForLog - httpConnections
	if room = max(room, int(min(files.Cur, 1<<30))/4); room >= configured {
		return configured
	}
	logger.Warn("the limit of open files allows fewer connections than configured; raise it (ulimit -n, LimitNOFILE)",
		slog.Int("max_connections", configured), slog.Int("allowed", room), slog.Uint64("open_files", files.Cur))
	return room
}

// limitListener takes a bounded number of connections at a time and closes what comes
// beyond at once, so that its caller learns of it instead of waiting.
type limitListener struct {
	net.Listener
	slots   chan struct{}
	refused prometheus.Counter
}

func limitTo(l net.Listener, limit int, refused prometheus.Counter) net.Listener {
	return &limitListener{Listener: l, slots: make(chan struct{}, limit), refused: refused}
}

// Accept returns the next connection that has room.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			l.refused.Inc()
			_ = c.Close() // the caller is told by that
		}
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
