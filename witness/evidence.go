package witness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
)

// What one request can prove is a fork, in two ways: the log signed another tree of the size
// that was cosigned last; or it signed a larger tree, and the proof that came along leads to
// that tree's root, but from another root of the size cosigned last. Nobody finds hashes
// that give a signed root and are not nodes of its tree. That is how a log shows itself that
// goes on from a restored backup. (Where the size is a power of two the proof does not say
// from which root it leads.) A smaller tree proves nothing, because the log may have signed
// it earlier; nor does a proof that leads nowhere, because anyone can send a bad one along.
//
// The file has client/verify's format. Who reads it needs the log's origin and its public
// keys and nothing else. For a log whose origin is not the name of its keys, perhaps no key
// name at all ("go.sum database tree"), a policy cannot state that: the reader must be told
// origin and keys each (client/verify.LogKey). Both checkpoints then parse as those of any
// C2SP log, with checkpoint.ParseForeignNote.

// maxEvidence is how many files are kept of one log. One is enough to convict it; a log
// that goes on signing trees shall not fill the disk.
const maxEvidence = 16

// evidenceFormat and evidenceKind are those of client/verify, whose verdict the file
// repeats.
const (
	evidenceFormat = "keytrail.dev/evidence/v1"
	evidenceKind   = "fork"
)

// evidence is a file of client/verify's format: what a third party needs to come to the
// same verdict with the log's public keys.
type evidence struct {
	Format string   `json:"format"`
	Kind   string   `json:"kind"`
	Detail string   `json:"detail"`
	Origin string   `json:"origin"`
	Old    string   `json:"old_checkpoint"`
	New    string   `json:"new_checkpoint"`
	Proof  [][]byte `json:"proof,omitempty"`
	File   []byte   `json:"file"`
}

// evidenceDir is where evidence is kept, a file for each contradicting tree.
type evidenceDir struct {
	// path is empty when none is kept.
	path string
	mu   sync.Mutex
}

// forked says in what way a request proves a fork when its tree has the size of the last one.
func (l *latest) forked(r *request) (detail string, ok bool) {
	if l.note == nil || r.Size != l.Size || r.Root == l.Root {
		return "", false
	}
	return fmt.Sprintf("the log signed two trees of %d entries: root %x and root %x", r.Size, l.Root, r.Root), true
}

// forkedBelow says in what way a request proves a fork when its tree is larger.
func (l *latest) forkedBelow(r *request) (detail string, ok bool) {
	if l.note == nil || r.old != l.Size || r.old == 0 || r.old >= r.Size {
		return "", false
	}
	verify := func(from []byte) error {
		return proof.VerifyConsistency(rfc6962.DefaultHasher, r.old, r.Size, r.proof(), from, r.Root[:])
	}
	mismatch, ok := errors.AsType[proof.RootMismatchError](verify(l.Root[:]))
	// The root from which the proof leads comes first; if it is from there that it leads to
	// the signed root, the larger tree has it.
	if !ok || verify(mismatch.CalculatedRoot) != nil {
		return "", false
	}
	return fmt.Sprintf("the log signed a tree of %d entries with the root %x, and a tree of %d entries with the root %x, whose first %d entries have the root %x",
		l.Size, l.Root, r.Size, r.Root, l.Size, mismatch.CalculatedRoot), true
}

// keep writes evidence of a fork and counts it. The witness goes on without when it cannot.
func (w *Witness) keep(ctx context.Context, last *latest, r *request, verified []checkpoint.Signature, detail string) {
	w.metrics.forks.Inc()
	attrs := []any{slog.String("origin", r.Origin), slog.Uint64("size", r.Size), slog.String("detail", detail)}
	name, err := w.evidence.keep(last, r, verified, detail)
	if err != nil {
		w.log.ErrorContext(ctx, "keeping evidence of a forked log", append(attrs, slog.Any("error", err))...)
	} else if name != "" {
		w.log.WarnContext(ctx, "a log signed two histories", append(attrs, slog.String("evidence", name))...)
	}
}

// keep returns the name of the file, empty when the same evidence or enough of it is there.
func (d *evidenceDir) keep(last *latest, r *request, verified []checkpoint.Signature, detail string) (string, error) {
	if d.path == "" {
		return "", nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return "", err
	}
	prefix := originHash(r.Origin)[:16] + "-"
	name := fmt.Sprintf("%s%d-%x.json", prefix, r.Size, r.Root[:8])
	known, err := EvidenceFiles(d.path)
	if err != nil {
		return "", err
	}
	known = slices.DeleteFunc(known, func(n string) bool { return !strings.HasPrefix(n, prefix) })
	if slices.Contains(known, name) || len(known) >= maxEvidence {
		return "", nil
	}
	return name, replaceFile(filepath.Join(d.path, name), fork(last, r, verified, detail))
}

// fork returns the evidence that client/verify would give for these two checkpoints. Of the
// request it holds only what was verified.
func fork(last *latest, r *request, verified []checkpoint.Signature, detail string) []byte {
	note := checkpoint.AppendNote(nil, r.Checkpoint, verified)
	bundle := consistency.Bundle{OldSize: r.old, Hashes: r.hashes, Checkpoint: note}
	e := evidence{
		Format: evidenceFormat, Kind: evidenceKind, Origin: r.Origin, Detail: detail,
		Old: string(last.note), New: string(note), File: bundle.Append(nil),
	}
	for i := range r.hashes {
		e.Proof = append(e.Proof, r.hashes[i][:])
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(e) // Strings and byte slices always encode.
	return b.Bytes()
}

// EvidenceFiles returns the names of the files of evidence in a directory, which need not
// exist, in order.
func EvidenceFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing evidence: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
