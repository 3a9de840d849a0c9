package witness_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/witness"
)

// logPolicy is the policy of somebody who knows a log's keys alone.
func logPolicy(t testing.TB, l *testLog, more string) *policy.Policy {
	t.Helper()
	var b strings.Builder
	for _, k := range l.keys {
		fmt.Fprintf(&b, "log %s\n", k.VerifierKey())
	}
	if more == "" {
		more = "quorum none\n"
	}
	p, err := policy.Parse([]byte(b.String() + more))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEvidence shows a witness a fork: what it keeps is, byte for byte, what the offline
// verifier says about the two checkpoints with the log's keys.
func TestEvidence(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 8))
	fork := l.forked("fork")
	stranger := key(t, "stranger.test", checkpoint.TypeEd25519, 1)
	note := fork.sign(t, fork.at(8), l.keys[1], stranger, l.keys[0])
	// The order of checks hides the fork behind 409 in one, and shows it with 422 in the
	// other; the evidence is the same.
	w.wantRefused(t, fork.bundle(t, 3, 8, note), http.StatusConflict)
	w.wantRefused(t, fork.bundle(t, 8, 8, note), http.StatusUnprocessableEntity)
	files, err := witness.EvidenceFiles(w.evidence())
	if err != nil || len(files) != 1 {
		t.Fatalf("evidence is %v, %v; want one file", files, err)
	}
	got, err := os.ReadFile(filepath.Join(w.evidence(), files[0]))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Format string
		Old    string `json:"old_checkpoint"`
		File   []byte
	}
	if err := json.Unmarshal(got, &file); err != nil || file.Format != verify.EvidenceFormat {
		t.Fatalf("the file is of format %q, %v", file.Format, err)
	}
	_, err = verify.Consistency(file.File, []byte(file.Old), logPolicy(t, l, ""))
	tampered, ok := errors.AsType[*verify.TamperError](err)
	if !ok || tampered.Kind != verify.KindFork {
		t.Fatalf("the verifier says %v, want a fork", err)
	}
	if string(tampered.Evidence()) != string(got) {
		t.Errorf("the witness keeps\n%s\nthe verifier writes\n%s", got, tampered.Evidence())
	}
	if strings.Contains(string(got), stranger.Name()) {
		t.Error("the evidence holds a line that was not verified")
	}
}

// TestEvidenceOfBackup has a log go on from a backup, with other entries and in good faith:
// its own proof convicts it, before anyone who holds its keys.
func TestEvidenceOfBackup(t *testing.T) {
	for _, size := range []uint64{7, 13, 100} {
		l := newLog(t, testOrigin, testOrigin)
		w := inMemory(t, l)
		w.add(t, l.request(t, 0, size))
		w.wantRefused(t, l.forked("restored").request(t, size, size+9), http.StatusUnprocessableEntity)
		files, err := witness.EvidenceFiles(w.evidence())
		if err != nil || len(files) != 1 {
			t.Fatalf("size %d: evidence is %v, %v; want one file", size, files, err)
		}
		data, err := os.ReadFile(filepath.Join(w.evidence(), files[0]))
		if err != nil {
			t.Fatal(err)
		}
		c, err := verify.Evidence(data, logPolicy(t, l, ""))
		if err != nil || c.Kind != verify.KindFork || !c.Log {
			t.Errorf("size %d: the verdict is %+v, %v; want a fork of the log", size, c, err)
		}
	}
}

// TestNoEvidence sends what proves nothing against a log.
func TestNoEvidence(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 8))
	fork := l.forked("fork")
	w.wantRefused(t, fork.request(t, 3, 5), http.StatusConflict)
	w.wantRefused(t, fork.request(t, 8, 9), http.StatusUnprocessableEntity) // 8 is a power of two
	w.add(t, l.request(t, 8, 13))
	bad := fork.request(t, 13, 20)
	bad[bytes.Index(bad, []byte("\n\n"))-10] ^= 1 // the proof's last hash
	w.wantRefused(t, bad, http.StatusUnprocessableEntity)
	w.wantRefused(t, fork.bundle(t, 13, 20, fork.sign(t, fork.at(21))), http.StatusUnprocessableEntity)
	w.wantRefused(t, l.bundle(t, 13, 14, l.sign(t, l.at(14), key(t, "stranger.test", checkpoint.TypeEd25519, 1))), http.StatusForbidden)
	if files, err := witness.EvidenceFiles(w.evidence()); err != nil || len(files) != 0 {
		t.Errorf("evidence is %v, %v; want none", files, err)
	}
}

// TestEvidenceIsBounded lets a log sign trees without end.
func TestEvidenceIsBounded(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 8))
	for i := range 40 {
		fork := l.forked(fmt.Sprint(i))
		w.wantRefused(t, fork.bundle(t, 8, 8, fork.sign(t, fork.at(8), l.keys[0])), http.StatusUnprocessableEntity)
	}
	if files, err := witness.EvidenceFiles(w.evidence()); err != nil || len(files) != 16 {
		t.Errorf("%d files of evidence, %v; want 16", len(files), err)
	}
}
