package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
)

// follow reads the log's checkpoint, verifies it, and accepts it when it extends the last
// one. It returns the checkpoint when it was accepted, else nil. The error is one of the
// monitor's own.
func (m *Monitor) follow(ctx context.Context, f *findings) (*verify.Signed, error) {
	note, err := m.cfg.Log.Checkpoint(ctx)
	if err != nil {
		m.failures++
		if m.failures > m.cfg.Failures {
			f.add(m.answerAlarm(err, ""))
		} else {
			m.log.WarnContext(ctx, "reading the checkpoint", slog.Any("error", err), slog.Int("failures", m.failures))
		}
		return nil, nil
	}
	m.failures = 0
	s, err := verify.Signatures(note, m.cfg.Policy)
	if err != nil {
		return nil, m.refuse(f, err)
	}
	if s.Origin != m.cfg.Origin {
		f.add(Alarm{Kind: KindUnreadable, Severity: SeverityWarning, same: s.Origin,
			Detail: fmt.Sprintf("the server shows a checkpoint of the log %s, not of %s", s.Origin, m.cfg.Origin)})
		return nil, nil
	}
	if err := s.CheckQuorum(m.cfg.Policy); err != nil {
		f.add(Alarm{Kind: KindQuorumMissing, Severity: SeverityWarning, Detail: reason(err), same: strings.Join(s.MissingWitnesses, " ")})
	}
	if m.cfg.MaxAge > 0 {
		if _, err := s.CheckAge(m.cfg.Now(), m.cfg.MaxAge, m.cfg.Policy); err != nil {
			f.add(Alarm{Kind: KindStale, Severity: SeverityWarning, Detail: reason(err)})
		}
	}
	return m.extend(ctx, f, s)
}

// refuse reports a checkpoint that does not verify.
func (m *Monitor) refuse(f *findings, err error) error {
	tampered, ok := errors.AsType[*verify.TamperError](err)
	if !ok {
		f.add(Alarm{Kind: KindUnreadable, Severity: SeverityWarning, Detail: "the checkpoint: " + reason(err), same: kindOf(err)})
		return nil
	}
	path, err := m.state.keep(KindBadSignature, 0, tampered)
	if err != nil {
		return err
	}
	f.add(Alarm{Kind: KindBadSignature, Severity: SeverityCritical, Detail: string(tampered.Kind) + ": " + tampered.Detail, Evidence: path, same: string(tampered.Kind)})
	return nil
}

// extend holds a checkpoint against the last one, and accepts it when it extends that.
func (m *Monitor) extend(ctx context.Context, f *findings, s *verify.Signed) (*verify.Signed, error) {
	switch {
	case m.last == nil || s.Size > m.last.Size:
	case s.Size < m.last.Size:
		return nil, m.wentBack(ctx, f, s)
	case s.Root != m.last.Root:
		return nil, m.convict(f, KindFork, m.last, s, nil, nil)
	default:
		return m.accept(s, m.tree)
	}
	tree, err := m.cfg.Log.Tree(ctx, s.Size, s.Root)
	if err == nil && m.last != nil {
		var ok bool
		if ok, err = m.extends(ctx, f, KindFork, tree, s, m.last); err == nil && !ok {
			return nil, nil
		}
	}
	if err != nil {
		return nil, m.fail(ctx, f, err)
	}
	return m.accept(s, tree)
}

// extends reports whether the tree of one checkpoint begins with that of a smaller one, and
// convicts whoever signed both where it does not.
func (m *Monitor) extends(ctx context.Context, f *findings, kind Kind, tree *tiles.Tree, larger, smaller *verify.Signed) (bool, error) {
	if smaller.Size == 0 {
		return true, nil
	}
	root, err := tree.Root(ctx, smaller.Size)
	if err != nil || root == smaller.Root {
		return err == nil, err
	}
	proof, err := tree.Consistency(ctx, smaller.Size, larger.Size)
	if err != nil {
		return false, err
	}
	return false, m.convict(f, kind, smaller, larger, proof, &root)
}

// accept makes s the last checkpoint, durably. Of one tree the newest note is kept.
func (m *Monitor) accept(s *verify.Signed, tree *tiles.Tree) (*verify.Signed, error) {
	now, p := m.cfg.Now(), m.cfg.Policy
	grown := m.last == nil || s.Size > m.last.Size
	if grown || s.NewestAt(now, p).After(m.last.NewestAt(now, p)) {
		if m.last == nil || !bytes.Equal(s.Note, m.last.Note) {
			if err := m.state.write(checkpointFile, s.Note); err != nil {
				return nil, err
			}
		}
		m.last = s
	}
	m.tree = tree
	return s, nil
}

