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
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/witness/bastion"
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
	bastions               []string
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

Health and metrics are at /healthz and /metrics, of --metrics if it is given, else beside
the protocol. Behind a proxy leave TLS to the proxy. Behind NAT connect to a bastion
(C2SP https-bastion), which must know the key that bastion-key shows.

Enroll, list, remove and evidence work while the witness runs, without a restart.

It runs on half of the machine's processors; the environment variable GOMAXPROCS sets
another number, for a machine of its own with many logs.`,
		Example: `  keytrail-witness init --dir /var/lib/witness --name witness.example.com/w1
  keytrail-witness enroll --dir /var/lib/witness log.example.com/keys+d4fb6bb4+AdVz…
  keytrail-witness --dir /var/lib/witness --listen :8080 --metrics 127.0.0.1:9090
  keytrail-witness --dir /var/lib/witness --bastion bastion.example.com:443`,
		Args:    cobra.NoArgs,
		Version: cli.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			tune(os.Getenv)
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
	f.StringArrayVar(&o.bastions, "bastion", nil, "`HOST:PORT` of a bastion to serve through, too; may be repeated")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(initCommand(&l), enrollCommand(&l), listCommand(&l), removeCommand(&l), evidenceCommand(&l), adoptCommand(&l), bastionKeyCommand(&l), keyCommand(&l))
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
	if err := l.checkKeys(); err != nil {
		return err
	}
	w, err := l.open(ctx, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	backends, err := backends(l, o, server(w.Handler(), logger), logger)
	if err != nil {
		return err
	}
	return (&service{w, l, o, backends, logger}).run(ctx, stdout)
}

// service is a witness with all through which it is reached.
type service struct {
	*opened
	location location
	options  serveOptions
	backends []*bastion.Backend
	logger   *slog.Logger
}

// endpoint is a server with its listener.
type endpoint struct {
	*http.Server
	lis net.Listener
}

// run answers until ctx ends.
func (s *service) run(ctx context.Context, stdout io.Writer) error {
	lis, err := listen(s.options)
	if err != nil {
		return err
	}
	defer lis.Close()
	main := http.NewServeMux()
	main.Handle("/", s.Handler())
	endpoints := []endpoint{{server(main, s.logger), lis}}
	admin := main
	if s.options.metrics != "" {
		adminLis, err := net.Listen("tcp", s.options.metrics)
		if err != nil {
			return cli.Hint(err, "choose another address with --metrics")
		}
		defer adminLis.Close()
		admin = http.NewServeMux()
		endpoints = append(endpoints, endpoint{server(admin, s.logger), adminLis})
	}
	s.administer(admin)
	switch control, err := s.location.listenControl(); {
	case errors.Is(err, errPath):
		s.logger.WarnContext(ctx, "enroll, list and remove need the witness stopped", slog.Any("error", err))
	case err != nil:
		return err
	default:
		defer control.Close()
		endpoints = append(endpoints, endpoint{server(controlHandler(s, s.logger), s.logger), control})
	}
	group, failed := errgroup.WithContext(ctx)
	for _, e := range endpoints {
		group.Go(func() error { return e.run(failed) })
	}
	for _, b := range s.backends {
		group.Go(func() error { return b.Run(failed) })
	}
	fmt.Fprintf(stdout, "ready http=%s\n", lis.Addr())
	s.logger.InfoContext(ctx, "serving", slog.String("http", lis.Addr().String()), slog.Int("logs", len(s.Logs())), slog.String("version", cli.Version()))
	if err := group.Wait(); err != nil {
		return err
	}
	s.logger.InfoContext(ctx, "stopped")
	return nil
}

// administer adds what the operator asks for.
func (s *service) administer(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := s.Err(); err != nil {
			http.Error(rw, "the witness cosigns nothing more; its log says why", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{}))
}

// run serves until ctx ends, then answers what is under way, for stopWithin at most.
func (e endpoint) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- e.Serve(e.lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := e.Shutdown(stop); err != nil {
		return e.Close()
	}
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

// registry holds what /metrics shows.
func (s *service) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(s.Metrics()...)
	for i, b := range s.backends {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keytrail_witness_bastion_connected", Help: "1 while the connection to the bastion is there.",
			ConstLabels: prometheus.Labels{"bastion": s.options.bastions[i]},
		}, func() float64 {
			if b.Connected() {
				return 1
			}
			return 0
		}))
	}
	return r
}

// require checks that a directory was named.
func (l location) require() error {
	if l.dir == "" {
		return cli.Usage("--dir is required")
	}
	return nil
}
