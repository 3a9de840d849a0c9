package witness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage"
)

// The store holds two kinds of cells: one register of the enrolled logs, and for each log
// that was ever cosigned its latest checkpoint. Both are JSON, and both count their own
// changes.
const (
	registerCell   = "witness"
	statePrefix    = "log/"
	registerFormat = "keytrail.dev/witness/register/v1"
	stateFormat    = "keytrail.dev/witness/log/v1"
)

// originHash is how URLs and cells name a log (tlog-witness, monitor retrieval).
func originHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

func stateCell(origin string) string { return statePrefix + originHash(origin) }

// register is the content of its cell.
type register struct {
	Format string `json:"format"`
	// ID ties the store to its counter file: 32 hexadecimal digits, random.
	ID       string     `json:"id"`
	Revision uint64     `json:"revision"`
	Logs     []enrolled `json:"logs"`
}

// enrolled is a log in the register.
type enrolled struct {
	Origin string   `json:"origin"`
	Keys   []string `json:"keys"`
	// PerDay is the log's qpd, 0 for no limit.
	PerDay  uint32 `json:"qpd,omitempty"`
	Contact string `json:"contact,omitempty"`
	// Removed logs keep their state, so that enrolling them again starts no second history.
	Removed bool `json:"removed,omitempty"`
}

func newRegister() register {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // Never fails.
	return register{Format: registerFormat, ID: hex.EncodeToString(id), Revision: 1, Logs: []enrolled{}}
}

func (r register) encode() []byte { return encodeJSON(r) }

func parseRegister(b []byte) (register, error) {
	var r register
	if err := decodeJSON(b, &r); err != nil {
		return register{}, fmt.Errorf("%w: reading the register of logs: %w", storage.ErrCorrupt, err)
	}
	if r.Format != registerFormat {
		return register{}, fmt.Errorf("reading the register of logs: its format is %q: %w", r.Format, errors.ErrUnsupported)
	}
	return r, nil
}

func (e enrolled) log() (Log, error) {
	l := Log{Origin: e.Origin, PerDay: e.PerDay, Contact: e.Contact}
	for _, s := range e.Keys {
		k, err := checkpoint.ParseVerifierKey(s)
		if err != nil {
			return Log{}, fmt.Errorf("%w: reading a key of %q: %w", storage.ErrCorrupt, e.Origin, err)
		}
		l.Keys = append(l.Keys, k)
	}
	return l, nil
}

func enroll(l Log) enrolled {
	e := enrolled{Origin: l.Origin, PerDay: l.PerDay, Contact: l.Contact}
	for _, k := range l.Keys {
		e.Keys = append(e.Keys, k.String())
	}
	return e
}

// state is the content of a log's cell.
type state struct {
	Format   string `json:"format"`
	Revision uint64 `json:"revision"`
	// Left is what was left of the log's budget at the time of the cosignatures, so that
	// a witness that is started again gives no new one.
	Left *float64 `json:"budget_left,omitempty"`
	// Note is the checkpoint with the log's signatures that were verified and those of
	// the witness's own that were made before it was written. All else is read from it.
	Note string `json:"note"`
}

// latest is what was cosigned last of a log.
type latest struct {
	checkpoint.Checkpoint
	// note is nil when nothing was cosigned yet.
	note []byte
	// unfinished says that late cosignatures may be missing in note.
	unfinished bool
	// time is that of the cosignatures.
	time     uint64
	revision uint64
	// left is what the log's budget held then, nil when it had no limit.
	left *float64
	// cell is the content of the cell, nil when there is none.
	cell []byte
}

