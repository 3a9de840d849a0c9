package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/cmd/internal/garbage"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/log/server"
	"github.com/keytrail/keytrail/log/view"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness/feed"
)

// Deadlines of a clean stop.
const (
	stopCalls = 5 * time.Second
	stopHTTP  = 2 * time.Second
)

type options struct {
	dir, grpc, http, level string
	profiles               string
	check                  bool
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "keytraild --dir DIR",
		Short: "keytraild serves a keytrail log",
		Long: `keytraild opens the log in DIR (made by keytrail init), takes key events over gRPC,
and serves health and metrics over HTTP. When it serves it prints one line
"ready grpc=HOST:PORT http=HOST:PORT" on standard output. It stops cleanly on an
interrupt: it takes no more events, finishes those it has, and publishes them.

It listens on loopback unless DIR/config.yaml names TLS files.`,
		Example: `  keytrail init --dir /var/lib/keytrail --origin log.example.com/keys
  keytraild --dir /var/lib/keytrail
  keytraild --dir /var/lib/keytrail --grpc 127.0.0.1:0 --http 127.0.0.1:0`,
		Args:    cobra.NoArgs,
		Version: cli.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			garbage.Tune(os.Getenv)
			return start(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "the log's directory (required)")
	f.StringVar(&o.grpc, "grpc", "", "address of the gRPC service, instead of the configured one; port 0 takes a free one")
	f.StringVar(&o.http, "http", "", "address of health and metrics, instead of the configured one")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.profiles, "profiles", "", "serve Go's CPU and memory profiles on a Unix socket at this path, for this user alone")
	f.BoolVar(&o.check, "check", false, "check the configuration and the keys, and exit")
	return cmd
}

func start(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if o.dir == "" {
		return cli.Usage("--dir is required")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return cli.Usage("--log-level: %v", err)
	}
	d, err := logdir.Load(o.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.Hint(err, "make a log with: keytrail init --dir %s --origin ORIGIN", o.dir)
	}
	if err != nil {
		return err
	}
	if o.grpc != "" {
		d.Config.GRPC = o.grpc
	}
	if o.http != "" {
		d.Config.HTTP = o.http
	}
	if err := d.Config.Validate(); err != nil {
		return &cli.Error{Err: err, Exit: cli.ExitUsage}
	}
	creds, err := loadTLS(d.TLS())
	if err != nil {
		return err
	}
	if err := d.CheckKeys(); err != nil {
		return err
	}
	if o.check {
		fmt.Fprintln(stdout, "configuration and keys are good")
		return nil
	}
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if o.profiles != "" {
		stop, err := profiles(o.profiles)
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
	}
	if err := run(ctx, d, creds, logger, stdout); !stoppedAtStart(ctx, err) {
		return err
	}
	return nil
}

// stoppedAtStart says whether an interrupt came before the log was open: nothing has been
// taken then, and the stop is a clean one.
func stoppedAtStart(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Canceled)
}

// loadTLS returns nil when no TLS is configured.
func loadTLS(c logdir.TLS) (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("loading tls.cert and tls.key: %w", err)
	}
	out := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if c.ClientCA == "" {
		return out, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("loading tls.client_ca: %w", err)
	}
	out.ClientCAs = x509.NewCertPool()
	if !out.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("loading tls.client_ca: %s holds no certificate", c.ClientCA)
	}
	out.ClientAuth = tls.RequireAndVerifyClientCert
	return out, nil
}

// run is the server from its first byte read to its last byte written. Stopping goes the
// way back: take no more calls, write and publish what was taken, let the views end,
// close the files.
func run(ctx context.Context, d *logdir.Dir, creds *tls.Config, logger *slog.Logger, stdout io.Writer) (err error) {
	logger.InfoContext(ctx, "starting", slog.String("dir", d.Path), slog.Any("config", d.Config), slog.String("version", cli.Version()))
	closing := func(what string, f func() error) {
		if closeErr := f(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("closing the %s: %w", what, closeErr))
		}
	}
	// The ledger comes first: its lock is on the ledger itself. Those of the store are on files
	// that somebody may have deleted, and a second process that opens it takes its logs away.
	led, err := ledger.Open(d.Ledger(), d.Config.Origin)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.Hint(err, "bring the file back; if it is lost, give the signer the newest checkpoint that anyone holds: keytrail ledger adopt --dir %s CHECKPOINT", d.Path)
	}
	if err != nil {
		return err
	}
	defer closing("signer's ledger", led.Close)
	store, err := openStore(d, logger)
	if err != nil {
		return err
	}
	defer closing("store", store.Close)
	x, err := index.Open(d.Index(), index.Options{Logger: logger})
	if err != nil {
		return err
	}
	defer closing("index", x.Close)
	nodes, err := prove.OpenNodes(d.Nodes(), logger)
	if err != nil {
		return err
	}
	defer closing("nodes for proofs", nodes.Close)
	trust, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return fmt.Errorf("reading the log's policy: %w", err)
	}
	l, err := log.Open(ctx, log.Config{
		Origin: d.Config.Origin, Signers: d.Signers, Store: store, Index: x, Nodes: nodes, Ledger: led,
		Policy:      trust,
		Witness:     feed.Config{Timeout: d.Config.Witness.Timeout, Grace: d.Config.Witness.Grace, PerDay: d.Config.Witness.PerDay},
		MinInterval: d.Config.MinInterval, Refresh: d.Config.Refresh, MaxPending: d.Config.MaxPending, Quota: d.Config.Quota.Rates(), Logger: logger,
	})
	if err != nil {
		return err
	}
	v, err := view.Open(ctx, d.Views(), l, view.Options{Logger: logger})
	if err != nil {
		return err
	}
	defer closing("views", v.Close)
	return serve(ctx, d, creds, logger, l, v, stdout)
}

