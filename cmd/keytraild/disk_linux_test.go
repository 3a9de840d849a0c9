package main_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// disk is a small file system under a part of a cluster's directory.
type disk struct {
	tb   testing.TB
	path string
	// image and device are those of a loop mount; empty for a tmpfs.
	image, device string
}

// needRoot skips a test that mounts file systems.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root; without it the injected faults of TestCrashInject stand for it")
	}
}

// smallDisk puts a directory, with what it holds, onto a tmpfs of so many bytes.
func smallDisk(t *testing.T, path string, size int) *disk {
	t.Helper()
	d := &disk{tb: t, path: path}
	d.replace(func() error {
		return syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size))
	})
	return d
}

// failingDisk puts a directory onto an ext4 in a file, which becomes read-only at its first
// error, as those of most servers do.
func failingDisk(t *testing.T, path string, size int64) *disk {
	t.Helper()
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
	d := &disk{tb: t, path: path, image: path + ".image"}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Skipf("making an ext4: %v\n%s", err, out)
	}
	d.replace(d.mountImage)
	return d
}

func (d *disk) mountImage() error {
	out, err := exec.Command("mount", "-o", "loop,errors=remount-ro", d.image, d.path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == d.path {
			d.device = filepath.Base(f[0])
		}
	}
	return nil
}

// replace mounts something over the directory and moves its content there.
func (d *disk) replace(mount func() error) {
	d.tb.Helper()
	was := d.path + ".was"
	steps := []func() error{
		func() error { return os.Rename(d.path, was) },
		func() error { return os.Mkdir(d.path, 0o700) },
		mount,
		func() error { return os.RemoveAll(filepath.Join(d.path, "lost+found")) },
		func() error { return os.CopyFS(d.path, os.DirFS(was)) },
		func() error { return private(d.path) },
		func() error { syscall.Sync(); return nil }, // as what was made by the programs is
	}
	for i, step := range steps {
		if err := step(); err != nil {
			if i == 2 && (errors.Is(err, fs.ErrPermission) || d.image != "") {
				d.tb.Skipf("mounting a small disk: %v", err)
			}
			d.tb.Fatal(err)
		}
		if i == 2 {
			d.tb.Cleanup(func() { _ = syscall.Unmount(d.path, syscall.MNT_DETACH) })
		}
	}
}

// private takes the rights of others from all files, as they are in a log's directory.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// fill leaves so many bytes free.
func (d *disk) fill(leave uint64) {
	d.tb.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.path, &st); err != nil {
		d.tb.Fatal(err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if free <= leave {
		return
	}
	if err := os.WriteFile(d.ballast(), make([]byte, free-leave), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.tb.Fatal(err)
	}
}

func (d *disk) free() {
	d.tb.Helper()
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.tb.Fatal(err)
	}
}

// grow makes a tmpfs larger, as an operator would.
func (d *disk) grow(size int) {
	d.tb.Helper()
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
		d.tb.Fatal(err)
	}
}

// breakDown lets the file system notice an error, after which it is read-only.
func (d *disk) breakDown() {
	d.tb.Helper()
	trigger := filepath.Join("/sys/fs/ext4", d.device, "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
		d.tb.Skipf("this kernel cannot let an ext4 fail: %v", err)
	}
}

// repair mounts the disk anew. Nobody may use it.
func (d *disk) repair() {
	d.tb.Helper()
	if out, err := exec.Command("umount", d.path).CombinedOutput(); err != nil {
		d.tb.Fatalf("unmounting: %v\n%s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-p", d.image).CombinedOutput(); err != nil {
		d.tb.Logf("e2fsck: %v\n%s", err, out) // status 1: repaired
	}
	if err := d.mountImage(); err != nil {
		d.tb.Fatal(err)
	}
}

// whileFaulty lets clients append for so long, or until done says that it is enough.
func whileFaulty(l *load, atMost time.Duration, done func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() { l.run(ctx, rand.Uint64()) })
	for ctx.Err() == nil && !done() {
		rest(ctx, 20*time.Millisecond)
	}
	cancel()
	working.Wait()
}

// diskCase is a part of a cluster whose disk becomes full or read-only.
type diskCase struct {
	part string // below the cluster's directory
	size int
	// serves says that the log must go on without this part.
	serves bool
}

// diskCases are the directories with a life of their own. The sizes leave room for a few
// files, and for write-ahead logs, for each of which Pebble asks for 35 MB at once.
var diskCases = []diskCase{
	{part: "log/store", size: 180 << 20},
	{part: "log/signer", size: 1 << 20, serves: true}, // written in place
	{part: "log/index", size: 24 << 20},
	{part: "log/views", size: 64 << 20},
	{part: "log", size: 240 << 20},
	{part: "w0", size: 150 << 20, serves: true}, // two others are a quorum
}

