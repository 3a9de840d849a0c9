// Package fsck checks a stored log from its first byte to its last: it derives every leaf
// from its record, every node and root from the leaves, every key's chain from the events,
// and holds the published checkpoint against them.
//
// It only reads, with as many goroutines as there are processors. Memory is bounded but
// for one small entry a key, 43 to 128 bytes. It is trusted for nothing: what it finds can
// be checked by anyone who holds the same bytes and the log's public keys.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
)

// maxProblems bounds the report; the rest are counted.
const maxProblems = 100

// Options of a check.
type Options struct {
	// Origin and Keys, when set, are held against the published checkpoint.
	Origin string
	Keys   []checkpoint.VerifierKey
	// CheckpointCell names the store's cell with the published checkpoint.
	CheckpointCell string
	// Signed, when set, is what the signer's ledger holds.
	Signed *ledger.State
	// TreeOnly leaves payloads out: leaves, nodes, head, checkpoint and ledger are checked,
	// records and the keys' chains are not.
	TreeOnly bool
	// Progress, when set, is called now and then with how many entries are done.
	Progress func(done, total uint64)
}

// Problem is one thing that is not as it must be.
type Problem struct {
	// Where names the place: "entry 17", "tile 1/0", "head", "checkpoint".
	Where string `json:"where"`
	// What says what is wrong there.
	What string `json:"what"`
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// Report is what a check found.
type Report struct {
	Size       uint64    `json:"size"`
	Root       string    `json:"root"`
	Entries    uint64    `json:"entries_checked"`
	Erased     uint64    `json:"payloads_erased"`
	Keys       uint64    `json:"keys"`
	Published  uint64    `json:"published_size"`
	Signatures int       `json:"checkpoint_signatures"`
	Problems   []Problem `json:"problems"`
	// Unlisted is how many problems were found beyond those listed.
	Unlisted uint64 `json:"problems_not_listed"`
}

// Check reads the whole store. The error says that the check could not be made; what it
// found when it could is in the report.
func Check(ctx context.Context, s storage.Store, opts Options) (*Report, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the head: %w", err)
	}
	c := &checker{
		store: s, opts: opts, head: head,
		report: &Report{Size: head.Size, Root: fmt.Sprintf("%x", head.Root), Problems: []Problem{}},
	}
	c.loadCheckpoint(ctx)
	if st := opts.Signed; st != nil && st.Size > head.Size {
		c.problem("head", "has %d entries, %d have been signed: the store was set back", head.Size, st.Size)
	}
	if st := opts.Signed; st != nil && c.report.Published > st.Size {
		c.problem("signer's ledger", "has %d entries, %d are published: the ledger was set back", st.Size, c.report.Published)
	}
	c.tree.atSize(c)
	if err := c.entries(ctx); err != nil {
		return nil, err
	}
	c.end(ctx)
	if err := ctx.Err(); err != nil { // it would show as damage that is not there
		return nil, fmt.Errorf("checking the tree: %w", context.Cause(ctx))
	}
	return c.report, nil
}

type checker struct {
	store  storage.Store
	opts   Options
	head   storage.Head
	report *Report
	tree   tree
	keys   chains

	published *checkpoint.Checkpoint
	lastTime  time.Time
	lastIndex uint64 // of the last record that could be read
	gaps      bool   // a record before this one was erased or cannot be read
	broken    bool   // the tree cannot be followed any further
}

func (c *checker) problem(where, format string, args ...any) {
	if len(c.report.Problems) >= maxProblems {
		c.report.Unlisted++
		return
	}
	c.report.Problems = append(c.report.Problems, Problem{where, fmt.Sprintf(format, args...)})
}

// reason is the first line of an error; what Pebble adds below is for its developers.
func reason(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// loadCheckpoint reads and verifies the published checkpoint, if there is one.
func (c *checker) loadCheckpoint(ctx context.Context) {
	if c.opts.CheckpointCell == "" {
		return
	}
	note, err := c.store.Cell(ctx, c.opts.CheckpointCell)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.problem("checkpoint", "cannot be read: %s", reason(err))
		return
	}
	cp, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		c.problem("checkpoint", "is malformed: %v", err)
		return
	}
	if c.opts.Origin != "" && cp.Origin != c.opts.Origin {
		c.problem("checkpoint", "is of %q, the log is %q", cp.Origin, c.opts.Origin)
	}
	for _, key := range c.opts.Keys {
		for _, sig := range sigs {
			if !key.Made(sig) {
				continue
			}
			if _, err := key.Verify(cp, sig); err != nil {
				c.problem("checkpoint", "has a bad %v signature: %v", key.Type(), err)
				continue
			}
			c.report.Signatures++
		}
	}
	if len(c.opts.Keys) > 0 && c.report.Signatures == 0 {
		c.problem("checkpoint", "has no good signature of the log's keys")
	}
	c.report.Published = cp.Size
	c.published = &cp
	if cp.Size > c.head.Size {
		c.problem("checkpoint", "has %d entries, the store %d", cp.Size, c.head.Size)
	}
}

// end checks what only the whole tells.
func (c *checker) end(ctx context.Context) {
	c.report.Keys = c.keys.n
	if !c.lastTime.IsZero() && c.lastIndex == c.head.Size-1 && !c.lastTime.Equal(c.head.Time) {
		c.problem("head", "has time %v, the last entry was logged at %v", c.head.Time, c.lastTime)
	}
	if c.broken {
		return
	}
	c.tree.compare(ctx, c, true)
	if root := c.tree.root(); root != c.head.Root {
		c.problem("head", "has root %x, the leaves give %x", c.head.Root, root)
	}
}