// loadTree reads the state of a log.
func (w *Witness) loadTree(ctx context.Context, origin string) (*tree, error) {
	t := &tree{origin: origin}
	cell, err := w.store.Cell(ctx, stateCell(origin))
	if errors.Is(err, fs.ErrNotExist) {
		t.latest.Store(&latest{Checkpoint: checkpoint.Checkpoint{Origin: origin, Root: checkpoint.EmptyRoot()}})
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	l, err := w.parseState(origin, cell)
	if err != nil {
		return nil, fmt.Errorf("%w: reading what was cosigned of %q: %w", storage.ErrCorrupt, origin, err)
	}
	t.latest.Store(l)
	if l.left != nil {
		t.budget = budget{used: true, left: *l.left, at: time.Unix(int64(l.time), 0)}
	}
	return t, nil
}

// takeOver makes the early cosignatures over a log's state that are not in the store, as of a
// key that is new, with the state's time, and writes them there, so that an older key can be
// given up.
func (w *Witness) takeOver(ctx context.Context, t *tree) error {
	last := t.latest.Load()
	if last.note == nil {
		return nil
	}
	others, own, err := w.splitNote(last.note)
	if err != nil {
		return err
	}
	stored := len(made(own))
	if err := w.sign(own, early, last.Checkpoint, last.time); err != nil || len(made(own)) == stored {
		return err
	}
	next := *last
	next.note = checkpoint.AppendNote(nil, last.Checkpoint, append(others, made(own)...))
	next.revision++
	if err := w.write(ctx, last, &next); err != nil {
		return err
	}
	t.latest.Store(&next)
	return nil
}

// finish makes the late cosignatures over a log's state that were not made, or were made
// before a restart, with the state's time.
func (w *Witness) finish(t *tree) (*latest, error) {
	t.cosigning.Lock()
	defer t.cosigning.Unlock()
	last := t.latest.Load()
	if !last.unfinished {
		return last, nil
	}
	others, own, err := w.splitNote(last.note)
	if err != nil {
		return nil, err
	}
	if err := w.sign(own, late, last.Checkpoint, last.time); err != nil {
		return nil, err
	}
	next := *last
	next.note = checkpoint.AppendNote(nil, last.Checkpoint, append(others, made(own)...))
	next.unfinished = false
	t.latest.Store(&next)
	return &next, nil
}

// splitNote returns the signatures of a note of the state: those of others, and those of the
// witness with a place for each of its keys.
func (w *Witness) splitNote(note []byte) (others, own []checkpoint.Signature, err error) {
	_, sigs, err := checkpoint.ParseForeignNote(note)
	if err != nil {
		return nil, nil, err
	}
	own = make([]checkpoint.Signature, len(w.signers))
	for _, s := range sigs {
		for i, k := range w.signers {
			if k.VerifierKey().Made(s) {
				own[i] = s
			}
		}
	}
	return slices.DeleteFunc(sigs, w.isOwn), own, nil
}

// isOwn reports whether a signature line claims to be of one of the witness's keys.
func (w *Witness) isOwn(s checkpoint.Signature) bool {
	return slices.ContainsFunc(w.signers, func(k *checkpoint.SignerKey) bool { return k.VerifierKey().Made(s) })
}

// parseState reads a log's cell and verifies that this witness cosigned what is in it.
func (w *Witness) parseState(origin string, cell []byte) (*latest, error) {
	var s state
	if err := decodeJSON(cell, &s); err != nil {
		return nil, err
	}
	if s.Format != stateFormat {
		return nil, fmt.Errorf("its format is %q: %w", s.Format, errors.ErrUnsupported)
	}
	c, sigs, err := checkpoint.ParseForeignNote([]byte(s.Note))
	if err != nil {
		return nil, err
	}
	if c.Origin != origin {
		return nil, fmt.Errorf("it is a checkpoint of %q", c.Origin)
	}
	at, err := w.ownTime(c, sigs)
	if err != nil {
		return nil, err
	}
	if at == 0 {
		return nil, errors.New("no cosignature in it is of this witness's keys")
	}
	return &latest{Checkpoint: c, note: []byte(s.Note), unfinished: true, time: at, revision: s.Revision, left: s.Left, cell: cell}, nil
}

// ownTime verifies the cosignatures of this witness among sigs and returns the time of
// those that are good, the latest if they differ, 0 when there is none. The error is about
// those that are not.
func (w *Witness) ownTime(c checkpoint.Checkpoint, sigs []checkpoint.Signature) (latest uint64, bad error) {
	for _, s := range sigs {
		for _, k := range w.signers {
			v := k.VerifierKey()
			if !v.Made(s) {
				continue
			}
			at, err := v.Verify(c, s)
			if err != nil {
				bad = fmt.Errorf("%v cosignature of this witness: %w", v.Type(), err)
				continue
			}
			latest = max(latest, at)
		}
	}
	return latest, bad
}

// encodeJSON is for types that always encode.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return b.Bytes()
}

func decodeJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("something follows the object")
	}
	return nil
}
