package monitor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// View is somebody else's view of the log.
type View struct {
	// Name tells it apart from the others, for people.
	Name string
	// Required means that nothing can be said when it cannot be read, as for a file that was
	// given. A witness may be down: the policy's quorum says how many must not be.
	Required bool
	// Read returns a signed checkpoint of at most checkpoint.MaxNoteSize bytes.
	Read func(ctx context.Context) ([]byte, error)
}

// WitnessViews returns the monitoring endpoints of the witnesses in a policy that have a
// URL, which is taken for the prefix of submission and monitoring alike (tlog-witness).
func WitnessViews(p *policy.Policy, origin string, o tiles.Options) ([]View, error) {
	var views []View
	at := make(map[string]int) // A witness may be in the policy with several keys.
	for _, w := range p.Witnesses {
		if w.URL == "" {
			continue
		}
		if i, ok := at[w.URL]; ok {
			views[i].Name += ", " + w.Name
			continue
		}
		at[w.URL] = len(views)
		hash := sha256.Sum256([]byte(origin))
		l, err := tiles.Open(fmt.Sprintf("%s/%x", strings.TrimRight(w.URL, "/"), hash), o)
		if err != nil {
			return nil, fmt.Errorf("the URL of the witness %s: %w", w.Name, err)
		}
		views = append(views, View{Name: "witness " + w.Name, Read: l.Checkpoint})
	}
	return views, nil
}

// FileView returns the view in a file: a checkpoint that somebody else was shown. It is read
// again in every round.
func FileView(path string) View {
	return View{Name: path, Required: true, Read: func(context.Context) ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, checkpoint.MaxNoteSize+1))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		return b, nil // The parser refuses what is too large.
	}}
}

// answer is what a view showed.
type answer struct {
	View
	note []byte
	err  error
}

// viewsAtATime bounds the requests that are under way together.
const viewsAtATime = 8

func (m *Monitor) readViews(ctx context.Context) []answer {
	out := make([]answer, len(m.cfg.Views))
	var g errgroup.Group
	g.SetLimit(viewsAtATime)
	for i, v := range m.cfg.Views {
		g.Go(func() error {
			note, err := v.Read(ctx)
			out[i] = answer{View: v, note: note, err: err}
			return nil
		})
	}
	_ = g.Wait() // The errors are in the answers.
	return out
}

// compare holds what others were shown against what the log shows now. When nothing was
// accepted in this round s is nil: then the tiles are not those of the last checkpoint
// either, and only a tree of its size can be compared.
func (m *Monitor) compare(ctx context.Context, f *findings, v answer, s *verify.Signed) error {
	w, err := m.open(v)
	if err != nil {
		severity := SeverityInfo
		if v.Required {
			severity = SeverityWarning
		}
		a := m.answerAlarm(err, v.Name)
		if tampered, ok := errors.AsType[*verify.TamperError](err); ok {
			a.Kind, a.Detail = KindBadSignature, string(tampered.Kind)+": "+tampered.Detail
			if v.Required {
				severity = SeverityCritical
			}
		} else if k := kindOf(err); k != "" {
			a.Kind, a.Detail, a.same = KindUnreadable, reason(err), k
		}
		a.Severity = severity
		f.add(a)
		return nil
	}
	if s == nil {
		if s = m.last; s == nil || s.Size != w.Size {
			return nil
		}
	}
	switch {
	case w.Size > s.Size:
		return m.compareLarger(ctx, f, v, w, s)
	case w.Size == s.Size && w.Root == s.Root:
		return nil
	case w.Size == s.Size:
		return m.convict(f, KindSplitView, w, s, nil, nil)
	}
	tree, err := m.treeOfLast(ctx)
	if err == nil {
		_, err = m.extends(ctx, f, KindSplitView, tree, m.last, w)
	}
	if err != nil {
		return m.fail(ctx, f, err)
	}
	return nil
}

// open verifies that a view is of the log and signed by it.
func (m *Monitor) open(v answer) (*verify.Signed, error) {
	if v.err != nil {
		return nil, v.err
	}
	w, err := verify.Signatures(v.note, m.cfg.Policy)
	if err != nil {
		return nil, err
	}
	if w.Origin != m.cfg.Origin {
		return nil, &verify.UnverifiableError{Reason: verify.ReasonOtherLog, Detail: fmt.Sprintf("the checkpoint is of %s", w.Origin)}
	}
	return w, nil
}

// compareLarger examines a larger tree than the log shows. The log may have signed it a
// moment ago; when it has not, it must show how that tree extends its own, or be convicted
// with it. Where it shows nothing, that it keeps a tree back is all that can be said.
func (m *Monitor) compareLarger(ctx context.Context, f *findings, v answer, w, s *verify.Signed) error {
	detail := "it begins with the tree that the log shows"
	tree, err := m.cfg.Log.Tree(ctx, w.Size, w.Root)
	if err == nil {
		var ok bool
		if ok, err = m.extends(ctx, f, KindSplitView, tree, w, s); err == nil && !ok {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		detail = fmt.Sprintf("whether it begins with the tree that the log shows cannot be told: %v", err)
	}
	at := newest(w)
	if ago := m.cfg.Now().Sub(at); -verify.MaxSkew <= ago && ago < Grace {
		m.log.InfoContext(ctx, "a larger tree than the log shows",
			slog.String("view", v.Name), slog.Uint64("size", w.Size), slog.Uint64("shown", s.Size))
		return nil
	}
	when := ""
	if !at.IsZero() {
		when = " at " + at.Format(time.RFC3339)
	}
	f.add(Alarm{
		Kind: KindSplitView, Severity: SeverityWarning, Subject: v.Name, same: fmt.Sprint(w.Size, err == nil),
		Detail: fmt.Sprintf("%s was shown a tree of %d entries%s, and the log still shows one of %d; %s", v.Name, w.Size, when, s.Size, detail),
	})
	return nil
}

// newest is the latest time in the good signatures of a checkpoint.
func newest(s *verify.Signed) time.Time {
	var at time.Time
	for _, l := range s.LogKeys {
		if l.Time.After(at) {
			at = l.Time
		}
	}
	for _, c := range s.Cosignatures {
		if c.Time.After(at) {
			at = c.Time
		}
	}
	return at
}