func openStore(d *logdir.Dir, logger *slog.Logger) (*pebblestore.Store, error) {
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{
		Logger: logger,
		OnFatal: func(err error) {
			logger.Error("the store cannot be trusted to keep what it is given; ending", slog.Any("error", err))
			os.Exit(cli.ExitError)
		},
	})
	if errors.Is(err, storage.ErrCorrupt) {
		return nil, cli.Hint(err, "run keytrail fsck --dir %s to see what is damaged, and bring back a good copy of the store", d.Path)
	}
	return s, err
}

// serve runs the log, its views and its services until ctx ends or one of them fails.
func serve(ctx context.Context, d *logdir.Dir, creds *tls.Config, logger *slog.Logger, l *log.Log, v *view.View, stdout io.Writer) error {
	grpcLis, err := net.Listen("tcp", d.Config.GRPC)
	if err != nil {
		return cli.Hint(err, "choose another address with --grpc")
	}
	defer grpcLis.Close()
	httpLis, err := net.Listen("tcp", d.Config.HTTP)
	if err != nil {
		return cli.Hint(err, "choose another address with --http")
	}
	defer httpLis.Close()
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keytrail_connections_refused_total",
		Help: "Connections that were closed at once because max_connections was reached, by listener.",
	}, []string{"listener"})
	calls := limitTo(grpcLis, connectionLimit(d.Config.MaxConnections, logger), refused.WithLabelValues("grpc"))
	web := limitTo(httpLis, httpConnections, refused.WithLabelValues("http"))
	predecessor, err := recovery.Predecessor(d.Path)
	if err != nil {
		return err
	}
	srv := server.New(server.Config{Log: l, View: v, Policy: d.Policy, Predecessor: predecessor, Version: cli.Version(), Logger: logger})
	var grpcCreds credentials.TransportCredentials
	if creds != nil {
		grpcCreds = credentials.NewTLS(creds)
		web = tls.NewListener(web, creds)
	}
	g := srv.GRPC(grpcCreds)
	metrics := registry(l, v)
	metrics.MustRegister(refused, freeSpace("store", d.Store()), freeSpace("ledger", filepath.Dir(d.Ledger())), freeSpace("views", d.Views()))
	h := &http.Server{
		Handler: srv.HTTP(metrics), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	}

	// The log outlives the services, the views outlive the log.
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	viewCtx, stopViews := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	defer stopViews()
	group, failed := errgroup.WithContext(ctx)
	group.Go(func() error { return l.Run(logCtx) })
	group.Go(func() error { return followed(v.Run(viewCtx)) })
	group.Go(func() error {
		// A stop may come before this begins.
		if err := g.Serve(calls); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		if err := h.Serve(web); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-failed.Done()
		logger.InfoContext(ctx, "stopping")
		srv.Shutdown()
		stopGRPC(g)
		stopLog()
		shut, cancel := context.WithTimeout(context.Background(), stopHTTP)
		defer cancel()
		_ = h.Shutdown(shut) // what still hangs after that is cut off by the end
		stopViews()
		return nil
	})
	fmt.Fprintf(stdout, "ready grpc=%s http=%s\n", grpcLis.Addr(), httpLis.Addr())
	logger.InfoContext(ctx, "serving", slog.String("grpc", grpcLis.Addr().String()), slog.String("http", httpLis.Addr().String()),
		slog.Uint64("size", l.DurableSize()))
	if err := group.Wait(); err != nil {
		return err
	}
	logger.InfoContext(ctx, "stopped", slog.Uint64("size", l.DurableSize()), slog.Uint64("published", l.Published().Size))
	return nil
}

// stopGRPC lets calls end, for a while: streams end only when their clients do.
func stopGRPC(g *grpc.Server) {
	done := make(chan struct{})
	go func() { g.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopCalls):
		g.Stop()
		<-done
	}
}

// followed is what the views' end means: nothing when they were told to end, or when the
// log failed, which says why by itself.
func followed(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, log.ErrStopped) {
		return nil
	}
	return err
}

func registry(l *log.Log, v *view.View) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(l.Metrics()...)
	prometheus.WrapRegistererWithPrefix("keytrail_", r).MustRegister(v.Metrics()...)
	return r
}

// freeSpace tells how much the disk of a directory has left for this process.
func freeSpace(of, dir string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keytrail_disk_free_bytes", Help: "Free space on the disk of a part of the log.",
		ConstLabels: prometheus.Labels{"of": of},
	}, func() float64 {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return math.NaN()
		}
		return float64(st.Bavail) * float64(st.Bsize)
	})
}
