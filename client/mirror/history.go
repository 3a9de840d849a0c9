package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// ErrOlder means that the log shows an older checkpoint than the copy has. That is a cache
// on the way, or a log that was set back; the checkpoint alone does not tell.
var ErrOlder = errors.New("the log shows an older checkpoint than the copy has")

const pendingFile = ".pending"

// newest returns the largest checkpoint of the log that the mirror has ever accepted, nil
// when there is none: that of the copy, or the one whose copying was cut off.
func (m *Mirror) newest() (*verify.Signed, error) {
	note, err := readFile(filepath.Join(m.dir, pendingFile), checkpoint.MaxNoteSize)
	if errors.Is(err, fs.ErrNotExist) {
		c := m.current.Load()
		if c == nil {
			return nil, nil
		}
		note, err = c.note, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := m.signed(note)
	if err != nil {
		return nil, fmt.Errorf("verifying what the copy knows of the log: %w", err)
	}
	return s, nil
}

// compare holds a checkpoint against the newest one that is known, and returns the tree of
// the larger of the two where it had to be read.
func (m *Mirror) compare(ctx context.Context, next *verify.Signed) (*tiles.Tree, error) {
	known, err := m.newest()
	if err != nil {
		return nil, err
	}
	if known != nil && known.Origin != next.Origin {
		return nil, fmt.Errorf("the copy is of the log %s, the checkpoint of %s", known.Origin, next.Origin)
	}
	switch {
	case known == nil || known.Size < next.Size:
		tree, err := m.opts.Log.Tree(ctx, next.Size, next.Root)
		if err != nil || known == nil {
			return tree, err
		}
		return tree, checkPrefix(ctx, tree, known, next, known, next)
	case known.Size == next.Size:
		if known.Root != next.Root {
			return nil, tampered(verify.KindFork, known, next,
				"the log signed two trees of %d entries: root %x and root %x", next.Size, known.Root, next.Root)
		}
		// What was cut off is gone on with.
		if next.Size > m.size() {
			return m.opts.Log.Tree(ctx, next.Size, next.Root)
		}
		return nil, nil
	}
	tree, err := m.treeOf(ctx, known)
	if err != nil {
		return nil, err
	}
	if err := checkPrefix(ctx, tree, next, known, known, next); err != nil {
		return nil, err
	}
	if before, after := signingTime(known), signingTime(next); !before.IsZero() && after.After(before) {
		return nil, tampered(verify.KindWentBack, known, next,
			"the log signed a tree of %d entries at %s and one of %d entries at %s, by its own clock",
			known.Size, before.Format(time.RFC3339), next.Size, after.Format(time.RFC3339))
	}
	return nil, fmt.Errorf("%w: %d entries, known are %d", ErrOlder, next.Size, known.Size)
}

// treeOf returns the tree of the newest known checkpoint: from the copy when it is the
// copy's, so that a log that was set back need not serve it any more.
func (m *Mirror) treeOf(ctx context.Context, known *verify.Signed) (*tiles.Tree, error) {
	if c := m.current.Load(); c != nil && c.cp == known.Checkpoint {
		return c.tree, nil
	}
	return m.opts.Log.Tree(ctx, known.Size, known.Root)
}

// checkPrefix checks that the smaller of two signed trees is the beginning of the larger
// one, of which tree is. Old and new are the two in the order in which they were seen.
func checkPrefix(ctx context.Context, tree *tiles.Tree, smaller, larger, old, new *verify.Signed) error {
	root, err := tree.Root(ctx, smaller.Size)
	if err != nil {
		return err
	}
	if root == smaller.Root {
		return nil
	}
	e := tampered(verify.KindConsistency, old, new,
		"the tree of %d entries has the root %x at %d entries, the log signed %x", larger.Size, root, smaller.Size, smaller.Root)
	if e.Proof, err = tree.Consistency(ctx, smaller.Size, larger.Size); err != nil {
		return err
	}
	e.PrefixRoot = &root
	return e
}

// signingTime is the latest time at which the log says it signed, zero when it does not.
func signingTime(s *verify.Signed) time.Time {
	var t time.Time
	for _, k := range s.LogKeys {
		if k.Time.After(t) {
			t = k.Time
		}
	}
	return t
}

// newestTime is the latest time in any of the signatures.
func newestTime(s *verify.Signed) time.Time {
	t := signingTime(s)
	for _, c := range s.Cosignatures {
		if c.Time.After(t) {
			t = c.Time
		}
	}
	return t
}

func tampered(kind verify.Kind, old, new *verify.Signed, format string, args ...any) *verify.TamperError {
	return &verify.TamperError{Kind: kind, Detail: fmt.Sprintf(format, args...), Origin: new.Origin, Old: old.Note, New: new.Note}
}

// keepEvidence saves what convicts the log. One case has one file, however often it is seen.
func (m *Mirror) keepEvidence(err error) error {
	e, ok := errors.AsType[*verify.TamperError](err)
	if !ok {
		return err
	}
	b := e.Evidence()
	sum := sha256.Sum256(b)
	const dir = "evidence"
	name := fmt.Sprintf("%s-%x.json", strings.ReplaceAll(string(e.Kind), " ", "-"), sum[:8])
	path := filepath.Join(dir, name)
	keepErr := m.mkdirSynced(dir, 0o755)
	if keepErr == nil {
		keepErr = m.write(path, b, 0o644)
	}
	if keepErr == nil {
		keepErr = syncDir(filepath.Join(m.dir, dir))
	}
	if keepErr != nil {
		return errors.Join(err, fmt.Errorf("keeping the evidence: %w", keepErr))
	}
	return fmt.Errorf("%w (evidence: %s)", err, filepath.Join(m.dir, path))
}
