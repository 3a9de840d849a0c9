package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
)

// mirrorFlags are those of keytrail mirror.
type mirrorFlags struct {
	url, dir, policy string
	payloads         bool
	follow           time.Duration
	listen           string
}

func (a *app) mirrorCommand() *cobra.Command {
	var f mirrorFlags
	cmd := &cobra.Command{
		Use:   "mirror --url URL --dir DIR --policy FILE",
		Short: "keep a verified copy of a log, and serve it",
		Long: `mirror copies a log into a directory of plain files, which any web server can serve to any
client of tlog-tiles. It verifies the checkpoint under the policy, every entry against the
signed root, and that the log only grows: two histories of one log are refused, and what
convicts the log is saved in DIR/evidence for keytrail verify evidence. It goes on where it
stopped, also after a crash.

With --payloads, and access to the log's gRPC server, it also keeps what is behind the
public commitments, under DIR/private, which nobody else may read. Such a mirror can give
a log back what it lost: keytrail recover. What the log erases later stays in it.

Exit status 3 means that the log has left its history, or serves what contradicts its own
checkpoint. The copy stays as it was.`,
		Example: `  keytrail mirror --url https://log.example.com/ --dir copy --policy policy
  keytrail mirror --url https://log.example.com/ --dir copy --policy policy --follow 10s --listen :8080
  keytrail mirror --url https://log.example.com/ --dir copy --policy policy \
    --payloads --server log.example.com:7410 --tls-cert me.pem --tls-key me.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.mirror(cmd.Context(), &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.url, "url", "", "prefix of the log's tile API, or a directory with a mirror (required)")
	fl.StringVar(&f.dir, "dir", "", "the mirror's directory; made when it does not exist (required)")
	fl.StringVar(&f.policy, "policy", "", "the trust policy's file (tlog-policy; required)")
	fl.BoolVar(&f.payloads, "payloads", false, "keep the payloads too, read from --server")
	fl.DurationVar(&f.follow, "follow", 0, "look again at this interval, at least 1s, until interrupted")
	fl.StringVar(&f.listen, "listen", "", "serve the copy on this address until interrupted; port 0 takes a free one")
	for _, name := range []string{"url", "dir", "policy"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func (a *app) mirror(ctx context.Context, f *mirrorFlags, stdout, stderr io.Writer) (err error) {
	if f.follow != 0 && f.follow < time.Second {
		return cli.Usage("--follow: %v is less than 1s", f.follow)
	}
	p, err := loadPolicy(f.policy)
	if err != nil {
		return err
	}
	log, err := tiles.Open(f.url, tiles.Options{})
	if err != nil {
		return cli.Usage("--url: %v", err)
	}
	progress, finish := progressOn(stderr)
	defer finish()
	opts := mirror.Options{Log: log, Policy: p, Progress: progress}
	if f.payloads {
		c, err := client.Dial(a.server, a.tls)
		if err != nil {
			return err
		}
		defer c.Close()
		opts.Payloads = c
	}
	m, err := mirror.New(ctx, f.dir, opts)
	if err != nil {
		return a.explainRemote(err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	run := func(ctx context.Context) error { return a.keepMirror(ctx, f, m, stdout, stderr) }
	if f.listen == "" {
		return run(ctx)
	}
	return serveMirror(ctx, f.listen, m, stdout, run)
}

// keepMirror copies once, or at an interval until ctx ends.
func (a *app) keepMirror(ctx context.Context, f *mirrorFlags, m *mirror.Mirror, stdout, stderr io.Writer) error {
	var last string
	for first := true; ; first = false {
		res, err := m.Sync(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			if f.follow > 0 || f.listen != "" {
				return nil
			}
			return errors.New("interrupted")
		case err != nil && (f.follow == 0 || lies(err) || errors.Is(err, mirror.ErrDamaged)):
			return a.explainRemote(err) // that does not pass
		case err != nil:
			// It may pass. Said once.
			if text := printable(a.explainRemote(err).Error()); text != last {
				fmt.Fprintf(stderr, "keytrail: warning: %s\n", text)
				last = text
			}
		default:
			last = ""
			if first || res.Added > 0 {
				if err := a.printMirrored(stdout, res); err != nil {
					return err
				}
			}
		}
		if f.follow == 0 {
			if f.listen != "" {
				<-ctx.Done()
			}
			return nil
		}
		select {
		case <-time.After(f.follow):
		case <-ctx.Done():
			return nil
		}
	}
}

// mirroredJSON is what --json prints for a copy that is up to date.
type mirroredJSON struct {
	Origin   string  `json:"origin"`
	Size     uint64  `json:"tree_size"`
	Root     string  `json:"root"`
	Added    uint64  `json:"added"`
	Payloads *uint64 `json:"payloads,omitempty"`
	Erased   uint64  `json:"payloads_erased,omitempty"`
}

func (a *app) printMirrored(w io.Writer, r *mirror.Result) error {
	root := fmt.Sprintf("%x", r.Root)
	if a.json {
		v := mirroredJSON{Origin: r.Origin, Size: r.Size, Root: root, Added: r.Added, Erased: r.Erased}
		if r.WithPayloads {
			v.Payloads = &r.Payloads
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("printing JSON: %w", err)
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	line := fmt.Sprintf("%s: %d entries, %d new, root %s", printable(r.Origin), r.Size, r.Added, root)
	if r.WithPayloads {
		line += fmt.Sprintf("; %d payloads", r.Payloads)
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// serveMirror serves the copy beside run, until ctx or one of both ends.
func serveMirror(ctx context.Context, addr string, m *mirror.Mirror, stdout io.Writer, run func(context.Context) error) error {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return cli.Hint(err, "choose another address with --listen")
	}
	// A tile is at most 16 MiB; clients that read more slowly come again.
	server := &http.Server{
		Handler: m.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	fmt.Fprintf(stdout, "ready http=%s\n", lis.Addr())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving the mirror: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		err := run(ctx)
		shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(shut) // what still hangs after that is cut off by the end
		return err
	})
	return group.Wait()
}

// lies says whether an error is the log's contradiction of itself.
func lies(err error) bool {
	_, tampered := errors.AsType[*verify.TamperError](err)
	_, contradicts := errors.AsType[*tiles.ContradictionError](err)
	return tampered || contradicts
}

// explainRemote turns an error of reading a log from outside into what a person needs.
func (a *app) explainRemote(err error) error {
	switch {
	case err == nil:
		return nil
	case lies(err):
		return &cli.Error{Err: err, Exit: cli.ExitTampered, Hint: "keep what you have as evidence, and tell others who use the log"}
	case errors.Is(err, mirror.ErrOlder):
		return cli.Hint(err, "a cache on the way may be behind: try again; if it stays so the log was set back")
	case errors.Is(err, mirror.ErrLocked):
		return cli.Hint(err, "stop the other one first")
	case errors.Is(err, mirror.ErrDamaged):
		return cli.Hint(err, "the log is not to blame; remove the damaged file, or make the mirror anew in another directory")
	case errors.Is(err, fs.ErrPermission):
		return cli.Hint(err, "what is private must be readable by its owner only")
	case errors.Is(err, tiles.ErrMalformed), errors.Is(err, fs.ErrNotExist):
		return cli.Hint(err, "either --url is not the prefix of a log's tile API, or the log does not serve all of its tree")
	}
	return a.explain(err)
}

// progressOn draws progress on a terminal and nowhere else. The second function ends it.
func progressOn(stderr io.Writer) (func(what string, done, total uint64), func()) {
	if !isTerminal(stderr) {
		return nil, func() {}
	}
	bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(stderr), progressbar.OptionClearOnFinish(),
		progressbar.OptionShowCount(), progressbar.OptionShowIts())
	return func(what string, done, total uint64) {
		bar.Describe(what)
		bar.ChangeMax64(int64(total))
		_ = bar.Set64(int64(done))
	}, func() { _ = bar.Finish() }
}
