package monitor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/monitor"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
)

// TestSplitViewShownToTwoClients shows two histories to two monitors. Neither sees anything
// wrong, until they exchange the checkpoints in their state directories.
func TestSplitViewShownToTwoClients(t *testing.T) {
	for _, sizes := range [][2]int{{7, 7}, {7, 12}, {8, 12}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			l, fork := twins(t, sizes[0])
			fork.GrowAs("another", sizes[1])
			alice, bob := watch(t, l), watch(t, fork)
			alice.fine(sizes[0])
			bob.fine(sizes[1])
			bob.cfg.Views = []monitor.View{monitor.FileView(filepath.Join(alice.cfg.Dir, "checkpoint"))}
			a := bob.alarm(monitor.KindSplitView, monitor.SeverityCritical, fmt.Sprintf("%x", l.Root(sizes[0])))
			c := bob.proves(a)
			if !c.Log || c.Kind != verify.KindFork {
				t.Errorf("%+v", c)
			}
			// The file proves it to anybody, alice too, and stays.
			if got := alice.proves(a); got.Detail != c.Detail {
				t.Errorf("alice reads %q", got.Detail)
			}
			bob.cfg.Views = nil
			bob.alarm(monitor.KindSplitView, monitor.SeverityCritical, "")
			// Alice, who was shown the shorter history, cannot prove it alone: her server
			// does not have the other tree. It is not passed over either.
			alice.cfg.Views = []monitor.View{monitor.FileView(filepath.Join(bob.cfg.Dir, "checkpoint"))}
			alice.now = alice.now.Add(time.Hour)
			r := alice.round()
			if r.Verdict() == monitor.Fine {
				t.Errorf("alice sees nothing: %+v", r)
			}
		})
	}
}

func TestComparesTheSameHistory(t *testing.T) {
	l := tilestest.New(t)
	w := watch(t, l)
	path := filepath.Join(t.TempDir(), "theirs")
	w.cfg.Views = []monitor.View{monitor.FileView(path)}
	w.alarm(monitor.KindUnreachable, monitor.SeverityWarning, "no such file") // a file that was given must be there
	l.Grow(5)
	if err := os.WriteFile(path, l.Note(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fine(5)
	l.Grow(9)
	w.fine(9)
	// Theirs is larger: for a moment that is no news, after it the log keeps it back.
	larger := l.Fork(9)
	larger.Grow(12)
	if err := os.WriteFile(path, larger.Note(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fine(9)
	w.now = w.now.Add(2 * monitor.Grace)
	w.alarm(monitor.KindSplitView, monitor.SeverityWarning, "cannot be told")
	l.Grow(12)
	w.lieCheckpoint(l, nil)
	w.lieCheckpoint(l, nineOf(t, l))
	w.alarm(monitor.KindSplitView, monitor.SeverityWarning, "it begins with the tree that the log shows")
	l.Lie(nil)
	w.fine(12)
}

// nineOf returns a checkpoint of nine entries.
func nineOf(t testing.TB, l *tilestest.Log) []byte {
	t.Helper()
	return l.Fork(9).Note()
}

func TestWitnessWasShownAnotherTree(t *testing.T) {
	l, fork := twins(t, 7)
	x, y := newWitness(t, "x"), newWitness(t, "y")
	w := watch(t, l)
	w.demand(x, y)
	l.SetNote(y.cosign(l.Note(), w.now))
	x.cosign(fork.Note(), w.now)
	a := w.alarm(monitor.KindSplitView, monitor.SeverityCritical, "signed two trees of 7 entries")
	if c := w.proves(a); !c.Log || c.Witnesses != nil {
		t.Errorf("%+v", c)
	}
}

// TestWitnessHelpsToFork is a witness that cosigned both trees: it is convicted too.
func TestWitnessHelpsToFork(t *testing.T) {
	l, fork := twins(t, 7)
	x := newWitness(t, "x")
	w := watch(t, l)
	w.demand(x)
	l.SetNote(x.cosign(l.Note(), w.now))
	x.cosign(fork.Note(), w.now)
	a := w.alarm(monitor.KindSplitView, monitor.SeverityCritical, "The witness x cosigned both")
	if c := w.proves(a); !slices.Equal(c.Witnesses, []string{"x"}) {
		t.Errorf("%+v", c)
	}
}

func TestWitnessIsDown(t *testing.T) {
	l := tilestest.New(t)
	x, y := newWitness(t, "x"), newWitness(t, "y")
	w := watch(t, l)
	w.demand(x, y)
	l.Grow(3)
	l.SetNote(y.cosign(l.Note(), w.now))
	a := w.alarm(monitor.KindUnreachable, monitor.SeverityInfo, "404")
	if a.Subject != "witness x" {
		t.Errorf("%+v", a)
	}
	x.note = []byte("rubbish\n")
	w.alarm(monitor.KindUnreadable, monitor.SeverityInfo, "not readable")
}

func TestWitnessViewsNeedAURL(t *testing.T) {
	l := tilestest.New(t)
	w := watch(t, l)
	w.demand(newWitness(t, "x"))
	w.cfg.Policy.Witnesses[0].URL = "ftp://nowhere"
	if _, err := monitor.WitnessViews(w.cfg.Policy, tilestest.Origin, tiles.Options{}); err == nil {
		t.Error("an address of another scheme was taken")
	}
}
