package view_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log/view"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/storage/storagetest"
)

const indexDir = "view/index"

// questions are asked of a view before and after something happens to it.
var questions = []view.Filter{
	{Tenant: "acme", KeyRef: "k3"},
	{KeyRef: "k5", Descending: true},
	{Actor: "carol", Outcomes: []keytrailv1.Outcome{keytrailv1.Outcome_OUTCOME_DENIED}},
	{Tenant: "globex", From: epoch.Add(60_000 * time.Second), To: epoch.Add(70_000 * time.Second)},
}

// check compares a view's answers with scans of the log.
func check(t testing.TB, v *view.View, l *fakeLog) {
	t.Helper()
	size := v.Size()
	for _, f := range questions {
		if diff := cmp.Diff(l.want(f, size), list(t, v, f, 1000)); diff != "" {
			t.Errorf("%+v: %s", f, diff)
		}
	}
}

// logged collects what a view logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func (l *logged) options(fs vfs.FS) view.Options {
	return view.Options{FS: fs, Logger: slog.New(slog.NewTextHandler(l, nil))}
}

// TestReopen: a view goes on where it was, and reads no more of the log again than the
// newest segment.
func TestReopen(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(1, 1)), 1<<16+5000)
	l.publish(0)
	dir := filepath.Join(t.TempDir(), "view")
	v := follow(t, l, dir, view.Options{})
	v.stop()
	l.reads = 0
	var out logged
	v = follow(t, l, dir, out.options(nil))
	if l.reads != 5000 {
		t.Errorf("view read %d entries again, want the 5000 of the newest segment", l.reads)
	}
	if out.has("rebuilt") {
		t.Error("view was rebuilt")
	}
	check(t, v.View, l)
	v.stop()

	// Without its directory it answers the same.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	check(t, follow(t, l, dir, view.Options{}).View, l)
}

// TestPowerLoss cuts the power before and after every sync of a view's life, from its creation
// over the writing of a segment to a clean stop and another start, with none, some and all of
// the unsynced data lost: the view that is opened then answers the same. make test looks at
// one in thirteen.
func TestPowerLoss(t *testing.T) {
	every := 13
	if os.Getenv("KEYTRAIL_LONG") != "" {
		every = 1
	}
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(2, 2)), 1<<16+1000)
	l.publish(1)
	fsys := storagetest.NewSyncFS()
	rng := rand.New(rand.NewPCG(3, 3)) // used by one sync at a time
	var moments []*vfs.MemFS
	fsys.Around(func() {
		percent := []int{0, 50, 100}[len(moments)%3]
		moments = append(moments, fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
	})
	v := follow(t, l, "view", view.Options{FS: fsys})
	for _, size := range []uint64{1<<16 - 1, 1<<16 + 1000} {
		l.publish(size)
		v.wait(l)
	}
	v.stop()
	v = follow(t, l, "view", view.Options{FS: fsys})
	v.stop()
	fsys.Around(func() {})
	segments := 0
	for i := len(moments) - 1; i >= 0; i -= every {
		var out logged
		l.reads = 0
		w := follow(t, l, "view", out.options(moments[i]))
		if l.reads < 1<<16 {
			segments++ // which was on the disk
		}
		check(t, w.View, l)
		w.stop()
		if t.Failed() {
			t.Fatalf("moment %d of %d", i, len(moments))
		}
	}
	t.Logf("%d moments, %d looked at, %d with the segment", len(moments), (len(moments)+every-1)/every, segments)
	if len(moments) < 30 || segments == 0 {
		t.Error("the test does not test")
	}
}

