package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

// Limits of a connection. A request is 128 KiB at most and answered in milliseconds.
const (
	readHeader = 5 * time.Second
	readAll    = 10 * time.Second
	writeAll   = 20 * time.Second
	idle       = 2 * time.Minute // Logs keep their connections (tlog-witness).
	maxHeader  = 8 << 10
	stopWithin = 10 * time.Second
)

type serveOptions struct {
	listen, metrics, level string
	cert, key              string
}

func command() *cobra.Command {
	var l location
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "keytrail-witness --dir DIR",
		Short: "keytrail-witness cosigns the checkpoints of transparency logs",
		Long: `keytrail-witness serves the C2SP tlog-witness protocol for the logs that were enrolled in
DIR: POST /add-checkpoint, and GET /HASH/checkpoint for monitors, where HASH is the
SHA-256 of the log's origin. It cosigns a checkpoint only when the log proves that it
extends the one cosigned before, with an Ed25519 and an ML-DSA-44 key, after that is on
stable storage. When it serves it prints one line "ready http=HOST:PORT" on standard output.

Behind a proxy leave TLS to the proxy. The other commands need the witness stopped, but
for evidence.`,
		Example: `  keytrail-witness init --dir /var/lib/witness --name witness.example.com/w1
  keytrail-witness enroll --dir /var/lib/witness log.example.com/keys+d4fb6bb4+AdVz…
  keytrail-witness --dir /var/lib/witness --listen :8080 --metrics 127.0.0.1:9090`,
		Args:    cobra.NoArgs,
		Version: cli.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return start(cmd.Context(), l, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	p := cmd.PersistentFlags()
	p.StringVar(&l.dir, "dir", "", "the witness's directory (required)")
	p.StringVar(&l.counter, "counter", "", "the counter file, by which a store that went back is noticed; best on another medium (default DIR/counter)")
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to serve on; port 0 takes a free one")
	f.StringVar(&o.metrics, "metrics", "", "address of /healthz and /metrics (default: the same as --listen)")
	f.StringVar(&o.cert, "tls-cert", "", "file with the TLS certificate chain, PEM")
	f.StringVar(&o.key, "tls-key", "", "file with the TLS private key, PEM")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(initCommand(&l), enrollCommand(&l), listCommand(&l), removeCommand(&l), evidenceCommand(&l), adoptCommand(&l))
	return cmd
}

func start(ctx context.Context, l location, o serveOptions, stdout, stderr io.Writer) (err error) {
	if err := l.require(); err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return cli.Usage("--log-level: %v", err)
	}
	if (o.cert == "") != (o.key == "") {
		return cli.Usage("--tls-cert and --tls-key go together")
	}
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	w, err := l.open(ctx, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return serve(ctx, w, o, logger, stdout)
}

// serve answers until ctx ends.
func serve(ctx context.Context, w *opened, o serveOptions, logger *slog.Logger, stdout io.Writer) error {
	main := http.NewServeMux()
	main.Handle("/", w.Handler())
	admin := main
	if o.metrics != "" {
		admin = http.NewServeMux()
	}
	admin.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := w.Err(); err != nil {
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	admin.Handle("GET /metrics", promhttp.HandlerFor(registry(w), promhttp.HandlerOpts{}))

	lis, err := listen(o)
	if err != nil {
		return err
	}
	defer lis.Close()
	servers := map[*http.Server]net.Listener{server(main, logger): lis}
	if o.metrics != "" {
		adminLis, err := net.Listen("tcp", o.metrics)
		if err != nil {
			return cli.Hint(err, "choose another address with --metrics")
		}
		defer adminLis.Close()
		servers[server(admin, logger)] = adminLis
	}
	group, failed := errgroup.WithContext(ctx)
	for s, lis := range servers {
		group.Go(func() error {
			if err := s.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		group.Go(func() error {
			<-failed.Done()
			shut, cancel := context.WithTimeout(context.Background(), stopWithin)
			defer cancel()
			if err := s.Shutdown(shut); err != nil {
				return s.Close()
			}
			return nil
		})
	}
	fmt.Fprintf(stdout, "ready http=%s\n", lis.Addr())
	logger.InfoContext(ctx, "serving", slog.String("http", lis.Addr().String()), slog.Int("logs", len(w.Logs())), slog.String("version", cli.Version()))
	if err := group.Wait(); err != nil {
		return err
	}
	logger.InfoContext(ctx, "stopped")
	return nil
}

func listen(o serveOptions) (net.Listener, error) {
	lis, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, cli.Hint(err, "choose another address with --listen")
	}
	if o.cert == "" {
		return lis, nil
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading --tls-cert and --tls-key: %w", err), lis.Close())
	}
	return tls.NewListener(lis, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

func server(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: readHeader, ReadTimeout: readAll, WriteTimeout: writeAll,
		IdleTimeout: idle, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

func registry(w *opened) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(w.Metrics()...)
	return r
}

// require checks that a directory was named.
func (l location) require() error {
	if l.dir == "" {
		return cli.Usage("--dir is required")
	}
	return nil
}
