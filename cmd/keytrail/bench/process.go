package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bounds on what other processes may take.
const (
	startWait = 60 * time.Second
	stopWait  = 60 * time.Second
	clockTick = 100 // of /proc/PID/stat, a second, on every Linux
)

// process is a server that this program has started.
type process struct {
	cmd    *exec.Cmd
	words  map[string]string // of its ready line: grpc=HOST:PORT
	stdin  io.Closer
	stderr bytes.Buffer
	ready  time.Duration // from its start to its ready line
}

// startProcess starts a server and waits for its line "ready NAME=VALUE …".
func startProcess(ctx context.Context, exe string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, exe, args...), words: make(map[string]string)}
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", exe, err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", exe, err)
	}
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", exe, err)
	}
	line := make(chan string, 1)
	go func() {
		l, _ := bufio.NewReader(out).ReadString('\n') // what is not a ready line says enough
		line <- l
	}()
	select {
	case l := <-line:
		p.ready = time.Since(begin)
		for _, w := range strings.Fields(l) {
			if name, value, ok := strings.Cut(w, "="); ok {
				p.words[name] = value
			}
		}
		if strings.HasPrefix(l, "ready") {
			return p, nil
		}
	case <-time.After(startWait):
	}
	p.kill()
	return nil, fmt.Errorf("%s did not start: %s", filepath.Base(exe), lastLine(p.stderr.String()))
}

// cpu is the processor time that the server has taken, in seconds.
func (p *process) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64) // the kernel writes numbers
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / clockTick
}

// memory is the server's resident memory in MB (10^6 bytes), peak what it was at most.
func (p *process) memory() float64 { return resident(p.cmd.Process.Pid, "VmRSS:") }
func (p *process) peak() float64   { return resident(p.cmd.Process.Pid, "VmHWM:") }

// resident reads a field of a process's status. The largest size that the kernel reports of
// an ended process will not do: it is not less than that of the one that started it.
func resident(pid int, field string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// processorTime is what an ended process took, with its children that it waited for, in seconds.
func processorTime(s *os.ProcessState) float64 { return (s.UserTime() + s.SystemTime()).Seconds() }

// stop ends the server cleanly and returns the processor time of its life.
func (p *process) stop() (cpu float64, err error) {
	if p.cmd.ProcessState != nil {
		return processorTime(p.cmd.ProcessState), nil
	}
	late := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, fmt.Errorf("stopping %s: %w", p.cmd.Path, err)
	}
	if err := p.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("stopping %s: %w: %s", filepath.Base(p.cmd.Path), err, lastLine(p.stderr.String()))
	}
	return processorTime(p.cmd.ProcessState), nil
}

// kill ends a server that is still there, without warning.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// ran is what a program printed and used from its start to its end.
type ran struct {
	stdout      []byte
	seconds     float64
	cpu, peakMB float64
}

// output runs a program to its end.
func output(ctx context.Context, exe string, args ...string) (ran, error) {
	cmd := exec.CommandContext(ctx, exe, args...)
	// A program that takes too long may have started servers, which it ends when it is told to.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var r ran
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("running %s: %w", exe, err)
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			r.peakMB = max(r.peakMB, resident(cmd.Process.Pid, "VmHWM:"))
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-watched
	r.seconds, r.cpu, r.stdout = time.Since(begin).Seconds(), processorTime(cmd.ProcessState), stdout.Bytes()
	if err != nil {
		return r, fmt.Errorf("running %s %s: %w: %s", filepath.Base(exe), args[0], err, lastLine(stderr.String()))
	}
	return r, nil
}

// self runs a command of this program in a process of its own, so that no row finds the
// memory of another, and decodes what it prints.
func self(ctx context.Context, into any, args ...string) (ran, error) {
	exe, err := os.Executable()
	if err != nil {
		return ran{}, fmt.Errorf("finding this program: %w", err)
	}
	r, err := output(ctx, exe, args...)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(r.stdout, into); err != nil {
		return r, fmt.Errorf("reading what %s printed: %w", args[0], err)
	}
	return r, nil
}

// lastLine is what a program said in the end: its error rather than a hint.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for _, l := range slices.Backward(lines) {
		if strings.Contains(l, "error: ") {
			return l
		}
	}
	return lines[len(lines)-1]
}

// space is what a directory takes on the disk.
type space struct {
	bytes  float64 // of the blocks that are its files'
	wal    float64 // those of write-ahead logs, which do not grow with what is stored
	inodes int
}

func diskUse(dir string) (space, error) {
	var s space
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		s.inodes++
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !e.IsDir() {
			s.bytes += float64(st.Blocks * 512)
			if filepath.Ext(e.Name()) == ".log" {
				s.wal += float64(st.Blocks * 512)
			}
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("measuring the files in %s: %w", dir, err)
	}
	return s, nil
}
