package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/policy"
)

// monitorFlags are those of keytrail monitor.
type monitorFlags struct {
	url, policy, origin, dir string
	once, payloads           bool
	interval, maxAge         time.Duration
	compare                  []string
	metrics, level           string
}

// failuresAllowed is how many rounds in a row may get no answer before a monitor that runs
// for ever says so: a restart of the server is no news.
const failuresAllowed = 2

func (a *app) monitorCommand() *cobra.Command {
	var f monitorFlags
	cmd := &cobra.Command{
		Use:   "monitor --url URL --policy FILE --dir STATE",
		Short: "watch a log from outside, and raise alarms",
		Long: `monitor follows a log's checkpoints: it verifies signatures, quorum and age, that each tree
extends the one before, and that the policy's witnesses were shown the same tree. With
--payloads and access to the log's gRPC server it also checks every record: that the log
committed to it, that its clock does not go back, and that no key's history has a gap.

Alarms go to standard output, one a line: time, severity, kind, what is wrong. An alarm is
printed again only when something but its wording changed, and once more when it is over.
Severities: critical (tampering is proven), warning (something could not be checked) and
info (a witness does not answer; the quorum says how many must).

STATE keeps the last checkpoint, the ends of all key chains, and evidence, which keytrail
verify evidence proves to others. While evidence of a fork lies in STATE/evidence every run
reports it and exits with 3: move the file away when it is dealt with. STATE/checkpoint may
be given to other monitors of the log: with --compare they find out whether both were shown
one history.

Exit status with --once: 0 fine, 1 something could not be checked, 3 tampering is proven.
Without it the command runs until it is interrupted, and exits with 3 if tampering is proven
then.`,
		Example: `  keytrail monitor --url https://log.example.com/ --policy policy --dir state
  keytrail monitor --url https://log.example.com/ --policy policy --dir state --once \
    --compare theirs.checkpoint
  keytrail monitor --url https://log.example.com/ --policy policy --dir state \
    --payloads --server log.example.com:7410 --tls-cert me.pem --tls-key me.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.monitor(cmd.Context(), &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.url, "url", "", "prefix of the log's tile API, or a directory with a mirror (required)")
	fl.StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy; required)")
	fl.StringVar(&f.dir, "dir", "", "the state directory; made when it does not exist (required)")
	fl.StringVar(&f.origin, "origin", "", "the log's origin (needed when the policy knows several)")
	fl.BoolVar(&f.once, "once", false, "look once and exit")
	fl.DurationVar(&f.interval, "interval", monitor.DefaultInterval, "time between two looks, at least 1s")
	fl.DurationVar(&f.maxAge, "max-age", 0, "raise an alarm when the policy's witnesses last called the tree the newest longer ago (default any age)")
	fl.StringArrayVar(&f.compare, "compare", nil, "a checkpoint that somebody else was shown; may be given several times")
	fl.BoolVar(&f.payloads, "payloads", false, "check payloads too, read from --server")
	fl.StringVar(&f.metrics, "metrics", "", "address of /metrics and /healthz; port 0 takes a free one (default none)")
	fl.StringVar(&f.level, "log-level", "warn", "debug, info, warn or error")
	for _, name := range []string{"url", "policy", "dir"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// monitor opens what the flags name and watches.
func (a *app) monitor(ctx context.Context, f *monitorFlags, stdout, stderr io.Writer) (err error) {
	cfg, err := f.config(stderr)
	if err != nil {
		return err
	}
	if f.payloads {
		c, err := client.Dial(a.server, a.tls)
		if err != nil {
			return err
		}
		defer c.Close()
		cfg.Payloads = c
	}
	m, err := monitor.Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	out := &alarms{w: stdout, json: a.json, origin: cfg.Origin}
	if f.once {
		r, err := m.Round(ctx)
		if err != nil {
			return interrupted(ctx, err)
		}
		for _, c := range r.Changes {
			if err := out.change(c); err != nil {
				return err
			}
		}
		if err := out.round(r); err != nil {
			return err
		}
		return exitOf(r.Verdict())
	}
	if err := serveMonitor(ctx, f, m, stdout, func(ctx context.Context) error { return m.Run(ctx, f.interval, out.change) }); err != nil {
		return err
	}
	if r := m.LastRound(); r != nil && r.Verdict() == monitor.Tampered {
		return exitOf(monitor.Tampered)
	}
	return nil
}

func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// exitOf turns a verdict into an exit status; the alarms have said why.
func exitOf(v monitor.Verdict) error {
	switch v {
	case monitor.Tampered:
		return &cli.Error{Err: errors.New("tampered"), Exit: cli.ExitTampered, Silent: true}
	case monitor.Unknown:
		return &cli.Error{Err: errors.New("cannot tell"), Exit: cli.ExitError, Silent: true}
	case monitor.Fine:
	}
	return nil
}

// config checks the flags.
func (f *monitorFlags) config(stderr io.Writer) (monitor.Config, error) {
	none := monitor.Config{}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return none, cli.Usage("--log-level: %v", err)
	}
	switch {
	case f.interval < time.Second:
		return none, cli.Usage("--interval: %v is less than 1s", f.interval)
	case f.maxAge < 0:
		return none, cli.Usage("--max-age: %v is negative", f.maxAge)
	case f.once && f.metrics != "":
		return none, cli.Usage("--metrics and --once do not go together")
	}
	p, err := loadPolicy(f.policy)
	if err != nil {
		return none, err
	}
	origin, err := f.originOf(p)
	if err != nil {
		return none, err
	}
	log, err := tiles.Open(f.url, tiles.Options{})
	if err != nil {
		return none, cli.Usage("--url: %v", err)
	}
	views, err := monitor.WitnessViews(p, origin, tiles.Options{})
	if err != nil {
		return none, err
	}
	for _, path := range f.compare {
		views = append(views, monitor.FileView(path))
	}
	cfg := monitor.Config{
		Origin: origin, Log: log, Policy: p, Dir: f.dir, MaxAge: f.maxAge, Views: views,
		Logger: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	if !f.once {
		cfg.Failures = failuresAllowed
	}
	return cfg, nil
}

func (f *monitorFlags) originOf(p *policy.Policy) (string, error) {
	origins := p.Origins()
	switch {
	case f.origin != "":
		return f.origin, nil
	case len(origins) == 1:
		return origins[0], nil
	case len(origins) == 0:
		return "", errors.New("the policy knows no log")
	}
	return "", cli.Usage("the policy knows several logs; choose one with --origin")
}

// serveMonitor runs the monitor beside its metrics, until ctx or one of both ends.
func serveMonitor(ctx context.Context, f *monitorFlags, m *monitor.Monitor, stdout io.Writer, run func(context.Context) error) error {
	if f.metrics == "" {
		return run(ctx)
	}
	lis, err := net.Listen("tcp", f.metrics)
	if err != nil {
		return cli.Hint(err, "choose another address with --metrics")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.Metrics()...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", healthz(m, f.interval))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second}
	fmt.Fprintf(stdout, "ready http=%s\n", lis.Addr())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving metrics: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		return errors.Join(run(ctx), server.Close())
	})
	return group.Wait()
}

// healthz answers whether the monitor itself still looks: an alarm is not its illness.
func healthz(m *monitor.Monitor, interval time.Duration) http.Handler {
	start := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		last := start
		if r := m.LastRound(); r != nil {
			last = r.Time
		}
		// A round that reads payloads takes an interval longer, and requests may take their
		// time to fail.
		if ago := time.Since(last); ago > 4*interval+5*time.Minute {
			http.Error(w, fmt.Sprintf("the last look at the log ended %v ago", ago.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
}

// alarms prints what a monitor finds.
type alarms struct {
	w      io.Writer
	json   bool
	origin string
}

// alarmJSON is what --json prints for a change.
type alarmJSON struct {
	Time     string `json:"time"`
	State    string `json:"state"`
	Severity string `json:"severity"`
	Kind     string `json:"kind"`
	Origin   string `json:"origin"`
	Subject  string `json:"subject,omitempty"`
	Detail   string `json:"detail"`
	Evidence string `json:"evidence,omitempty"`
}

func (p *alarms) change(c monitor.Change) error {
	if !p.json {
		return p.line(printable(c.String()))
	}
	v := alarmJSON{
		Time: c.Time.UTC().Format(time.RFC3339), State: "raised", Severity: string(c.Severity), Kind: string(c.Kind),
		Origin: p.origin, Subject: c.Subject, Detail: c.Detail, Evidence: c.Evidence,
	}
	if c.Cleared {
		v.State = "cleared"
	}
	return p.object(v)
}

// roundJSON is what --once --json prints at the end.
type roundJSON struct {
	Time     string            `json:"time"`
	Verdict  string            `json:"verdict"`
	Origin   string            `json:"origin"`
	Size     *uint64           `json:"tree_size,omitempty"`
	Root     string            `json:"root,omitempty"`
	Newest   string            `json:"newest_at,omitempty"`
	Payloads uint64            `json:"payloads_checked,omitempty"`
	Erased   uint64            `json:"payloads_erased,omitempty"`
	Findings map[string]uint64 `json:"findings,omitempty"`
}

// round prints what a single look found.
func (p *alarms) round(r *monitor.Round) error {
	word := map[monitor.Verdict]string{monitor.Fine: "fine", monitor.Unknown: "cannot tell", monitor.Tampered: "tampered"}[r.Verdict()]
	if p.json {
		v := roundJSON{Time: r.Time.UTC().Format(time.RFC3339), Verdict: word, Origin: p.origin, Payloads: r.Payloads, Erased: r.Counts.Erased, Findings: r.Counts.Findings}
		if r.Seen {
			v.Size, v.Root = &r.Size, fmt.Sprintf("%x", r.Root)
		}
		if !r.Newest.IsZero() {
			v.Newest = r.Newest.Format(time.RFC3339)
		}
		return p.object(v)
	}
	line := fmt.Sprintf("%s %s: %s", r.Time.UTC().Format(time.RFC3339), word, p.origin)
	if r.Seen {
		line += fmt.Sprintf(" has %d entries, root %x", r.Size, r.Root)
	}
	if !r.Newest.IsZero() {
		line += ", the newest tree at " + r.Newest.Format(time.RFC3339)
	}
	if r.Payloads > 0 {
		var findings uint64
		for _, n := range r.Counts.Findings {
			findings += n
		}
		line += fmt.Sprintf("; %d payloads checked, %d erased, %d findings in the lives of keys", r.Payloads, r.Counts.Erased, findings)
	}
	return p.line(printable(line))
}

func (p *alarms) line(s string) error {
	if _, err := fmt.Fprintln(p.w, s); err != nil {
		return fmt.Errorf("printing an alarm: %w", err)
	}
	return nil
}

func (p *alarms) object(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return p.line(string(b))
}
