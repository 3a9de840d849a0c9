package mirror_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
)

func evidence(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "evidence", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestFork has a log that leaves its history, at the copy's size, above it and below it.
func TestFork(t *testing.T) {
	for _, c := range []struct {
		name       string
		fork, size int
		kind       verify.Kind
	}{
		{"same size", 400, 500, verify.KindFork}, {"larger", 400, 700, verify.KindConsistency}, {"larger, from a power of two", 255, 700, verify.KindConsistency},
		{"smaller", 300, 450, verify.KindConsistency}, {"smaller, a power of two", 200, 256, verify.KindConsistency},
	} {
		t.Run(c.name, func(t *testing.T) {
			log, dir := tilestest.New(t), t.TempDir()
			log.Grow(500)
			m := open(t, dir, log)
			sync(t, m)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			before := files(t, dir)
			fork := log.Fork(c.fork)
			fork.GrowAs("fork", c.size)
			// No witness has cosigned the fork; that does not hide it.
			p := withWitness(t, log.Policy())
			m = openAs(t, dir, tilestest.Serve(t, fork), p)
			for range 2 {
				_, err := m.Sync(t.Context())
				e, ok := errors.AsType[*verify.TamperError](err)
				if !ok || e.Kind != c.kind {
					t.Fatalf("%v, want %s", err, c.kind)
				}
			}
			names := evidence(t, dir)
			if len(names) != 1 {
				t.Fatalf("evidence: %v, want one file", names)
			}
			b, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			conviction, err := verify.Evidence(b, log.Policy())
			if err != nil || !conviction.Log || conviction.Kind != verify.KindFork {
				t.Errorf("the evidence convicts nobody: %+v, %v", conviction, err)
			}
			after := files(t, dir)
			for path, b := range before {
				if !bytes.Equal(after[path], b) {
					t.Errorf("%s has changed", path)
				}
			}
			checkCopy(t, dir, log, 500)
		})
	}
}

// TestForkAfterCutOff remembers the history that it began to copy.
func TestForkAfterCutOff(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(300)
	m := open(t, dir, log)
	sync(t, m)
	log.Grow(600)
	m.Cut(func(step string) error {
		if step == "write checkpoint" {
			return errCut
		}
		return nil
	})
	if _, err := m.Sync(t.Context()); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	fork := log.Fork(400)
	fork.GrowAs("fork", 800)
	m = open(t, dir, fork)
	_, err := m.Sync(t.Context())
	if e, ok := errors.AsType[*verify.TamperError](err); !ok || e.Kind != verify.KindConsistency {
		t.Errorf("%v, want a fork", err)
	}
	if len(evidence(t, dir)) != 1 {
		t.Error("no evidence")
	}
}

// TestWentBack tells a log that states itself that it signed a smaller tree later from an
// old answer, of which a cache may be the cause.
func TestWentBack(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(300)
	old := log.Note()
	log.Grow(500)
	m := open(t, dir, log)
	sync(t, m)
	log.SetNote(old)
	if _, err := m.Sync(t.Context()); !errors.Is(err, mirror.ErrOlder) {
		t.Errorf("old answer: %v, want ErrOlder", err)
	}
	if names := evidence(t, dir); len(names) != 0 {
		t.Errorf("evidence of nothing: %v", names)
	}
	back := log.Fork(300)
	back.PublishAt(tilestest.Later)
	log.SetNote(back.Note())
	_, err := m.Sync(t.Context())
	if e, ok := errors.AsType[*verify.TamperError](err); !ok || e.Kind != verify.KindWentBack {
		t.Errorf("set back: %v, want %s", err, verify.KindWentBack)
	}
	if names := evidence(t, dir); len(names) != 1 {
		t.Errorf("evidence: %v", names)
	}
	checkCopy(t, dir, log.Fork(500), 500)
}

// TestSplitView shows two mirrors two histories. Each is content; their checkpoints
// together convict the log.
func TestSplitView(t *testing.T) {
	log := tilestest.New(t)
	log.Grow(300)
	other := log.Fork(200)
	other.GrowAs("other", 400)
	dir := t.TempDir()
	m := open(t, dir, log)
	sync(t, m)
	sync(t, open(t, t.TempDir(), other))
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// The keeper of the first points it at what the second serves.
	second := openAs(t, dir, tilestest.Serve(t, other), log.Policy())
	if _, err := second.Sync(t.Context()); err == nil || len(evidence(t, dir)) != 1 {
		t.Fatalf("%v, with evidence %v", err, evidence(t, dir))
	}
	b, err := os.ReadFile(evidence(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if c, err := verify.Evidence(b, log.Policy()); err != nil || !c.Log {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestOtherCheckpoints refuses what the policy does not accept.
func TestOtherCheckpoints(t *testing.T) {
	log, dir := tilestest.New(t), t.TempDir()
	log.Grow(300)
	other := tilestest.New(t) // the same origin, other keys
	other.Grow(400)
	log.SetNote(other.Note())
	m := open(t, dir, log)
	_, err := m.Sync(t.Context())
	if e, ok := errors.AsType[*verify.UnverifiableError](err); !ok || e.Reason != verify.ReasonNoSignature {
		t.Errorf("other keys: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	log.Publish()
	m = openAs(t, dir, tilestest.Serve(t, log), withWitness(t, log.Policy()))
	_, err = m.Sync(t.Context())
	if e, ok := errors.AsType[*verify.UnverifiableError](err); !ok || e.Reason != verify.ReasonQuorum {
		t.Errorf("no quorum: %v", err)
	}
	if m.Current() != nil {
		t.Error("something was copied")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// A copy of one log does not become that of another.
	m = open(t, dir, log)
	sync(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.New(t.Context(), dir, mirror.Options{Policy: other.Policy()}); err == nil {
		t.Error("opened under a policy that does not know the log")
	}
}
