package witness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// MaxKeys is how many keys a log can have at a time.
const MaxKeys = 16

// MaxContact is the longest contact in bytes.
const MaxContact = 1024

// Log is a log that a witness serves.
type Log struct {
	// Origin names the log, as in its checkpoints; see checkpoint.CheckOrigin.
	Origin string
	// Keys are the log's keys, of the kinds Ed25519 and ML-DSA-44; a checkpoint needs a
	// signature of one of them. Their name need not be the origin. 1 to MaxKeys.
	Keys []checkpoint.VerifierKey
	// PerDay is how many cosignatures the log may have a day ("qpd" of the witness
	// network), 0 for no limit.
	PerDay uint32
	// Contact is how to reach the log's operator: one line, at most MaxContact bytes. It may
	// hold anything else; whoever prints it must expect that.
	Contact string
}

// Validate returns why the log cannot be enrolled.
func (l Log) Validate() error {
	if err := checkpoint.CheckOrigin(l.Origin); err != nil {
		return err
	}
	if len(l.Keys) == 0 {
		return errors.New("log without a key")
	}
	if len(l.Keys) > MaxKeys {
		return fmt.Errorf("log with %d keys, %d are possible", len(l.Keys), MaxKeys)
	}
	for _, k := range l.Keys {
		if k.Type() != checkpoint.TypeEd25519 && k.Type() != checkpoint.TypeMLDSA44 {
			return fmt.Errorf("key of type %v: logs sign with Ed25519 or ML-DSA-44", k.Type())
		}
	}
	if len(l.Contact) > MaxContact || strings.ContainsAny(l.Contact, "\r\n") {
		return fmt.Errorf("contact is not one line of at most %d bytes", MaxContact)
	}
	return nil
}

// merge adds to a log what an enrolment says anew.
func (l Log) merge(o Log) Log {
	l.Keys = slices.Clone(l.Keys)
	for _, k := range o.Keys {
		if !l.has(k) {
			l.Keys = append(l.Keys, k)
		}
	}
	if o.PerDay != 0 {
		l.PerDay = o.PerDay
	}
	if o.Contact != "" {
		l.Contact = o.Contact
	}
	return l
}

func (l Log) has(k checkpoint.VerifierKey) bool {
	return slices.ContainsFunc(l.Keys, k.Equal)
}

// Enroll makes the witness serve logs, durably. What it says of a log that is enrolled is
// added: further keys, and limit and contact where they are stated. A log that was removed
// has the keys that are stated now, and goes on from the tree that was cosigned last.
func (w *Witness) Enroll(ctx context.Context, logs ...Log) error {
	w.enrolling.Lock()
	defer w.enrolling.Unlock()
	return w.enroll(ctx, logs)
}

// enroll is Enroll for a caller that holds w.enrolling.
func (w *Witness) enroll(ctx context.Context, logs []Log) error {
	next := make(map[string]Log)
	for _, l := range logs {
		if was, ok := next[l.Origin]; ok {
			l = was.merge(l)
		} else if t := w.find(l.Origin); t != nil && t.log.Load() != nil {
			l = t.log.Load().merge(l)
		}
		if err := l.Validate(); err != nil {
			return fmt.Errorf("enrolling %q: %w", l.Origin, err)
		}
		next[l.Origin] = l
	}
	if err := w.rewrite(ctx, next, nil); err != nil {
		return fmt.Errorf("enrolling %d logs: %w", len(next), err)
	}
	return nil
}

// EnrollListed is Enroll for a list that somebody else keeps. It returns how many logs were
// new, and takes nothing of the list when it names another key for a log that is enrolled:
// that must be decided by hand. Logs that were removed stay removed.
func (w *Witness) EnrollListed(ctx context.Context, logs []Log) (added int, err error) {
	w.enrolling.Lock()
	defer w.enrolling.Unlock()
	var enroll []Log
	for _, l := range logs {
		t := w.find(l.Origin)
		if t == nil {
			added++
			enroll = append(enroll, l)
			continue
		}
		known := t.log.Load()
		if known == nil {
			continue
		}
		for _, k := range l.Keys {
			if !known.has(k) {
				return 0, fmt.Errorf("enrolling a list: %q is enrolled with other keys than %s", l.Origin, k)
			}
		}
		enroll = append(enroll, l)
	}
	return added, w.enroll(ctx, enroll)
}

// Remove makes the witness refuse a log from now on. What was cosigned of it stays.
func (w *Witness) Remove(ctx context.Context, origin string) error {
	w.enrolling.Lock()
	defer w.enrolling.Unlock()
	if t := w.find(origin); t == nil || t.log.Load() == nil {
		return fmt.Errorf("removing %q: %w", origin, ErrNotEnrolled)
	}
	if err := w.rewrite(ctx, nil, []string{origin}); err != nil {
		return fmt.Errorf("removing %q: %w", origin, err)
	}
	return nil
}

// RemoveKey ends the trust in one key of a log that has others, as at the end of a rotation.
func (w *Witness) RemoveKey(ctx context.Context, origin string, key checkpoint.VerifierKey) error {
	w.enrolling.Lock()
	defer w.enrolling.Unlock()
	t := w.find(origin)
	if t == nil || t.log.Load() == nil {
		return fmt.Errorf("removing a key of %q: %w", origin, ErrNotEnrolled)
	}
	l := *t.log.Load()
	if !l.has(key) {
		return fmt.Errorf("removing a key of %q: the log does not have it", origin)
	}
	l.Keys = slices.DeleteFunc(slices.Clone(l.Keys), key.Equal)
	if err := l.Validate(); err != nil {
		return fmt.Errorf("removing the last key of %q: %w", origin, err)
	}
	if err := w.rewrite(ctx, map[string]Log{origin: l}, nil); err != nil {
		return fmt.Errorf("removing a key of %q: %w", origin, err)
	}
	return nil
}

// rewrite writes the register with logs that are new or changed and others removed. The
// caller holds w.enrolling.
func (w *Witness) rewrite(ctx context.Context, change map[string]Log, remove []string) error {
	r := w.register
	r.Revision++
	r.Logs = slices.Clone(r.Logs)
	rest := make(map[string]bool, len(change))
	for origin := range change {
		rest[origin] = true
	}
	for i, e := range r.Logs {
		if l, ok := change[e.Origin]; ok {
			r.Logs[i] = enroll(l)
			delete(rest, e.Origin)
		} else if slices.Contains(remove, e.Origin) {
			r.Logs[i].Removed = true
		}
	}
	for origin := range rest {
		r.Logs = append(r.Logs, enroll(change[origin]))
	}
	slices.SortFunc(r.Logs, func(a, b enrolled) int { return strings.Compare(a.Origin, b.Origin) })
	// A state without an enrolment is possible after a crash; it is read, not made anew.
	var fresh []*tree
	for origin := range rest {
		t, err := w.loadTree(ctx, origin)
		if err != nil {
			return err
		}
		fresh = append(fresh, t)
	}
	encoded := r.encode()
	if err := w.swap(ctx, registerCell, w.registered, encoded); err != nil {
		return err
	}
	w.register, w.registered = r, encoded
	for _, t := range fresh {
		w.add(t)
	}
	for origin, l := range change {
		w.find(origin).set(&l)
	}
	for _, origin := range remove {
		w.find(origin).set(nil)
	}
	return nil
}

// set changes the enrolment. What was verified by the old one is not cosigned after that.
func (t *tree) set(l *Log) {
	t.cosigning.Lock()
	defer t.cosigning.Unlock()
	t.log.Store(l)
}
