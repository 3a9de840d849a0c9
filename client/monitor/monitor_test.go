package monitor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

func TestGrowthAndRestart(t *testing.T) {
	l := tilestest.New(t)
	w := watch(t, l)
	for _, size := range []int{0, 1, 2, 255, 256, 257, 700, 700} {
		l.Grow(size)
		w.fine(size)
	}
	note, err := os.ReadFile(filepath.Join(w.cfg.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := verify.Checkpoint(note, l.Policy()); err != nil || s.Size != 700 {
		t.Errorf("the checkpoint in the state: %+v, %v", s, err)
	}
}

// twins returns two logs with the same keys whose histories part after four entries.
func twins(t testing.TB, size int) (l, fork *tilestest.Log) {
	t.Helper()
	l = tilestest.New(t)
	l.Grow(4)
	fork = l.Fork(4)
	l.Grow(size)
	fork.GrowAs("another", size)
	return l, fork
}

func TestForkOfOneSize(t *testing.T) {
	l, fork := twins(t, 7)
	w := watch(t, l)
	w.fine(7)
	w.serve(fork)
	a := w.alarm(monitor.KindFork, monitor.SeverityCritical, "signed two trees of 7 entries")
	if c := w.proves(a); !c.Log {
		t.Errorf("the log is not convicted: %+v", c)
	}
}

// TestForkOfEverySize looks at one history and then at a longer one of the other; every size
// of the first matters, because the proof of a power of two has another form.
func TestForkOfEverySize(t *testing.T) {
	for size := 5; size <= 18; size++ {
		l, fork := twins(t, size)
		fork.GrowAs("another", 19)
		w := watch(t, l)
		w.fine(size)
		w.serve(fork)
		r := w.round()
		a := wantAlarm(t, r, monitor.KindFork, monitor.SeverityCritical, fmt.Sprintf("whose first %d entries have the root", size))
		if c := w.proves(a); !c.Log || c.Earlier.Size != uint64(size) || c.Later.Size != 19 {
			t.Errorf("%d: %+v", size, c)
		}
		if r.Size != uint64(size) || r.Root != l.Root(size) {
			t.Errorf("%d: the forked tree of %d entries was accepted", size, r.Size)
		}
	}
}

// TestForkIsNotForgotten restarts the monitor in front of an honest log again.
func TestForkIsNotForgotten(t *testing.T) {
	l, fork := twins(t, 7)
	w := watch(t, l)
	w.fine(7)
	w.serve(fork)
	a := w.alarm(monitor.KindFork, monitor.SeverityCritical, "signed two trees")
	w.serve(l)
	l.Grow(9)
	r := w.round()
	wantAlarm(t, r, monitor.KindFork, monitor.SeverityCritical, "signed two trees")
	if r.Size != 9 {
		t.Errorf("the monitor stopped at %d entries", r.Size)
	}
	// Evidence that was damaged is not passed over.
	good, err := os.ReadFile(a.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Evidence, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.Open(w.cfg); err == nil || !strings.Contains(err.Error(), "is none; move it away") {
		t.Errorf("damaged evidence: %v", err)
	}
	if err := os.Rename(a.Evidence, filepath.Join(t.TempDir(), "dealt-with.json")); err != nil {
		t.Fatal(err)
	}
	w.fine(9)
}

func TestWentBack(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	old := l.Note()
	w := watch(t, l)
	l.Grow(9)
	w.fine(9)
	// An old checkpoint from a cache: nothing is proven.
	l.Lie(func(path string, b []byte) []byte {
		if path == "checkpoint" {
			return old
		}
		return b
	})
	r := w.round()
	wantAlarm(t, r, monitor.KindWentBack, monitor.SeverityWarning, "5 entries after one of 9; its signatures are not newer")
	if r.Size != 9 {
		t.Errorf("the smaller tree was accepted: %d", r.Size)
	}
	// A restored backup: the log says itself that it signed the smaller tree later.
	back := l.Fork(5)
	note := signLater(t, back)
	back.SetNote(note)
	w.serve(back)
	a := w.alarm(monitor.KindWentBack, monitor.SeverityCritical, "its signers say that they signed it at")
	data, err := os.ReadFile(a.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Evidence(data, l.Policy()); err == nil {
		t.Error("a smaller tree is said to prove misbehaviour to others")
	}
	// And it goes on with other entries, still smaller: then it is a fork.
	back.SetNote(nil)
	back.GrowAs("another", 8)
	w.fineTiles(l)
	w.lieCheckpoint(l, back.Note())
	w.alarm(monitor.KindFork, monitor.SeverityCritical, "whose first 8 entries have the root")
}

// signLater waits until the log's time, in whole seconds, is later, and signs again.
func signLater(t testing.TB, l *tilestest.Log) []byte {
	t.Helper()
	time.Sleep(1100 * time.Millisecond)
	l.Publish()
	return l.Note()
}

// fineTiles makes the monitor read the tiles of l.
func (w *watched) fineTiles(l *tilestest.Log) {
	l.Lie(nil)
	w.serve(l)
}

// lieCheckpoint makes l show another checkpoint over its tiles.
func (w *watched) lieCheckpoint(l *tilestest.Log, note []byte) {
	l.Lie(func(path string, b []byte) []byte {
		if path == "checkpoint" {
			return note
		}
		return b
	})
}

func TestBadSignature(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	w := watch(t, l)
	w.fine(5)
	l.Grow(6)
	c, sigs, err := checkpoint.ParseNote(l.Note())
	if err != nil {
		t.Fatal(err)
	}
	sigs[0].Sig[20] ^= 1
	w.lieCheckpoint(l, checkpoint.AppendNote(nil, c, sigs))
	a := w.alarm(monitor.KindBadSignature, monitor.SeverityCritical, "bad log signature")
	if _, err := os.Stat(a.Evidence); err != nil {
		t.Error(err)
	}
	// Not a conviction: the next good checkpoint is fine again.
	l.Lie(nil)
	w.fine(6)
}

func TestUnreadable(t *testing.T) {
	l, stranger := tilestest.New(t), tilestest.New(t)
	l.Grow(5)
	stranger.Grow(6)
	w := watch(t, l)
	w.fine(5)
	for what, note := range map[string][]byte{
		"not readable":       []byte("<html>we will be back soon</html>\n"),
		"no known signature": stranger.Note(),
	} {
		w.lieCheckpoint(l, note)
		w.alarm(monitor.KindUnreadable, monitor.SeverityWarning, what)
	}
	// The policy may know other logs; this server is of one.
	other := w.cfg
	other.Origin = "other.test/log"
	if _, err := monitor.Open(other); err == nil || !strings.Contains(err.Error(), "knows no log") {
		t.Errorf("a log that the policy does not know: %v", err)
	}
}

// TestAnotherLogOfThePolicy shows the monitor a good checkpoint of another log.
func TestAnotherLogOfThePolicy(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	w := watch(t, l)
	k, err := checkpoint.NewSignerKey("other.test/log", checkpoint.TypeEd25519, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Policy.Logs = append(w.cfg.Policy.Logs, policy.Log{Key: k.VerifierKey()})
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: "other.test/log", Size: 5, Root: [32]byte{1}}, w.now, k)
	if err != nil {
		t.Fatal(err)
	}
	w.fine(5)
	w.cfg.Views = []monitor.View{{Name: "theirs", Required: true, Read: func(context.Context) ([]byte, error) { return note, nil }}}
	w.alarm(monitor.KindUnreadable, monitor.SeverityWarning, "different logs: the checkpoint is of other.test/log")
	w.cfg.Views = nil
	w.lieCheckpoint(l, note)
	w.alarm(monitor.KindUnreadable, monitor.SeverityWarning, "the server shows a checkpoint of the log other.test/log")
}

func TestQuorumMissing(t *testing.T) {
	l := tilestest.New(t)
	x := newWitness(t, "x")
	w := watch(t, l)
	w.demand(x)
	l.Grow(5)
	l.SetNote(x.cosign(l.Note(), w.now))
	w.fine(5)
	l.Grow(6)
	r := w.round()
	wantAlarm(t, r, monitor.KindQuorumMissing, monitor.SeverityWarning, "missing: x")
	// The log signed it, so it is held to it.
	fork := l.Fork(5)
	fork.GrowAs("another", 6)
	w.serve(fork)
	if got := kinds(w.round()); !slices.Equal(got, []monitor.Kind{monitor.KindFork, monitor.KindQuorumMissing}) {
		t.Errorf("alarms: %v", got)
	}
}

func TestStale(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	w := watch(t, l)
	w.cfg.MaxAge = time.Hour
	w.fine(5)
	w.now = w.now.Add(2 * time.Hour)
	w.alarm(monitor.KindStale, monitor.SeverityWarning, "too old")
	// Without witnesses the log's own word counts; with them only theirs.
	x := newWitness(t, "x")
	w.demand(x)
	l.SetNote(x.cosign(l.Note(), w.now.Add(-59*time.Minute)))
	w.fine(5)
}

func TestUnreachable(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	w := watch(t, l)
	w.fine(5)
	w.cfg.Log = open(t, tilestest.Serve(t, http.NotFoundHandler())) // at once; a dead server is tried again first
	r := w.round()
	wantAlarm(t, r, monitor.KindUnreachable, monitor.SeverityWarning, "404")
	if r.Size != 5 {
		t.Errorf("the last checkpoint is lost: %+v", r)
	}
	// In the long run a few failures are no alarm, but no success either.
	w.cfg.Failures = 2
	m, err := monitor.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range 4 {
		r, err := m.Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(r.Alarms), i/2; got != want && i != 3 || r.Verdict() != monitor.Unknown || i == 3 && (got != 1 || len(r.Changes) != 0) {
			t.Errorf("after failure %d: %+v", i+1, r)
		}
	}
}

func TestInconsistentTile(t *testing.T) {
	l := tilestest.New(t)
	w := watch(t, l)
	l.Grow(300)
	w.fine(300)
	l.Grow(600)
	l.Flip("tile/1/000.p/2", 40)
	a := w.alarm(monitor.KindInconsistent, monitor.SeverityCritical, "")
	if a.Subject != "tiles" {
		t.Errorf("%+v", a)
	}
	l.Lie(nil)
	w.fine(600)
}

// TestToldOnce holds that an alarm is told when it begins, when it changes and when it ends.
func TestToldOnce(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(5)
	w := watch(t, l)
	w.cfg.MaxAge = time.Hour
	m, err := monitor.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	told := func(want ...string) {
		t.Helper()
		r, err := m.Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range r.Changes {
			s := string(c.Kind)
			if c.Cleared {
				s += " cleared"
			}
			got = append(got, s)
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	told()
	w.now = w.now.Add(2 * time.Hour)
	told("stale")
	w.now = w.now.Add(time.Hour)
	told() // older still: no news
	note := bytes.Clone(l.Note())
	w.lieCheckpoint(l, []byte("rubbish\n"))
	told("unreadable", "stale cleared")
	w.lieCheckpoint(l, tilestest.New(t).Note())
	told("unreadable") // for another reason: signed by nobody who is known
	w.lieCheckpoint(l, note)
	told("stale", "unreadable cleared")
	w.now = w.now.Add(-3 * time.Hour)
	told("stale cleared")
	told()
}

func TestStateDirectory(t *testing.T) {
	l := tilestest.New(t)
	l.Grow(3)
	w := watch(t, l)
	m, err := monitor.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.Open(w.cfg); err == nil || !strings.Contains(err.Error(), "another monitor uses it") {
		t.Errorf("opened twice: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.fine(3)
	err = filepath.WalkDir(w.cfg.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Of another log, of another policy, open to others.
	for what, change := range map[string]func(){
		"is of the log": func() { rewrite(t, filepath.Join(w.cfg.Dir, "origin"), "other.test/log\n") },
		"does not verify under the policy": func() {
			rewrite(t, filepath.Join(w.cfg.Dir, "checkpoint"), string(tilestest.New(t).Note()))
		},
		"others must not": func() {
			if err := os.Chmod(w.cfg.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w.cfg.Dir = filepath.Join(t.TempDir(), "state")
		w.fine(3)
		change()
		if _, err := monitor.Open(w.cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	l, fork := twins(t, 7)
	w := watch(t, l)
	w.cfg.Views = []monitor.View{{Name: "file", Read: func(context.Context) ([]byte, error) { return fork.Note(), nil }}}
	m, err := monitor.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	told := 0
	err = m.Run(ctx, time.Millisecond, func(c monitor.Change) error {
		if told++; c.Kind != monitor.KindSplitView || c.Cleared {
			t.Errorf("told %v", c)
		}
		time.AfterFunc(200*time.Millisecond, cancel)
		return nil
	})
	if err != nil || told != 1 {
		t.Errorf("told %d times: %v", told, err)
	}
	if r := m.LastRound(); r == nil || r.Verdict() != monitor.Tampered {
		t.Errorf("%+v", r)
	}
	broken := errors.New("broken pipe")
	w.cfg.Views = nil
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := monitor.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := again.Run(ctx, time.Hour, func(monitor.Change) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