// treeOfLast returns the tree of the last checkpoint, which must have been seen.
func (m *Monitor) treeOfLast(ctx context.Context) (*tiles.Tree, error) {
	if m.tree != nil && m.tree.Size() == m.last.Size {
		return m.tree, nil
	}
	tree, err := m.cfg.Log.Tree(ctx, m.last.Size, m.last.Root)
	if err != nil {
		return nil, err
	}
	m.tree = tree
	return tree, nil
}

// wentBack reports a smaller tree. By itself it proves nothing to others: it may be older,
// and come from a cache. It is tampering where the signers say that they signed it later.
func (m *Monitor) wentBack(ctx context.Context, f *findings, s *verify.Signed) error {
	if tree, err := m.treeOfLast(ctx); err == nil {
		// Where the tiles are gone with the rest, the smaller size is all that is known.
		if ok, err := m.extends(ctx, f, KindFork, tree, m.last, s); err == nil && !ok {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	now, p := m.cfg.Now(), m.cfg.Policy
	a := Alarm{Kind: KindWentBack, Severity: SeverityWarning, same: fmt.Sprint(s.Size)}
	at, before := s.NewestAt(now, p), m.last.NewestAt(now, p)
	a.Detail = fmt.Sprintf("the log shows a tree of %d entries after one of %d", s.Size, m.last.Size)
	if !at.After(before) {
		a.Detail += "; its signatures are not newer, so it may be an old checkpoint from a cache"
		f.add(a)
		return nil
	}
	a.Severity = SeverityCritical
	a.Detail += fmt.Sprintf("; its signers say that they signed it at %s, and the larger one at %s", at.Format(time.RFC3339), before.Format(time.RFC3339))
	path, err := m.state.keep(KindWentBack, s.Size, &verify.TamperError{
		Kind: verify.KindWentBack, Detail: a.Detail, Origin: s.Origin, Old: m.last.Note, New: s.Note,
	})
	if err != nil {
		return err
	}
	a.Evidence = path
	f.add(a)
	return nil
}

// convict keeps evidence of two trees that contradict each other, smaller first. Root is
// what the larger tree has at the smaller size, shown by the proof; nil for equal sizes.
func (m *Monitor) convict(f *findings, kind Kind, smaller, larger *verify.Signed, proof [][32]byte, root *[32]byte) error {
	e := &verify.TamperError{
		Kind: verify.KindFork, Origin: larger.Origin, Old: smaller.Note, New: larger.Note, Proof: proof, PrefixRoot: root,
		Detail: fmt.Sprintf("the log signed a tree of %d entries with the root %x and one of %d entries with the root %x, which contradict each other",
			smaller.Size, smaller.Root, larger.Size, larger.Root),
	}
	return m.keepConviction(f, kind, larger.Size, e)
}

// keepConviction verifies evidence as others will, and keeps it.
func (m *Monitor) keepConviction(f *findings, kind Kind, size uint64, e *verify.TamperError) error {
	c, err := verify.Evidence(e.Evidence(), m.cfg.Policy)
	if err != nil {
		f.add(Alarm{Kind: KindInconsistent, Severity: SeverityCritical, same: string(kind), Detail: fmt.Sprintf("%s; no evidence for others: %v", e.Detail, err)})
		return nil
	}
	path, err := m.state.keep(kind, size, e)
	if err != nil || path == "" {
		return err // Enough evidence of the kind is there, and reported.
	}
	a := m.state.convicted(filepath.Base(path), c)
	if !slices.ContainsFunc(m.convicted, func(o Alarm) bool { return o.Subject == a.Subject }) {
		m.convicted = append(m.convicted, a)
	}
	return nil
}

// fail reports an error of reading tiles. The error that it returns is that ctx ended, or
// one of the monitor's own.
func (m *Monitor) fail(ctx context.Context, f *findings, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.add(m.answerAlarm(err, "tiles"))
	return nil
}

// answerAlarm is the alarm of an answer that is not what was asked for.
func (m *Monitor) answerAlarm(err error, subject string) Alarm {
	a := Alarm{Kind: KindUnreachable, Severity: SeverityWarning, Subject: subject, Detail: err.Error()}
	var contradiction *tiles.ContradictionError
	switch {
	case errors.As(err, &contradiction):
		a.Kind, a.Severity, a.same = KindInconsistent, SeverityCritical, contradiction.Where
	case errors.Is(err, tiles.ErrMalformed):
		a.Kind = KindUnreadable
	}
	return a
}

// reason returns what is wrong without the verdict before it.
func reason(err error) string {
	if e, ok := errors.AsType[*verify.UnverifiableError](err); ok {
		return string(e.Reason) + ": " + e.Detail
	}
	return err.Error()
}

func kindOf(err error) string {
	if e, ok := errors.AsType[*verify.UnverifiableError](err); ok {
		return string(e.Reason)
	}
	return ""
}
