package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/statement"
)

// pageSize is how many entries are asked for at a time.
const pageSize = 500

// listFlags are the filter of list.
type listFlags struct {
	tenant, key, actor, from, to string
	operations, outcomes         []string
	newest                       bool
	limit                        int
}

func (a *app) listCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list published entries",
		Long:  "list prints published entries that match all given flags; of repeated ones any.",
		Example: `  keytrail list --tenant acme --operation key.destroy --operation key.export
  keytrail list --actor kms-admin --outcome denied --from 2026-11-01 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request()
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.list(ctx, c, req, f.limit, cmd.OutOrStdout())
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.tenant, "tenant", "", "only this tenant")
	fl.StringVar(&f.key, "key", "", "only this key (its full reference)")
	fl.StringVar(&f.actor, "actor", "", "only this actor (id or name)")
	fl.StringArrayVar(&f.operations, "operation", nil, "only this operation, as key.destroy; can be repeated")
	fl.StringArrayVar(&f.outcomes, "outcome", nil, "only this outcome: success, failure, denied, partial, pending; can be repeated")
	fl.StringVar(&f.from, "from", "", "only events at or after this time")
	fl.StringVar(&f.to, "to", "", "only events before this time")
	fl.BoolVar(&f.newest, "newest", false, "newest first")
	fl.IntVar(&f.limit, "limit", 0, "at most so many entries; 0 means all")
	_ = cmd.RegisterFlagCompletionFunc("operation", cobra.FixedCompletions(operationNames(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(
		[]string{"success", "failure", "denied", "partial", "pending"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func operationNames() []string {
	var names []string
	for n := range keytrailv1.Operation_name {
		if n != 0 {
			names = append(names, event.OperationName(keytrailv1.Operation(n)))
		}
	}
	slices.Sort(names)
	return names
}

func (f *listFlags) request() (*rpc.ListEntriesRequest, error) {
	req := &rpc.ListEntriesRequest{
		Tenant: f.tenant, KeyRef: f.key, Actor: f.actor, Descending: f.newest, PageSize: pageSize,
	}
	if f.limit < 0 {
		return nil, cli.Usage("--limit: %d is negative", f.limit)
	}
	for _, name := range f.operations {
		op, err := event.ParseOperation(name)
		if err != nil {
			return nil, cli.Usage("--operation: %v", err)
		}
		req.Operations = append(req.Operations, op)
	}
	for _, name := range f.outcomes {
		o, err := event.ParseOutcome(name)
		if err != nil {
			return nil, cli.Usage("--outcome: %v", err)
		}
		req.Outcomes = append(req.Outcomes, o)
	}
	for _, t := range []struct {
		flag, text string
		out        **timestamppb.Timestamp
	}{{"from", f.from, &req.TimeFrom}, {"to", f.to, &req.TimeTo}} {
		if t.text == "" {
			continue
		}
		at, err := parseTime(t.flag, t.text)
		if err != nil {
			return nil, err
		}
		*t.out = timestamppb.New(at)
	}
	return req, nil
}

func (a *app) list(ctx context.Context, c *client.Client, req *rpc.ListEntriesRequest, limit int, w io.Writer) error {
	out := bufio.NewWriter(w)
	defer out.Flush()
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !a.json {
		fmt.Fprintln(t, "INDEX\tTIME\tTENANT\tOPERATION\tOUTCOME\tACTOR\tKEY")
	}
	printed := 0
	for {
		if limit > 0 {
			req.PageSize = uint32(min(pageSize, limit-printed))
		}
		page, err := c.ListEntries(ctx, req)
		if err != nil {
			return err
		}
		for _, e := range page.GetEntries() {
			if err := a.printEntry(out, t, e); err != nil {
				return err
			}
			printed++
		}
		if page.GetNextPageToken() == "" || (limit > 0 && printed >= limit) {
			return t.Flush()
		}
		// Each page has columns of its own: nothing is held back until the end.
		if err := t.Flush(); err != nil {
			return err
		}
		req.PageToken = page.GetNextPageToken()
	}
}

func (a *app) printEntry(out, table io.Writer, e *rpc.Entry) error {
	if a.json {
		return printProto(out, e)
	}
	ev := e.GetKeyEvent()
	_, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.GetIndex(), timeCell(ev.GetTime().AsTime()),
		printable(ev.GetTenant()), event.OperationName(ev.GetOperation()), event.OutcomeName(ev.GetOutcome()),
		actorCell(ev.GetActor()), keyCell(ev.GetKey()))
	return err
}

// parseIndex reads the index of an entry.
func parseIndex(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, cli.Usage("index %q is no number from 0", s)
	}
	return n, nil
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show INDEX",
		Short:   "show one entry whole, as JSON",
		Example: `  keytrail show 17`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := parseIndex(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				res, err := c.GetEntry(ctx, &rpc.GetEntryRequest{Index: index})
				if err != nil {
					return err
				}
				if a.json {
					return printProto(cmd.OutOrStdout(), res.GetEntry())
				}
				return printIndented(cmd.OutOrStdout(), res.GetEntry())
			})
		},
	}
}

func (a *app) historyCommand() *cobra.Command {
	var tenant string
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "show the life of a key: its events, its state after each, and what is odd",
		Long: `history prints every published event of a key in order, the key's lifecycle state after
