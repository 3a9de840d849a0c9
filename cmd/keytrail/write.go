package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/ingest"
	"github.com/keytrail/keytrail/client/ingest/cloudtrail"
	"github.com/keytrail/keytrail/client/ingest/openbao"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// parseWait reads the wait level of a flag.
func parseWait(s string) (rpc.Wait, error) {
	switch s {
	case "durable":
		return rpc.Wait_WAIT_DURABLE, nil
	case "published":
		return rpc.Wait_WAIT_PUBLISHED, nil
	case "witnessed":
		return rpc.Wait_WAIT_WITNESSED, nil
	}
	return 0, cli.Usage("--wait: %q is none of durable, published, witnessed", s)
}

func (a *app) appendCommand() *cobra.Command {
	var wait, rejects string
	cmd := &cobra.Command{
		Use:   "append FILE|-",
		Short: "append key events",
		Long: `append reads key events, one JSON object a line (keytrail.v1.KeyEvent in protobuf's JSON;
operations and outcomes also by their short names), and prints the index of each.

A line that cannot be read, or that the log refuses, goes to the reject file with its
number and the reason; the others are appended, and the exit status is 1. Appending the
same events again adds nothing and prints the same indexes.`,
		Example: `  echo '{"schemaVersion":1,"eventId":"e-1","source":{"system":"pkcs11"},"tenant":"acme",
    "time":"2026-11-22T10:00:00Z","operation":"key.generate","outcome":"success",
    "key":{"ref":"hsm1/signing"},"actor":{"id":"alice"}}' | tr -d '\n' | keytrail append -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := parseWait(wait)
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				out := bufio.NewWriter(cmd.OutOrStdout())
				print := func(ev *keytrailv1.KeyEvent, res *rpc.AppendResult) error {
					return a.printResult(out, ev, res)
				}
				sum, err := a.ingest(ctx, cmd, c, ndjson{}, args, rejects, level, print, nil)
				return errors.Join(a.summary(cmd.ErrOrStderr(), sum, err), out.Flush())
			})
		},
	}
	cmd.Flags().StringVar(&wait, "wait", "durable", "what to wait for: durable, published, or witnessed (published, and refused when the log's policy demands no witness)")
	cmd.Flags().StringVar(&rejects, "rejects", "keytrail-rejects.ndjson", "reject file, made when it is needed")
	return cmd
}

// printResult prints the answer to one event.
func (a *app) printResult(w io.Writer, ev *keytrailv1.KeyEvent, res *rpc.AppendResult) error {
	if a.json {
		return printProto(w, res)
	}
	ack := res.GetAck()
	if ack == nil {
		return nil // the summary tells
	}
	note := ""
	if ack.GetDuplicate() {
		note = "\talready logged"
	}
	_, err := fmt.Fprintf(w, "%d\t%s%s\n", ack.GetIndex(), printable(ev.GetEventId()), note)
	return err
}

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "import the audit log of a key management system",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.importOpenBao(), a.importCloudTrail())
	return cmd
}

// importFlags are common to all sources.
type importFlags struct {
	tenant, tenantFrom, rejects string
	raw                         bool
}

func (f *importFlags) register(cmd *cobra.Command, from string) {
	fl := cmd.Flags()
	fl.StringVar(&f.tenant, "tenant", "", "tenant that owns the events")
	fl.StringVar(&f.tenantFrom, "tenant-from", "", "take the tenant from the record: "+from)
	fl.StringVar(&f.rejects, "rejects", "keytrail-rejects.ndjson", "reject file, made when it is needed")
	fl.BoolVar(&f.raw, "raw", false, "keep the source's own records in the events, not only their hashes")
}

const importLong = `
Importing again adds nothing: an event's id at its source decides. A record that cannot
be read goes to the reject file with its place and the reason; the others are imported,
and the exit status is 1.`

func (a *app) importOpenBao() *cobra.Command {
	var f importFlags
	var account string
	cmd := &cobra.Command{
		Use:   "openbao FILE|DIR|-…",
		Short: "import file audit logs of OpenBao or HashiCorp Vault",
		Long: `openbao imports the log of a file audit device of OpenBao or HashiCorp Vault: everything
in it that concerns keys, access, the store or the audit itself. A request and its
response are one event. Give rotated files in one call, oldest first.` + importLong,
		Example: `  keytrail import openbao /var/log/openbao/audit.log --tenant acme
  keytrail import openbao audit.ndjson --tenant root --tenant-from namespace`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.tenant == "" {
				return cli.Usage("--tenant is required; with --tenant-from namespace it is the tenant of the root namespace")
			}
			if f.tenantFrom != "" && f.tenantFrom != "namespace" {
				return cli.Usage("--tenant-from: %q is not namespace", f.tenantFrom)
			}
			imp := openbao.New(openbao.Options{
				Tenant: f.tenant, TenantFromNamespace: f.tenantFrom != "", Account: account, KeepRaw: f.raw,
			})
			return a.runImport(cmd, imp, args, f.rejects, nil)
		},
	}
	f.register(cmd, "namespace")
	cmd.Flags().StringVar(&account, "account", "", "name of the cluster, when several report to this log")
	return cmd
}

func (a *app) importCloudTrail() *cobra.Command {
	var f importFlags
	var hash bool
	cmd := &cobra.Command{
		Use:   "cloudtrail FILE|DIR|-…",
		Short: "import AWS CloudTrail records of AWS KMS",
		Long: `cloudtrail imports CloudTrail log files as they are delivered (JSON, with or without
gzip, whole directories) or one record a line, and takes what concerns KMS keys, CloudHSM
clusters and the trails themselves.` + importLong,
		Example: `  keytrail import cloudtrail AWSLogs/111122223333/CloudTrail --tenant acme
  zcat *.json.gz | keytrail import cloudtrail - --tenant acme`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.tenantFrom != "" && f.tenantFrom != "account" {
				return cli.Usage("--tenant-from: %q is not account", f.tenantFrom)
			}
			if (f.tenant == "") == (f.tenantFrom == "") {
				return cli.Usage("either --tenant or --tenant-from account is required")
			}
			imp, err := cloudtrail.New(cloudtrail.Options{
				Tenant: f.tenant, TenantFromAccount: f.tenantFrom != "", KeepRaw: f.raw, HashContext: hash,
			})
			if err != nil {
				return cli.Usage("%v", err)
			}
			return a.runImport(cmd, imp, args, f.rejects, cloudtrail.SkipFile)
		},
	}
	f.register(cmd, "account")
	cmd.Flags().BoolVar(&hash, "hash-context", false, "keep only hashes of encryption context values")
	return cmd
}

func (a *app) runImport(cmd *cobra.Command, imp ingest.Importer, args []string, rejects string, skip func(string) string) error {
	return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
		sum, err := a.ingest(ctx, cmd, c, imp, args, rejects, rpc.Wait_WAIT_DURABLE, nil, skip)
		return a.summary(cmd.OutOrStdout(), sum, err)
	})
}

// ingest runs an importer over the inputs, with progress on a terminal.
func (a *app) ingest(ctx context.Context, cmd *cobra.Command, c *client.Client, imp ingest.Importer, args []string,
	rejects string, wait rpc.Wait, print func(*keytrailv1.KeyEvent, *rpc.AppendResult) error, skip func(string) string,
) (*ingest.Summary, error) {
	inputs, skipped, err := ingest.Inputs(args, skip)
	if err != nil {
		return nil, err
	}
	stream, err := c.Stream(ctx, wait)
	if err != nil {
		return nil, err
	}
	cfg := ingest.Config{
		Importer: imp, Inputs: inputs, SkippedFiles: skipped, Stdin: cmd.InOrStdin(),
		Appender: printing{stream, c, print}, Rejects: ingest.NewRejectFile(rejects),
	}
	if isTerminal(cmd.ErrOrStderr()) {
		bar := progressbar.NewOptions64(ingest.TotalSize(inputs), progressbar.OptionSetWriter(cmd.ErrOrStderr()),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription("reading"))
		cfg.Progress = func(n int) { _ = bar.Add(n) }
		defer func() { _ = bar.Finish() }()
	}
	sum, err := ingest.Run(ctx, cfg)
	return sum, errors.Join(err, stream.Close())
}

// printing is an appender that shows each result.
type printing struct {
	*client.Appender
	client *client.Client
	print  func(*keytrailv1.KeyEvent, *rpc.AppendResult) error
}

func (p printing) Append(ctx context.Context, events []*keytrailv1.KeyEvent) ([]*rpc.AppendResult, error) {
	results, err := p.Appender.Append(ctx, events)
	if err != nil || p.print == nil {
		return results, err
	}
	for i, r := range results {
		if err := p.print(events[i], r); err != nil {
			return results, err
		}
	}
	return results, nil
}

// Event implements ingest.EventGetter, so that a conflict can say what differs.
func (p printing) Event(ctx context.Context, index uint64) (*keytrailv1.KeyEvent, error) {
	res, err := p.client.GetEntry(ctx, &rpc.GetEntryRequest{Index: index})
	if err != nil {
		return nil, err
	}
	return res.GetEntry().GetKeyEvent(), nil
}

// summary prints what an import came to and gives its exit status.
func (a *app) summary(w io.Writer, sum *ingest.Summary, err error) error {
	if sum != nil {
		write := func() error { return sum.WriteTable(w) }
		if a.json {
			write = func() error { return printJSON(w, sum) }
		}
		if printErr := write(); err == nil {
			err = printErr
		}
	}
	switch {
	case err != nil && (sum == nil || sum.Logged+sum.Duplicates+sum.Unanswered == 0):
		return a.explain(err)
	case err != nil:
		return cli.Hint(a.explain(err), "what was sent is safe: run the same command again to complete it")
	case sum.Clean():
		return nil
	}
	var what []string
	for _, c := range []struct {
		n    int
		text string
	}{{sum.Rejects, "could not be read"}, {sum.Refused, "were refused by the log"}, {sum.Conflicts, "have an id that the log holds with other content"}} {
		if c.n > 0 {
			what = append(what, fmt.Sprintf("%d %s", c.n, c.text))
		}
	}
	err = errors.New("not everything was appended: " + strings.Join(what, ", "))
	if sum.RejectFile != "" {
		return cli.Hint(err, "see %s", sum.RejectFile)
	}
	return err
}

// ndjson reads key events as they are, one a line.
type ndjson struct{}

func (ndjson) Read(ctx context.Context, file string, r io.Reader, sink ingest.Sink) error {
	b := bufio.NewReaderSize(r, 64<<10)
	for line := 1; ; line++ {
		text, tooLong, err := readLine(b)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var ev *keytrailv1.KeyEvent
		if tooLong {
			err = fmt.Errorf("line is longer than %d bytes", ingest.MaxRecordSize)
		} else {
			ev, err = event.ParseJSON(text)
		}
		if err != nil {
			err = sink.Reject(ctx, ingest.Reject{File: file, Line: line, Reason: err.Error(), Raw: bytes.Clone(text)})
		} else {
			err = sink.Item(ctx, ingest.Item{Event: ev, File: file, Line: line})
		}
		if err != nil {
			return err
		}
	}
}

func (ndjson) Flush(context.Context, ingest.Sink) error { return nil }

// readLine reads one line, at most ingest.MaxRecordSize bytes of it; the rest of a longer
// one is passed over. It returns io.EOF when nothing is left.
func readLine(b *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		part, err := b.ReadSlice('\n')
		if room := ingest.MaxRecordSize - len(line); len(part) > room {
			part, tooLong = part[:room], true
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0, err == nil:
			return bytes.TrimSuffix(line, []byte("\n")), tooLong, nil
		}
		return nil, false, err
	}
}
