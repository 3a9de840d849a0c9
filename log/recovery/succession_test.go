package recovery_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/log/recovery"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

const origin = "log.test/keys"

var now = time.Date(2026, 11, 22, 8, 0, 0, 5, time.UTC)

// lost is a log in a directory whose store is that of a backup.
type lost struct {
	dir *logdir.Dir
	// newest is the checkpoint published last, kept that of the backup.
	newest, kept []byte
}

// lose makes a log of 20 entries whose store was set back to 12.
func lose(t *testing.T) *lost {
	t.Helper()
	d, err := logdir.Init(filepath.Join(t.TempDir(), "log"), origin)
	if err != nil {
		t.Fatal(err)
	}
	l := &lost{dir: d, kept: run(t, d, 0, 12)}
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(d.Store())); err != nil {
		t.Fatal(err)
	}
	l.newest = run(t, d, 12, 20)
	if err := errors.Join(os.RemoveAll(d.Store()), os.CopyFS(d.Store(), os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	return l
}

// run opens the log, appends events and returns the checkpoint over them.
func run(t *testing.T, d *logdir.Dir, from, to uint64) []byte {
	t.Helper()
	var note []byte
	with(t, d, func(s storage.Store, led *ledger.Ledger) {
		x, err := index.Open(d.Index(), index.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		l, err := log.Open(t.Context(), log.Config{Origin: d.Config.Origin, Signers: d.Signers, Store: s, Index: x, Ledger: led})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		for n := from; n < to; n++ {
			if _, err := l.Append(t.Context(), "tester", []log.Event{logtest.Prepare(t, event(n))}); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if note = l.Published().Note; l.Published().Size != l.DurableSize() {
			t.Fatalf("published %d of %d", l.Published().Size, l.DurableSize())
		}
	})
	return note
}

// with opens store and ledger of a log.
func with(t *testing.T, d *logdir.Dir, do func(storage.Store, *ledger.Ledger)) {
	t.Helper()
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	led, err := ledger.Open(d.Ledger(), d.Config.Origin)
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	do(s, led)
}

// succeed runs Succession into a directory beside the log's.
func (l *lost) succeed(t *testing.T, change func(*recovery.Succession)) (e *recovery.Ended, err error) {
	t.Helper()
	with(t, l.dir, func(s storage.Store, led *ledger.Ledger) {
		succession := &recovery.Succession{Old: l.dir, Store: s, Ledger: led, Dir: l.next(), Now: now}
		if change != nil {
			change(succession)
		}
		e, err = succession.Run(t.Context())
	})
	return e, err
}

func (l *lost) next() string { return l.dir.Path + "-2" }

func TestSuccession(t *testing.T) {
	l := lose(t)
	l.dir.Policy += "witness w1 " + witnessKey(t) + " https://witness.example/w1\n"
	e, err := l.succeed(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	newest, kept := parse(t, l.newest), parse(t, l.kept)
	if e.Signed.Size != 20 || e.Signed.Root != newest.Root || e.Kept.Size != 12 || e.Kept.Root != kept.Root || !e.Time.Equal(now.Truncate(time.Second)) {
		t.Errorf("%+v", e)
	}
	next, err := logdir.Load(l.next())
	if err != nil {
		t.Fatal(err)
	}
	if next.Config.Origin != origin+"/2" || next.Config.GRPC != l.dir.Config.GRPC {
		t.Errorf("the successor's configuration: %+v", next.Config)
	}
	if !strings.Contains(next.Policy, "witness w1 ") || strings.Contains(next.Policy, l.dir.Keys()[0].String()) {
		t.Errorf("the successor's policy:\n%s", next.Policy)
	}
	// Both directories have the statement, and the old policy verifies it.
	p, err := policy.Parse([]byte(l.dir.Policy))
	if err != nil {
		t.Fatal(err)
	}
	there := readFile(t, l.dir.Path, recovery.FinalStatement)
	st, err := verify.Statement(there, p)
	if err != nil || st.Successor != origin+"/2" || len(st.LogKeys) != 2 || len(st.Keys) != 2 || !st.Keys[0].Equal(next.Keys()[0]) {
		t.Errorf("%+v, %v", st, err)
	}
	if !bytes.Equal(there, readFile(t, l.next(), recovery.PredecessorStatement)) {
		t.Error("the two statements differ")
	}
	// The old log has ended, the new one begins.
	l.checkEnded(t)
	run(t, next, 12, 15)
	if again, err := l.succeed(t, nil); err != nil || again.Successor != e.Successor || !again.Keys[0].Equal(e.Keys[0]) {
		t.Errorf("once more: %+v, %v", again, err)
	}
	// The successor can have a successor.
	if next := lostDir(t, next); next.Successor != origin+"/3" {
		t.Errorf("the next after it is %s", next.Successor)
	}
}

// lostDir loses the store of a log and ends it.
func lostDir(t *testing.T, d *logdir.Dir) *recovery.Ended {
	t.Helper()
	if err := os.RemoveAll(d.Store()); err != nil {
		t.Fatal(err)
	}
	s, err := pebblestore.Create(d.Store(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	l := &lost{dir: d}
	e, err := l.succeed(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.Kept.Size != 0 || e.Signed.Size != 3 {
		t.Errorf("%+v", e)
	}
	return e
}

// checkEnded sees that the log signs nothing more, in any way.
func (l *lost) checkEnded(t *testing.T) {
	t.Helper()
	with(t, l.dir, func(s storage.Store, led *ledger.Ledger) {
		x, err := index.Open(l.dir.Index(), index.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		_, err = log.Open(t.Context(), log.Config{Origin: origin, Signers: l.dir.Signers, Store: s, Index: x, Ledger: led})
		if refusal, ok := errors.AsType[*log.RefusalError](err); !ok || !strings.Contains(refusal.Reason, origin+"/2") {
			t.Errorf("the ended log opens: %v", err)
		}
		p, err := policy.Parse([]byte(l.dir.Policy))
		if err != nil {
			t.Fatal(err)
		}
		tail := recovery.Tail{Origin: origin, Policy: p, Store: s, Ledger: led, Source: fromStore(t, s)}
		if _, err := tail.Run(t.Context()); !errors.Is(err, recovery.ErrEnded) {
			t.Errorf("the ended log takes its tail: %v", err)
		}
	})
}

// TestSuccessionIsCutOff undoes what a run did, step by step from the end, as if it had
// been cut off there, and runs again.
func TestSuccessionIsCutOff(t *testing.T) {
	l := lose(t)
	before := readFile(t, l.dir.Path, l.dir.Config.Ledger)
	if _, err := l.succeed(t, nil); err != nil {
		t.Fatal(err)
	}
	want := readFile(t, l.dir.Path, recovery.FinalStatement)
	building := l.next() + ".new"
	undo := []struct {
		name string
		do   func() error
		same bool // the statement must be the one that was signed
	}{
		{"before its place", func() error { return os.Rename(l.next(), building) }, true},
		{"before the statement in the old directory", func() error { return os.Remove(filepath.Join(l.dir.Path, recovery.FinalStatement)) }, true},
		{"before the seal", func() error { return os.WriteFile(l.dir.Ledger(), before, 0o600) }, true},
		{"before the statement", func() error { return os.Remove(filepath.Join(building, recovery.PredecessorStatement)) }, false},
		{"within making the successor", func() error {
			return errors.Join(os.Remove(filepath.Join(building, "config.yaml")), os.Remove(filepath.Join(building, "policy")))
		}, false},
	}
	for i, u := range undo {
		for _, step := range undo[:i+1] {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.succeed(t, nil); err != nil {
			t.Errorf("%s: %v", u.name, err)
		}
		got := readFile(t, l.dir.Path, recovery.FinalStatement)
		if bytes.Equal(got, want) != u.same || !bytes.Equal(got, readFile(t, l.next(), recovery.PredecessorStatement)) {
			t.Errorf("%s: statement\n%s", u.name, got)
		}
		if _, err := logdir.Load(l.next()); err != nil {
			t.Errorf("%s: %v", u.name, err)
		}
		l.checkEnded(t)
		want = got
	}
}

// TestSuccessionSaysOneThing has an attempt that was cut off when its statement was signed, and
// then is told of a larger tree: two statements of one log must not get about.
func TestSuccessionSaysOneThing(t *testing.T) {
	l := lose(t)
	before := readFile(t, l.dir.Path, l.dir.Config.Ledger)
	if _, err := l.succeed(t, nil); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(os.Rename(l.next(), l.next()+".new"), os.Remove(filepath.Join(l.dir.Path, recovery.FinalStatement)),
		os.WriteFile(l.dir.Ledger(), before, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	larger := l.sign(t, checkpoint.Checkpoint{Origin: origin, Size: 25, Root: [32]byte{25}})
	if _, err := l.succeed(t, func(s *recovery.Succession) { s.LastCheckpoint = larger }); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second statement: %v", err)
	}
	with(t, l.dir, func(_ storage.Store, led *ledger.Ledger) {
		if led.Successor() != "" {
			t.Error("the log is sealed")
		}
	})
}

func TestSuccessionRefuses(t *testing.T) {
	l := lose(t)
	foreign := bytes.ReplaceAll(l.newest, []byte(origin), []byte("log.test/other"))
	for name, c := range map[string]struct {
		change func(*recovery.Succession)
		want   error
	}{
		"a last checkpoint of another log": {func(s *recovery.Succession) { s.LastCheckpoint = foreign }, recovery.ErrOtherLog},
		"a place that is taken":            {func(s *recovery.Succession) { s.Dir = l.dir.Path }, fs.ErrExist},
		"a place beside which something is": {func(s *recovery.Succession) {
			if err := errors.Join(os.MkdirAll(s.Dir+".new", 0o700), os.WriteFile(filepath.Join(s.Dir+".new", "letter"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, fs.ErrExist},
	} {
		if _, err := l.succeed(t, c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := l.sign(t, checkpoint.Checkpoint{Origin: origin, Size: 12, Root: [32]byte{7}})
	if _, err := l.succeed(t, func(s *recovery.Succession) { s.LastCheckpoint = other }); !isDamage(err, "the last checkpoint has 07") {
		t.Errorf("a checkpoint that the store contradicts: %v", err)
	}
	other = l.sign(t, checkpoint.Checkpoint{Origin: origin, Size: 20, Root: [32]byte{7}})
	if _, err := l.succeed(t, func(s *recovery.Succession) { s.LastCheckpoint = other }); !isDamage(err, "two histories") {
		t.Errorf("a checkpoint that the ledger contradicts: %v", err)
	}
	// A witness that knows more and shows nothing.
	ask := func(w recovery.Witnessed) func(*recovery.Succession) {
		return func(s *recovery.Succession) {
			s.Ask = func(context.Context, checkpoint.Checkpoint, []byte) (*recovery.Witnessed, error) { return &w, nil }
		}
	}
	if _, err := l.succeed(t, ask(recovery.Witnessed{Witness: "w1", Size: 25})); !isShort(err, 25) {
		t.Errorf("a witness that knows more: %v", err)
	}
	// Nothing of all that has ended the log.
	with(t, l.dir, func(_ storage.Store, led *ledger.Ledger) {
		if led.Successor() != "" || led.State().Size != 20 {
			t.Errorf("the ledger: %+v, successor %q", led.State(), led.Successor())
		}
	})
	if _, err := os.Stat(filepath.Join(l.dir.Path, recovery.FinalStatement)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a final statement: %v", err)
	}
	// What a witness or an operator can show counts.
	if err := os.RemoveAll(l.next() + ".new"); err != nil {
		t.Fatal(err)
	}
	shown := l.sign(t, checkpoint.Checkpoint{Origin: origin, Size: 25, Root: [32]byte{25}})
	if e, err := l.succeed(t, ask(recovery.Witnessed{Witness: "w1", Size: 25, Note: shown})); err != nil || e.Signed.Size != 25 {
		t.Errorf("a witness that shows more: %+v, %v", e, err)
	}
}

func TestSuccessionOfAWholeLog(t *testing.T) {
	d, err := logdir.Init(filepath.Join(t.TempDir(), "log"), origin)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d, 0, 3)
	l := &lost{dir: d}
	if _, err := l.succeed(t, nil); !errors.Is(err, recovery.ErrNothingLost) {
		t.Errorf("ending a log that is whole: %v", err)
	}
	run(t, d, 3, 4)
}

func (l *lost) sign(t *testing.T, cp checkpoint.Checkpoint) []byte {
	t.Helper()
	note, err := checkpoint.SignNote(cp, now, l.dir.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func parse(t *testing.T, note []byte) checkpoint.Checkpoint {
	t.Helper()
	cp, _, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func witnessKey(t *testing.T) string {
	t.Helper()
	k, err := checkpoint.NewSignerKey("witness.example/w1", checkpoint.TypeMLDSA44, bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k.VerifierKey().String()
}
