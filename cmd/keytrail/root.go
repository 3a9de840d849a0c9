package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/cmd/internal/cli"
)

// app is what all commands share: the persistent flags.
type app struct {
	server string
	tls    client.TLS
	json   bool
}

func root() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "keytrail",
		Short: "keytrail is a transparency log for the life of cryptographic keys",
		Long: `keytrail is a transparency log for the life of cryptographic keys.

Every create, import, use, rotate, suspend and destroy of a key becomes an entry in an
append-only Merkle tree with signed checkpoints. Receipts verify offline.

Exit status: 0 fine, 1 could not do it or cannot tell, 2 wrong usage, 3 tampered.`,
		Example: `  keytrail init --dir LOG --origin log.example.com/keys
  keytraild --dir LOG &
  keytrail import openbao audit.ndjson --tenant acme
  keytrail history acme/transit/payments-pan --tenant acme
  keytrail receipt 0 -o event.tlog-proof
  keytrail verify receipt event.tlog-proof --policy LOG/policy`,
		Version: cli.Version(),
	}
	f := cmd.PersistentFlags()
	server := os.Getenv("KEYTRAIL_SERVER")
	if server == "" {
		server = client.DefaultServer
	}
	f.StringVar(&a.server, "server", server, "the log's gRPC address, HOST:PORT (KEYTRAIL_SERVER)")
	f.StringVar(&a.tls.CA, "tls-ca", "", "PEM file of the CA that signed the server's certificate")
	f.StringVar(&a.tls.Cert, "tls-cert", "", "PEM file of the client's certificate")
	f.StringVar(&a.tls.Key, "tls-key", "", "PEM file of the client's key")
	f.BoolVar(&a.json, "json", false, "print JSON: an object, or one a line where there are several")

	cmd.AddGroup(
		&cobra.Group{ID: "write", Title: "Write:"},
		&cobra.Group{ID: "read", Title: "Read:"},
		&cobra.Group{ID: "prove", Title: "Prove and verify:"},
		&cobra.Group{ID: "operate", Title: "Operate:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("write", a.appendCommand(), a.importCommand())
	add("read", a.listCommand(), a.showCommand(), a.historyCommand(), a.infoCommand())
	add("prove", a.receiptCommand(), a.checkpointCommand(), a.consistencyCommand(), a.verifyCommand(), a.monitorCommand())
	add("operate", a.initCommand(), a.fsckCommand(), a.mirrorCommand(), a.ledgerCommand(), a.benchCommand())
	add("operate", a.backupCommand(), a.restoreCommand(), a.recoverCommand())
	add("operate", a.keygenCommand(), a.keyCommand())
	return cmd
}

// withClient runs fn with a connection to the server.
func (a *app) withClient(ctx context.Context, fn func(context.Context, *client.Client) error) error {
	c, err := client.Dial(a.server, a.tls)
	if err != nil {
		return err
	}
	return a.explain(errors.Join(fn(ctx, c), c.Close()))
}

// explain turns a status of the server into what a person needs.
func (a *app) explain(err error) error {
	if err == nil {
		return nil
	}
	var known *cli.Error
	if errors.As(err, &known) {
		return err
	}
	// The status itself, and not what was wrapped around it, has the server's words.
	var from interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &from) {
		return err
	}
	st := from.GRPCStatus()
	text := errors.New(st.Message())
	switch st.Code() {
	case codes.Unavailable:
		return cli.Hint(fmt.Errorf("talking to %s: %w", a.server, text), "is keytraild running there? set --server or KEYTRAIL_SERVER to its address")
	case codes.InvalidArgument:
		for _, d := range st.Details() {
			if b, ok := d.(*errdetails.BadRequest); ok && len(b.GetFieldViolations()) > 0 {
				return &cli.Error{Err: text, Exit: cli.ExitUsage}
			}
		}
	case codes.Canceled:
		return errors.New("interrupted")
	}
	return text
}
