package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/client/verify"
)

// mirrorOf returns the arguments that mirror a log into a directory.
func mirrorOf(t *testing.T, log *tilestest.Log, dir string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(path, log.Policy().Append(nil), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"keytrail", "mirror", "--url", tilestest.Serve(t, log), "--dir", dir, "--policy", path}
}

// TestMirrorKilled kills the mirror with SIGKILL at random moments. What is there is always
// one whole state of the log, and the next run goes on.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	log, dir := tilestest.New(t), filepath.Join(t.TempDir(), "copy")
	args := mirrorOf(t, log, dir)
	killed := 0
	for round := range 12 {
		log.Grow(3000 * (round + 1))
		cmd := exec.Command(args[0], args[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(90)) * time.Millisecond)
		_ = cmd.Process.Kill() // it may have ended
		if cmd.Wait() != nil {
			killed++
		}
		c, err := mirror.Open(t.Context(), dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		checkMirror(t, log, c)
	}
	t.Logf("killed %d times", killed)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c, err := mirror.Open(t.Context(), dir)
	if err != nil || c.Size() != 36_000 {
		t.Fatalf("the copy has %d entries, %v", c.Size(), err)
	}
	checkMirror(t, log, c)
}

// checkMirror checks all of a copy.
func checkMirror(t *testing.T, log *tilestest.Log, c *mirror.Copy) {
	t.Helper()
	s, err := verify.Checkpoint(c.Checkpoint(), log.Policy())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tiles.Open(c.Dir(), tiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Check(t.Context(), s.Size, s.Root, tiles.CheckOptions{})
	if err != nil || len(r.Problems)+len(r.Unread) > 0 {
		t.Fatalf("the copy of %d entries: %+v, %v", s.Size, r, err)
	}
}

// TestMirrorSyncsBeforeCheckpoint looks at the system calls of a mirror: when the checkpoint
// is put in its place, every file before it has been synced before it got its name, and
// every directory after that.
func TestMirrorSyncsBeforeCheckpoint(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace")
	}
	if exec.Command(strace, "-o", os.DevNull, "true").Run() != nil {
		t.Skip("strace may not trace here")
	}
	t.Parallel()
	log, dir := tilestest.New(t), filepath.Join(t.TempDir(), "copy")
	log.Grow(1500)
	trace := filepath.Join(t.TempDir(), "trace")
	args := append([]string{"-f", "-y", "-s", "512", "-e", "trace=fsync,rename,renameat,renameat2", "-o", trace}, mirrorOf(t, log, dir)...)
	if out, err := exec.Command(strace, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	checkTrace(t, string(b), dir)
}

var (
	fsynced = regexp.MustCompile(`fsync\(\d+<([^>]+)>`)
	renamed = regexp.MustCompile(`rename(?:at2?)?\(.*"([^"]+)", .*"([^"]+)"`)
)

func checkTrace(t *testing.T, trace, dir string) {
	t.Helper()
	synced, dirty, files := map[string]bool{}, map[string]bool{}, 0
	for line := range strings.Lines(trace) {
		if m := fsynced.FindStringSubmatch(line); m != nil {
			synced[m[1]] = true
			delete(dirty, m[1])
		}
		m := renamed.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if !synced[m[1]] {
			t.Errorf("%s got its name before it was synced", m[2])
		}
		if m[2] == filepath.Join(dir, "checkpoint") {
			for d := range dirty {
				t.Errorf("the checkpoint was put in its place before %s was synced", d)
			}
			if files < 13 { // 6 bundles and tiles of level 0, one of level 1
				t.Errorf("only %d files came before the checkpoint", files)
			}
			return
		}
		files++
		for d := filepath.Dir(m[2]); strings.HasPrefix(d, dir); d = filepath.Dir(d) {
			dirty[d] = true // those above may be new
		}
	}
	t.Error("the trace has no checkpoint")
}