// TestDamagedFiles flips a byte in, cuts, or removes every file of the view in turn. The
// view may say that it is damaged, and must then come back by itself; it must not answer
// wrong.
func TestDamagedFiles(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(4, 4)), 1<<16+10)
	l.publish(0)
	mem := vfs.NewCrashableMem()
	for range 2 { // The second time Pebble turns its journal into tables.
		follow(t, l, "view", view.Options{FS: mem}).stop()
	}
	names, err := mem.List(indexDir)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b },
		"riddled": func(b []byte) []byte {
			for i := 100; i < len(b); i += 1000 {
				b[i] ^= 1
			}
			return b
		},
		"halved":  func(b []byte) []byte { return b[:len(b)/2] },
		"removed": func([]byte) []byte { return nil },
	}
	for _, name := range names {
		for how, damage := range damages {
			t.Run(name+" "+how, func(t *testing.T) {
				fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})
				rewrite(t, fs, fs.PathJoin(indexDir, name), damage)
				v := follow(t, l, "view", view.Options{FS: fs})
				defer v.stop()
				deadline := time.Now().Add(30 * time.Second)
				for _, f := range questions {
					for {
						_, err := v.List(t.Context(), f, 10, "")
						if err == nil {
							break
						}
						if !errors.Is(err, view.ErrDamaged) || time.Now().After(deadline) {
							t.Fatalf("listing: %v", err)
						}
						time.Sleep(10 * time.Millisecond)
					}
				}
				v.wait(l)
				check(t, v.View, l)
			})
		}
	}
}

// rewrite damages a file; an empty one is removed.
func rewrite(t *testing.T, fs vfs.FS, name string, damage func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return
	}
	if b = damage(b); b == nil {
		return
	}
	if f, err = fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestViewOfAnotherLog opens a view over a log that it was not built from.
func TestViewOfAnotherLog(t *testing.T) {
	dir := t.TempDir()
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(5, 5)), 1<<16+10)
	l.publish(0)
	follow(t, l, dir, view.Options{}).stop()

	other := newFakeLog()
	other.addRandom(t, rand.New(rand.NewPCG(6, 6)), 1<<16+20)
	other.publish(0)
	var out logged
	v := follow(t, other, dir, out.options(nil))
	check(t, v.View, other)
	v.stop()
	if !out.has("was built from another log") {
		t.Errorf("the log does not say why the view was rebuilt: %s", out.b.String())
	}

	// A log that went back behind the view, as a restored backup does.
	l.publish(100)
	out = logged{}
	v = follow(t, l, dir, out.options(nil))
	check(t, v.View, l)
	if v.Size() != 100 {
		t.Errorf("view has %d entries of a log of 100", v.Size())
	}
	if !out.has("has published fewer") {
		t.Errorf("the log does not say why the view was rebuilt: %s", out.b.String())
	}
}

// TestLocked opens a view twice.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	l := newFakeLog()
	v, err := view.Open(t.Context(), dir, l, view.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := view.Open(t.Context(), dir, l, view.Options{}); !errors.Is(err, view.ErrLocked) {
		t.Errorf("second opening: %v, want view.ErrLocked", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = view.Open(t.Context(), dir, l, view.Options{}); err != nil {
		t.Fatalf("opening after closing: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.List(t.Context(), view.Filter{}, 1, ""); !errors.Is(err, os.ErrClosed) {
		t.Errorf("listing after closing: %v, want os.ErrClosed", err)
	}
}

// TestBehind uses a token of a larger view, as after a rebuild.
func TestBehind(t *testing.T) {
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(7, 7)), 100)
	l.publish(0)
	v := follow(t, l, t.TempDir(), view.Options{})
	p, err := v.List(t.Context(), view.Filter{}, 5, "")
	if err != nil {
		t.Fatal(err)
	}
	v.stop()
	empty, err := view.Open(context.Background(), t.TempDir(), l, view.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if _, err := empty.List(t.Context(), view.Filter{}, 5, p.Next); !errors.Is(err, view.ErrBehind) {
		t.Errorf("listing: %v, want view.ErrBehind", err)
	}
}

// TestSourceError: a log that cannot be read ends Run with its error.
func TestSourceError(t *testing.T) {
	want := errors.New("disk on fire")
	l := newFakeLog()
	l.addRandom(t, rand.New(rand.NewPCG(8, 8)), 10)
	l.publish(0)
	v, err := view.Open(t.Context(), t.TempDir(), broken{l, want}, view.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Run(t.Context()); !errors.Is(err, want) {
		t.Errorf("Run: %v, want %v", err, want)
	}
}

type broken struct {
	*fakeLog
	err error
}

func (b broken) Payloads(context.Context, uint64, uint64, func(uint64, []byte) error) error {
	return b.err
}