each (NIST SP 800-57, KMIP), and findings: transitions that the state does not allow, use
in a forbidden state. KEY is the key's full reference, as list shows it.`,
		Example: `  keytrail history acme/transit/payments-pan --tenant acme`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tenant == "" {
				return cli.Usage("--tenant is required: keys are named within their tenant")
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.history(ctx, c, &rpc.GetKeyHistoryRequest{Tenant: tenant, KeyRef: args[0], PageSize: pageSize}, cmd.OutOrStdout())
			})
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "the key's tenant (required)")
	return cmd
}

func (a *app) history(ctx context.Context, c *client.Client, req *rpc.GetKeyHistoryRequest, w io.Writer) error {
	out := bufio.NewWriter(w)
	defer out.Flush()
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !a.json {
		fmt.Fprintln(t, "NO\tINDEX\tTIME\tOPERATION\tVERSION\tOUTCOME\tACTOR\tSTATE AFTER\tFINDINGS")
	}
	for {
		page, err := c.GetKeyHistory(ctx, req)
		if err != nil {
			return err
		}
		for _, h := range page.GetEvents() {
			if a.json {
				if err := printProto(out, h); err != nil {
					return err
				}
				continue
			}
			printHistory(t, h)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		req.PageToken = page.GetNextPageToken()
	}
}

func printHistory(w io.Writer, h *rpc.HistoryEvent) {
	e := h.GetEntry()
	ev := e.GetKeyEvent()
	version := ev.GetKey().GetVersion()
	if vs := ev.GetKey().GetVersions(); len(vs) > 0 {
		version = strings.Join(vs, ",")
	}
	var findings []string
	for _, f := range h.GetFindings() {
		findings = append(findings, "! "+printable(f.GetText()))
	}
	fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.GetKeySequence(), e.GetIndex(), timeCell(ev.GetTime().AsTime()),
		event.OperationName(ev.GetOperation()), printable(version), event.OutcomeName(ev.GetOutcome()),
		actorCell(ev.GetActor()), stateCell(h.GetStateAfter()), strings.Join(findings, " "))
}

// stateCell names a key's state: "active", "destroy pending (was active)".
func stateCell(s *keytrailv1.LifecycleState) string {
	name := stateName(s.GetState())
	if p := s.GetPreviousState(); p != keytrailv1.KeyState_KEY_STATE_UNSPECIFIED {
		name += " (was " + stateName(p) + ")"
	}
	if s.GetUnavailable() {
		name += ", unavailable"
	}
	return name
}

func stateName(s keytrailv1.KeyState) string {
	if s == keytrailv1.KeyState_KEY_STATE_UNSPECIFIED {
		return "unknown"
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s.String(), "KEY_STATE_")), "_", " ")
}

func (a *app) infoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "log-info",
		Short:   "show the log's name, keys, sizes, and how far publication is",
		Example: `  keytrail log-info`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				i, err := c.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
				if err != nil {
					return err
				}
				if a.json {
					return printProto(cmd.OutOrStdout(), i)
				}
				return printInfo(cmd.OutOrStdout(), i)
			})
		},
	}
}

func printInfo(w io.Writer, i *rpc.GetLogInfoResponse) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "origin\t%s\n", printable(i.GetOrigin()))
	fmt.Fprintf(t, "entries, durable\t%d\n", i.GetDurableSize())
	fmt.Fprintf(t, "entries, published\t%d\n", i.GetPublishedSize())
	fmt.Fprintf(t, "entries, in views\t%d\n", i.GetViewedSize())
	if i.GetPublishedAt() != nil {
		fmt.Fprintf(t, "published at\t%s\n", timeCell(i.GetPublishedAt().AsTime()))
	}
	if p := i.GetPublicationProblem(); p != "" {
		fmt.Fprintf(t, "problem\t%s\n", printable(p))
	}
	for _, k := range i.GetVerifierKeys() {
		if len(k) > 100 {
			k = k[:100] + "…"
		}
		fmt.Fprintf(t, "key\t%s\n", printable(k))
	}
	if p := i.GetPredecessor(); len(p) > 0 {
		if n, err := statement.Parse(p); err == nil {
			fmt.Fprintf(t, "continues\t%s, by the statement of its operator (keytrail verify statement)\n", printable(n.Origin))
		}
	}
	for _, w := range i.GetWitnesses() {
		printWitness(t, w, i.GetPublishedSize())
	}
	fmt.Fprintf(t, "server\t%s\n", printable(i.GetVersion()))
	return t.Flush()
}

// printWitness says in one line how a witness is.
func printWitness(t io.Writer, w *rpc.WitnessStatus, published uint64) {
	fmt.Fprintf(t, "witness\t%s (%s): ", printable(strings.Join(w.GetNames(), ", ")), printable(w.GetUrl()))
	if at := w.GetLastSuccess(); at != nil {
		fmt.Fprintf(t, "cosigned %d entries at %s in %v", w.GetSize(), timeCell(at.AsTime()), w.GetLatency().AsDuration().Round(100*time.Microsecond))
	} else {
		fmt.Fprint(t, "has not cosigned since the start")
	}
	if lag := int64(published) - int64(w.GetSize()); w.GetLastSuccess() != nil && lag > 0 {
		fmt.Fprintf(t, ", %d behind", lag)
	}
	if p := w.GetProblem(); p != "" {
		what := "problem"
		if w.GetConflict() {
			what = "CONFLICT"
		}
		fmt.Fprintf(t, "; %s: %s", what, printable(p))
	}
	if at := w.GetRetryAt(); at != nil {
		fmt.Fprintf(t, "; asked again at %s", timeCell(at.AsTime()))
	}
	fmt.Fprintln(t)
}
