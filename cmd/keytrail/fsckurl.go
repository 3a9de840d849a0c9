package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/client/payloads"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/log/fsck"
)

// fsckFlags are those of keytrail fsck.
type fsckFlags struct {
	dir, url, policy string
	payloads, tree   bool
}

// check holds which flags go together.
func (f *fsckFlags) check() error {
	switch {
	case (f.dir == "") == (f.url == ""):
		return cli.Usage("give either --dir or --url")
	case f.url != "" && f.policy == "":
		return cli.Usage("--url needs --policy: only it says whose signatures count")
	case f.url == "" && (f.policy != "" || f.payloads):
		return cli.Usage("--policy and --payloads go with --url; --dir has its own keys and payloads")
	case f.url != "" && f.tree:
		return cli.Usage("--tree goes with --dir; --url checks records only with --payloads")
	}
	return nil
}

// remoteReport is what is printed of a remote log: the form of the local check, and what
// could not be read.
type remoteReport struct {
	fsck.Report
	Tiles uint64 `json:"tiles_checked"`
	// Unfollowed is how many records were of keys beyond those whose chains are followed.
	Unfollowed     uint64         `json:"records_not_followed,omitempty"`
	Unread         []fsck.Problem `json:"not_read,omitempty"`
	UnreadUnlisted uint64         `json:"not_read_not_listed,omitempty"`
}

// fsckURL checks a log from outside.
func (a *app) fsckURL(ctx context.Context, f *fsckFlags, stdout, stderr io.Writer) error {
	p, err := loadPolicy(f.policy)
	if err != nil {
		return err
	}
	log, err := tiles.Open(f.url, tiles.Options{})
	if err != nil {
		return cli.Usage("--url: %v", err)
	}
	begin := time.Now()
	note, err := log.Checkpoint(ctx)
	if err != nil {
		return a.explainRemote(err)
	}
	s, err := verify.Checkpoint(note, p)
	if err != nil {
		return a.explainRemote(fmt.Errorf("verifying the checkpoint of %v: %w", log, err))
	}
	r := &remoteReport{Report: fsck.Report{
		Size: s.Size, Root: fmt.Sprintf("%x", s.Root), Published: s.Size,
		Signatures: len(s.LogKeys) + len(s.Cosignatures), Problems: []fsck.Problem{},
	}}
	checkErr := a.checkRemote(ctx, f, log, s, r, stderr)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if checkErr != nil && len(r.Problems) == 0 {
		return a.explainRemote(checkErr)
	}
	if err := a.printRemote(stdout, r); err != nil {
		return err
	}
	took := time.Since(begin)
	fmt.Fprintf(stderr, "%d entries and %d tiles in %v, %.0f entries/s\n", r.Entries, r.Tiles, took.Round(time.Millisecond), float64(r.Entries)/took.Seconds())
	if !f.payloads {
		fmt.Fprintln(stderr, "payloads and key histories were not checked: --payloads does, with access to the log's gRPC server")
	}
	if err := reportError(&r.Report, "keep what you have as evidence, and tell others who use the log"); err != nil {
		if checkErr != nil {
			fmt.Fprintf(stderr, "keytrail: warning: the check ended early: %s\n", printable(checkErr.Error()))
		}
		return err
	}
	if n := uint64(len(r.Unread)) + r.UnreadUnlisted; n > 0 {
		return cli.Hint(fmt.Errorf("what could be read is right; %d tiles could not be read", n), "try again, or tell the log's operator")
	}
	return nil
}

// checkRemote checks the tree of a verified checkpoint, and payloads if they are asked for.
func (a *app) checkRemote(ctx context.Context, f *fsckFlags, log *tiles.Log, s *verify.Signed, r *remoteReport, stderr io.Writer) error {
	progress, finish := progressOn(stderr)
	defer finish()
	var opts tiles.CheckOptions
	if progress != nil {
		opts.Progress = func(done, total uint64) { progress("checking", done, total) }
	}
	records := &recordCheck{report: r}
	if f.payloads {
		c, err := client.Dial(a.server, a.tls)
		if err != nil {
			return err
		}
		defer c.Close()
		if records.from, err = payloads.Read(ctx, c, 0, s.Size); err != nil {
			return err
		}
		defer records.from.Close()
		opts.Leaf = records.leaf
	}
	found, err := log.Check(ctx, s.Size, s.Root, opts)
	if err == nil {
		records.examine()
	}
	r.Entries, r.Tiles = found.Entries, found.Tiles
	r.Erased, r.Keys, r.Unfollowed = records.chains.Erased, records.chains.Keys, records.chains.Unfollowed
	r.Unlisted += found.Unlisted
	for _, p := range found.Problems {
		r.Problems = append(r.Problems, fsck.Problem(p))
	}
	for _, p := range found.Unread {
		r.Unread = append(r.Unread, fsck.Problem(p))
	}
	r.UnreadUnlisted = found.UnreadUnlisted
	return err
}

// examineAtOnce is how many records are examined in parallel: with ordinary events a
// megabyte, with the largest 32.
const examineAtOnce = 1024

// maxRecordProblems bounds what is listed of records; the rest are counted.
const maxRecordProblems = 100

// recordCheck pairs verified leaves with payloads.
type recordCheck struct {
	from   *payloads.Reader
	chains payloads.Checker
	report *remoteReport
	items  []payloads.Item
}

func (c *recordCheck) leaf(index uint64, leaf []byte) error {
	p, err := c.from.Next()
	if err != nil {
		return err
	}
	var kept []byte
	if leaf != nil {
		kept = append(make([]byte, 0, len(leaf)), leaf...)
	}
	c.items = append(c.items, payloads.Item{Index: index, Leaf: kept, Payload: p})
	if len(c.items) == examineAtOnce {
		c.examine()
	}
	return nil
}

// examine checks what has been gathered.
func (c *recordCheck) examine() {
	for _, e := range payloads.ExamineAll(c.items) {
		for _, p := range c.chains.Add(e) {
			if len(c.report.Problems) >= maxRecordProblems {
				c.report.Unlisted++
				continue
			}
			c.report.Problems = append(c.report.Problems, fsck.Problem{Where: fmt.Sprintf("entry %d", p.Index), What: p.What})
		}
	}
	c.items = c.items[:0]
}

func (a *app) printRemote(w io.Writer, r *remoteReport) error {
	if a.json {
		return printJSON(w, r)
	}
	printReportText(w, &r.Report)
	for _, p := range r.Unread {
		fmt.Fprintf(w, "NOT READ   %s\n", printable(p.String()))
	}
	if r.UnreadUnlisted > 0 {
		fmt.Fprintf(w, "NOT READ   and %d more\n", r.UnreadUnlisted)
	}
	if r.Unfollowed > 0 {
		fmt.Fprintf(w, "NOTE       the histories of the first %d keys were followed; %d records are of others\n", r.Keys, r.Unfollowed)
	}
	if len(r.Problems)+len(r.Unread) == 0 {
		fmt.Fprintln(w, "clean")
	}
	return nil
}