// onDisk makes a cluster of which a part is on a disk of its own.
func onDisk(t *testing.T, dc diskCase, make func(path string) *disk) (*cluster, *load, *disk) {
	t.Helper()
	c := newCluster(t, 3)
	path := filepath.Join(c.dir, dc.part)
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if dc.part == "w0" {
		c.witnesses[0].stop()
	}
	d := make(path)
	if dc.part == "w0" {
		c.witnesses[0].mustStart()
	}
	c.log.mustStart()
	return c, &load{book: newBook(t, c.policy), dial: c.dial, witnessed: true, pause: 2 * time.Millisecond}, d
}

// TestCrashDiskFull lets the disks of log and witness become full in turn, at several stages:
// slowly by what is appended, with nothing left at all, and with a little left. The log
// acknowledges nothing that it has not kept, says that there is no space, and all is there
// again when there is.
func TestCrashDiskFull(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for _, dc := range diskCases {
		for _, left := range []int64{-1, 0, 100 << 10, 2 << 20} { // -1: it fills by itself
			if !long() && (dc.part != "log/store" || left != 0) {
				continue
			}
			if left < 0 && dc.part != "log/store" && dc.part != "log" {
				continue // they grow too slowly
			}
			t.Run(fmt.Sprintf("%s left %d", dc.part, left), func(t *testing.T) {
				c, l, d := onDisk(t, dc, func(path string) *disk { return smallDisk(t, path, dc.size) })
				if left >= 0 {
					whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 200 })
					d.fill(uint64(left))
				}
				l.bulk = 16 << 10
				c.suffer(t, dc, l, "no space left on device")
				if left < 0 {
					d.grow(4 * dc.size)
				}
				d.free()
				c.recovered(t, l)
			})
		}
	}
}

// TestCrashDiskReadOnly lets the file systems of log and witness become read-only under them,
// as ext4 does at an error of the disk.
func TestCrashDiskReadOnly(t *testing.T) {
	needRoot(t)
	if !long() {
		t.Skip("KEYTRAIL_LONG is not set: run make crash")
	}
	t.Parallel()
	for _, dc := range diskCases {
		t.Run(dc.part, func(t *testing.T) {
			c, l, d := onDisk(t, dc, func(path string) *disk { return failingDisk(t, path, 200<<20) })
			whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 200 })
			dc.serves = dc.part == "w0"
			ctx, cancel := context.WithCancel(context.Background())
			var working sync.WaitGroup
			working.Go(func() { l.run(ctx, rand.Uint64()) })
			time.Sleep(200 * time.Millisecond)
			d.breakDown()
			cancel()
			working.Wait()
			l.bulk = 16 << 10
			c.suffer(t, dc, l, "read-only file system", "input/output error")
			c.log.kill()
			for _, w := range c.witnesses {
				w.kill()
			}
			d.repair()
			c.recovered(t, l)
		})
	}
}

// suffer lets clients append while a part of the cluster cannot write. It may end, and then
// must have said why; so must a start that fails.
func (c *cluster) suffer(t *testing.T, dc diskCase, l *load, reasons ...string) {
	t.Helper()
	victim := c.log
	if dc.part == "w0" {
		victim = c.witnesses[0]
	}
	before := l.acks.Load()
	whileFaulty(l, 12*time.Second, func() bool { return !c.log.running() || dc.serves && l.acks.Load() > before+2000 })
	explains := func(s string) bool {
		for _, r := range reasons {
			if strings.Contains(s, r) {
				return true
			}
		}
		return false
	}
	outcome := "goes on"
	for attempt := range 2 { // the second is a start while nothing has changed
		if victim.running() {
			continue
		}
		outcome = fmt.Sprintf("ended %d times", attempt+1)
		if !explains(victim.lastSaid()) {
			t.Errorf("it ended without saying why:\n%s", tail(victim.lastSaid(), 2000))
		}
		if victim.killed() {
			t.Errorf("it was killed: %v", victim.cmd.ProcessState)
		}
		_ = victim.start()
	}
	if dc.serves && (!c.log.running() || l.acks.Load() == before) {
		t.Errorf("the log does not go on: %d acknowledgements before, %d now\n%s", before, l.acks.Load(), tail(c.log.lastSaid(), 2000))
	}
	t.Logf("%s: %s, %d events acknowledged before the fault and %d after", dc.part, outcome, before, l.acks.Load()-before)
}

// recovered brings all back and audits it.
func (c *cluster) recovered(t *testing.T, l *load) {
	t.Helper()
	c.log.kill()
	for _, w := range c.witnesses {
		w.kill()
		w.mustStart()
	}
	c.log.mustStart()
	l.bulk = 0
	before := l.acks.Load()
	whileFaulty(l, time.Minute, func() bool { return l.acks.Load() > before+100 })
	auditCluster(c, l.book, true)
	c.stop()
	t.Log(l.book)
}
