package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// TestTwoServers starts a second server on the directory of one that works, also with lock
// files deleted: it is refused, says why, and the first one loses nothing.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, pause: 2 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { l.run(ctx, rand.Uint64()) })
	refused := func(what string) {
		t.Helper()
		second := newServer(t, "keytraild", c.logDir()+".second", map[string]string{"grpc": "--grpc", "http": "--http"}, "--dir", c.logDir())
		if err := second.start(); err == nil {
			t.Errorf("%s: a second server serves", what)
		}
		if said := second.lastSaid(); !strings.Contains(said, "in use") && !strings.Contains(said, "lock") {
			t.Errorf("%s: the second server does not say why it ends:\n%s", what, said)
		}
		second.kill()
	}
	refused("nothing is deleted")
	var locks []string
	err := filepath.WalkDir(c.logDir(), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Name() == "LOCK" {
			locks = append(locks, path)
		}
		return err
	})
	if err != nil || len(locks) == 0 {
		t.Fatalf("%d lock files, %v", len(locks), err)
	}
	for _, path := range locks {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		refused(strings.TrimPrefix(path, c.dir) + " is deleted, too")
	}
	cancel()
	working.Wait()
	auditCluster(c, l.book, true)
	c.log.kill()
	c.log.mustStart()
	auditCluster(c, l.book, true)
	c.stop()
	t.Logf("%d lock files; %v", len(locks), l.book)
}

// TestCopiedDirectory copies a log's directory, ledger included, and lets both work with the
// same witnesses: they cosign one history, nothing of the other is ever published, and the
// log that has the witnesses stays whole.
func TestCopiedDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, witnessed: true}
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 100 })
	c.log.stop()
	other := filepath.Join(c.dir, "copy")
	if err := os.CopyFS(other, os.DirFS(c.logDir())); err != nil {
		t.Fatal(err)
	}
	if err := private(other); err != nil {
		t.Fatal(err)
	}
	c.log.mustStart()
	twin := *c
	twin.log = c.server(other)
	twin.log.mustStart()
	before := l.acks.Load()
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > before+100 })
	auditCluster(c, l.book, false)

	// The other one takes events of its own; they must not be published.
	cl := twin.dial()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	durable := 0
	for i := range 20 {
		ev := newEvent(uint64(1_000_000+i), i)
		if _, err := cl.Append(ctx, &rpc.AppendRequest{Event: ev, Wait: rpc.Wait_WAIT_DURABLE}); err == nil {
			durable++
		}
	}
	short, cancelShort := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancelShort()
	if res, err := cl.Append(short, &rpc.AppendRequest{Event: newEvent(1_000_000, 0), Wait: rpc.Wait_WAIT_PUBLISHED}); err == nil {
		t.Errorf("the copy gave out a receipt: %v", res)
	}
	problem := ""
	if info, err := cl.GetLogInfo(ctx, &rpc.GetLogInfoRequest{}); err == nil {
		problem = info.GetPublicationProblem()
	}
	twin.log.signal(syscall.SIGTERM)
	if !twin.log.wait(time.Minute) {
		t.Error("the copy does not end")
	}
	if said := twin.log.lastSaid(); problem == "" && !strings.Contains(said, "witness") {
		t.Errorf("the copy does not say why it publishes nothing:\n%s", said)
	}
	before = l.acks.Load()
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > before+100 })
	auditCluster(c, l.book, true)
	c.stop()
	t.Logf("the copy took %d events and published none, saying %q; %v", durable, problem, l.book)
}

// TestPaused stops log, witnesses and both with SIGSTOP for longer than their timeouts while
// clients append, and lets them go on: what slept is as good as what was slow.
func TestPaused(t *testing.T) {
	pause, rounds := 1500*time.Millisecond, 1
	if long() {
		pause, rounds = 12*time.Second, 3 // longer than a witness's timeout and a client's
	}
	t.Parallel()
	c := newCluster(t, 3)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, witnessed: true, pause: 2 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() { l.run(ctx, rand.Uint64()) })
	paused := 0
	for range rounds {
		for _, victims := range [][]*server{{c.log}, c.witnesses[:1], c.witnesses, append([]*server{c.log}, c.witnesses...)} {
			time.Sleep(200 * time.Millisecond)
			for _, v := range victims {
				v.signal(syscall.SIGSTOP)
			}
			time.Sleep(pause)
			for _, v := range victims {
				v.signal(syscall.SIGCONT)
				paused++
			}
		}
	}
	time.Sleep(500 * time.Millisecond)
	cancel()
	working.Wait()
	for _, v := range append([]*server{c.log}, c.witnesses...) {
		if !v.running() {
			t.Errorf("%s has ended:\n%s", v.program, tail(v.lastSaid(), 2000))
		}
	}
	auditCluster(c, l.book, true)
	c.stop()
	t.Log(fmt.Sprint(paused, " pauses; ", l.book))
}
