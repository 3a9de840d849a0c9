// Command bench measures keytrail against its peers and against what the machine can do at
// most, on the same events, in one run whose systems take turns. `make bench` runs it.
//
// It is a module of its own because it links those peers. It starts servers on loopback and
// in temporary directories, and ends and removes them. It is trusted with nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytrail/keytrail/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(command())) }

func command() *cobra.Command {
	c := config{}
	root := &cobra.Command{
		Use:   "bench",
		Short: "measure keytrail and its peers",
	}
	f := root.PersistentFlags()
	f.StringVar(&c.Bin, "bin", "bin", "directory with keytrail's programs")
	f.StringVar(&c.Samples, "samples", "../shared/samples", "directory with real audit records; without it, those of the repository")
	f.StringVar(&c.Audit, "audit", "testdata/audit", "directory with the repository's audit records")
	f.IntVar(&c.Rounds, "rounds", 3, "how often each cell is measured")
	f.Float64Var(&c.Seconds, "seconds", 2, "how long a cell is measured, in seconds")
	f.IntVar(&c.Entries, "entries", 300_000, "entries of the logs that are read, opened and checked")
	f.IntVar(&c.Keys, "keys", 10_000, "how many keys random events are about")
	f.StringVar(&c.Out, "out", ".cache/bench", "directory of the tables and pictures")
	f.StringVar(&c.TempDir, "tmp", "", "where logs are made; default: the system's temporary directory")
	table := &cobra.Command{
		Use:   "table",
		Short: "measure everything and print Markdown tables",
		Example: `  bench table
  bench table --only appends,receipts --rounds 5`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return tables(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	table.Flags().StringVar(&c.Only, "only", "", "parts to measure, with commas between: "+strings.Join(tableParts, ", "))
	plot := &cobra.Command{
		Use:     "plot",
		Short:   "measure how figures change with clients, batch size, keys and entries, and draw it",
		Example: `  bench plot --rounds 1`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return plots(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	for _, cmd := range []*cobra.Command{table, plot} {
		cmd.Flags().StringVar(&c.Into, "into", "", "put the tables into this file, between lines <!-- NAME --> and <!-- end NAME -->")
		cmd.Flags().StringVar(&c.Mark, "mark", "bench", "NAME in these lines")
	}
	root.AddCommand(table, plot, profileCommand(&c))
	root.AddCommand(hidden()...)
	return root
}

// tableParts are what --only takes.
var tableParts = []string{"appends", "receipts", "syncs", "where", "log"}

// tables measures what was asked for and prints it; what was measured before a failure or an
// interrupt is printed too.
func tables(ctx context.Context, c config, stdout, stderr io.Writer) (err error) {
	for part := range strings.SplitSeq(c.Only, ",") {
		if c.Only != "" && !slices.Contains(tableParts, part) {
			return cli.Usage("--only takes %s, not %q", strings.Join(tableParts, ", "), part)
		}
	}
	b, err := newBench(c, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var text strings.Builder
	b.head(ctx, &text, fmt.Sprintf("bench table --rounds %d --seconds %g --entries %d", c.Rounds, c.Seconds, c.Entries)+onlyFlag(c.Only))
	err = b.parts(ctx, &text)
	if _, printErr := io.WriteString(stdout, text.String()); printErr != nil {
		return errors.Join(err, printErr)
	}
	return errors.Join(err, b.save("table.md", text.String()))
}

// parts measures and writes the tables that were asked for.
func (b *bench) parts(ctx context.Context, w io.Writer) error {
	var groups []*group
	if b.wants("appends") {
		groups = append(groups, b.appends())
	}
	if b.wants("receipts") {
		groups = append(groups, b.receipts())
	}
	if b.wants("syncs") {
		groups = append(groups, b.syncs())
	}
	var err error
	if len(groups) > 0 {
		var m machine
		m.measure(ctx, b)
		err = b.measure(ctx, groups)
		m.measure(ctx, b)
		m.write(w)
		for _, g := range groups {
			g.write(w, m.speed())
		}
	}
	if err == nil && b.wants("where") {
		err = b.where(ctx, w)
	}
	if err != nil || !b.wants("log") {
		return err
	}
	var m machine
	m.measure(ctx, b)
	b.say("filling logs of %d entries", b.Entries)
	l, fillErr := b.fill(ctx, b.random, b.Entries)
	t, tesseraErr := b.fillTessera(ctx, b.Entries)
	m.measure(ctx, b)
	m.write(w)
	b.storage(ctx, l, t, fillErr, tesseraErr).write(w, m.speed())
	if l != nil {
		fmt.Fprint(w, l.growth())
	}
	reads := b.reads(l, t)
	err = b.measure(ctx, []*group{reads})
	m.measure(ctx, b)
	reads.write(w, m.speed())
	return err
}

func onlyFlag(only string) string {
	if only == "" {
		return ""
	}
	return " --only " + only
}

// save keeps a result in the directory of results, and in the file that was named.
func (b *bench) save(name, text string) error {
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return fmt.Errorf("making a directory for the results: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.Out, name), []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	if b.Into == "" {
		return nil
	}
	between, err := b.place(text)
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.Into, []byte(between), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
}

// place returns the content of the file that was named, with a result in its place.
func (c *config) place(text string) (string, error) {
	old, err := os.ReadFile(c.Into)
	if err != nil {
		return "", fmt.Errorf("reading where the results belong: %w", err)
	}
	between, err := insert(string(old), c.Mark, text)
	if err != nil {
		return "", fmt.Errorf("putting the results into %s: %w", c.Into, err)
	}
	return between, nil
}

// insert replaces what stands between the lines <!-- mark --> and <!-- end mark -->.
func insert(old, mark, text string) (string, error) {
	first, last := "<!-- "+mark+" -->\n", "<!-- end "+mark+" -->\n"
	before, rest, ok := strings.Cut(old, first)
	_, after, ended := strings.Cut(rest, last)
	if !ok || !ended {
		return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(first), strings.TrimSpace(last))
	}
	return before + first + "\n" + text + last + after, nil
}
