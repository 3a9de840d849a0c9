package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/log/logdir"
)

// component is a part of the server that profiles are divided into. A sample belongs to the
// innermost function that one of the components names.
type component struct {
	name string
	// functions are beginnings of names, without the module's path where they are ours.
	functions []string
}

const ourPath = "github.com/keytrail/keytrail/"

var components = []component{
	{"gRPC and HTTP/2", []string{"google.golang.org/grpc", "golang.org/x/net/http2"}},
	{"reading and validating events", []string{"log/server.(*appendRequest)", "log.PrepareEncoded"}},
	{"answers, streams", []string{"log/server."}},
	{"looking ids up, pool", []string{"log.(*Log).Submit", "log.(*pool)", "log.(*Call)"}},
	{"places and numbers", []string{"log.(*sequencer)"}},
	{"payloads, leaves, hashes", []string{"log.(*batch).encode", "log.(*frontier)"}},
	{"commit: batch and memtable", []string{"storage/pebblestore.(*Store).Commit"}},
	{"commit: write-ahead log, sync", []string{"github.com/cockroachdb/pebble/v2/record."}},
	{"tables: flushes and merges", []string{"github.com/cockroachdb/pebble/v2.(*DB).flush", "github.com/cockroachdb/pebble/v2.(*DB).compact"}},
	{"proving and signing checkpoints", []string{"log.(*publisher)", "log/ledger.", "proto/checkpoint."}},
	{"index of ids and keys", []string{"log/index."}},
	{"views", []string{"log/view."}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcAssist"}},
	{"scheduler", []string{"runtime.mcall", "runtime.schedule", "runtime.findRunnable", "runtime.sysmon", "runtime.goexit0", "runtime.mstart"}},
}

// componentOf returns the place of the component that a sample belongs to, len(components) for
// none of them.
func componentOf(s *profile.Sample) int {
	for _, loc := range s.Location { // the innermost first
		for _, l := range loc.Line {
			name := strings.TrimPrefix(l.Function.Name, ourPath)
			for i, c := range components {
				if slices.ContainsFunc(c.functions, func(f string) bool { return strings.HasPrefix(name, f) }) {
					return i
				}
			}
		}
	}
	return len(components)
}

// divided is a profile by component, and in all.
type divided struct {
	parts []float64
	all   float64
}

// divide adds up one kind of a profile's values by component.
func divide(data []byte, kind string) (divided, error) {
	d := divided{parts: make([]float64, len(components)+1)}
	p, err := profile.Parse(bytes.NewReader(data))
	if err != nil {
		return d, fmt.Errorf("reading a profile: %w", err)
	}
	at := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == kind })
	if at < 0 {
		return d, fmt.Errorf("the profile has no values of the kind %q", kind)
	}
	for _, s := range p.Sample {
		d.parts[componentOf(s)] += float64(s.Value[at])
		d.all += float64(s.Value[at])
	}
	return d, nil
}

// profiled is what a server did for a load.
type profiled struct {
	load   load.Result
	cpu    divided // nanoseconds, of as many events as rate and duration give
	allocs divided // bytes, of all events and the server's start
	perCPU float64 // events that cpu is of
}

// profileLoad runs a server under a load and fetches its profiles, which keep gets too.
func (b *bench) profileLoad(ctx context.Context, shape load.Shape, keep func(kind string, data []byte) error) (r profiled, err error) {
	dir, err := b.newDir("keytrail")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := logdir.Init(dir, "bench.invalid/log"); err != nil {
		return r, err
	}
	socket := filepath.Join(b.work, "p")
	p, err := b.keytraild(ctx, dir, "--profiles", socket)
	if err != nil {
		return r, err
	}
	defer p.kill()
	conns, err := load.Dial(p.words["grpc"], connections, nil)
	if err != nil {
		return r, err
	}
	seconds := max(1, int(b.Seconds))
	var cpu []byte
	fetched := make(chan error, 1)
	go func() {
		time.Sleep(shape.Warm)
		var err error
		cpu, err = fetchProfile(ctx, socket, fmt.Sprintf("profile?seconds=%d", seconds))
		fetched <- err
	}()
	r.load, err = load.Append(ctx, conns, b.random, shape)
	if err = errors.Join(err, <-fetched, load.Close(conns)); err != nil {
		return r, err
	}
	allocs, err := fetchProfile(ctx, socket, "allocs")
	if err != nil {
		return r, err
	}
	if _, err := p.stop(); err != nil {
		return r, err
	}
	r.perCPU = r.load.Rate() * float64(seconds)
	if r.cpu, err = divide(cpu, "cpu"); err != nil {
		return r, err
	}
	if r.allocs, err = divide(allocs, "alloc_space"); err != nil {
		return r, err
	}
	if keep == nil {
		return r, nil
	}
	return r, errors.Join(keep("cpu", cpu), keep("allocs", allocs))
}

// where measures and writes where the server's time and memory go.
func (b *bench) where(ctx context.Context, w io.Writer) error {
	var all []profiled
	for _, x := range b.profiledShapes() {
		b.say("profiles: %s", x.name)
		r, err := b.profileLoad(ctx, x.shape, nil)
		if err != nil {
			return fmt.Errorf("profiling %s: %w", x.name, err)
		}
		all = append(all, r)
	}
	fmt.Fprintf(w, "### Where the server's time goes\n\nFrom its CPU profile, µs an event; what a function calls counts as that part's unless another part is named. "+
		"In brackets what it allocates, bytes an event (its start included).\n\n| part |")
	for i, x := range b.profiledShapes() {
		fmt.Fprintf(w, " %s, %s events/s |", x.name, number(all[i].load.Rate()))
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(all)))
	cell := func(r profiled, cpu, allocs float64) {
		fmt.Fprintf(w, " %.2f (%.0f) |", cpu/1000/r.perCPU, allocs/float64(r.load.All))
	}
	for i := range len(components) + 1 {
		name := "all the rest"
		if i < len(components) {
			name = components[i].name
		}
		fmt.Fprintf(w, "| %s |", name)
		for _, r := range all {
			cell(r, r.cpu.parts[i], r.allocs.parts[i])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "| **all** |")
	for _, r := range all {
		cell(r, r.cpu.all, r.allocs.all)
	}
	fmt.Fprintf(w, "\n\n")
	return nil
}

// profiledShapes are the loads that the server can be profiled under.
func (b *bench) profiledShapes() []namedShape {
	return []namedShape{
		{"calls", "one event a call, 64 clients", b.unary(64)},
		{"stream", "stream, 1 event a message", b.streamed(16, 64, 1)},
		{"batched", "stream, 64 events a message", b.streamed(4, 16, 64)},
	}
}

type namedShape struct {
	short, name string
	shape       load.Shape
}
