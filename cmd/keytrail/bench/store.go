package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keytrail/keytrail/cmd/keytrail/bench/load"
	"github.com/keytrail/keytrail/cmd/keytrail/bench/payload"
)

// historyEvents is how many events the key has whose history is read.
const historyEvents = 100_000

// sample is what a log was like when it had so many entries.
type sample struct {
	Entries  int
	Rate     float64 // events a second since the sample before
	MemoryMB float64
	Bytes    float64 // an entry, on the disk
}

// built is a log that was filled.
type built struct {
	dir     string
	entries int
	hot     int // events of key 0, at least
	rate    float64
	cpu     float64 // seconds a million
	peakMB  float64
	stop    float64 // seconds that a clean stop took
	space   space
	samples []sample
}

// fillWait bounds how long a log is filled.
func fillWait(entries int) time.Duration {
	return time.Minute + time.Duration(entries)*time.Second/2000
}

// fill makes a log of so many events with the real server. It keeps the directory.
func (b *bench) fill(ctx context.Context, set *payload.Set, entries int) (l *built, err error) {
	ctx, cancel := context.WithTimeout(ctx, fillWait(entries))
	defer cancel()
	l = &built{entries: entries}
	if l.dir, err = b.newDir("keytrail"); err != nil {
		return nil, err
	}
	p, creds, err := b.server(ctx, "keytrail", l.dir)
	if err != nil {
		return nil, err
	}
	defer p.kill()
	conns, err := load.Dial(p.words["grpc"], connections, creds)
	if err != nil {
		return nil, err
	}
	var acked atomic.Int64
	// The hot key has its hundred thousand events, or a tenth of a small log.
	l.hot = min(historyEvents, entries/10)
	shape := load.Shape{Clients: 4, Window: 16, Batch: 64, Keys: b.Keys, Events: entries, HotEvery: entries / max(1, l.hot), Acked: &acked}
	sampled := l.watch(p, &acked)
	r, err := load.Append(ctx, conns, set, shape)
	acked.Store(int64(entries))
	<-sampled
	if err = errors.Join(err, load.Close(conns)); err != nil {
		return nil, err
	}
	l.rate, l.peakMB = r.Rate(), p.peak()
	begin := time.Now()
	cpu, err := p.stop()
	if err != nil {
		return nil, err
	}
	l.stop, l.cpu = time.Since(begin).Seconds(), cpu*1e6/float64(entries)
	l.space, err = diskUse(l.dir)
	return l, err
}

// watch takes a sample at every tenth, and at every million of a large log.
func (l *built) watch(p *process, acked *atomic.Int64) <-chan struct{} {
	done := make(chan struct{})
	step := min(max(1, l.entries/10), 1_000_000)
	go func() {
		defer close(done)
		last := time.Now()
		for next := step; next <= l.entries; {
			if acked.Load() < int64(next) {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			now := time.Now()
			s := sample{Entries: next, Rate: float64(step) / now.Sub(last).Seconds(), MemoryMB: p.memory()}
			if u, err := diskUse(l.dir); err == nil { // files come and go while the server runs
				s.Bytes = u.bytes / float64(next)
			}
			l.samples = append(l.samples, s)
			last = now
			next += step
		}
	}()
	return done
}

// growth is a table of samples.
func (l *built) growth() string {
	var s strings.Builder
	fmt.Fprintf(&s, "### While a log grows to %s entries\n\nThrough the server, 4 streams × 16 messages of 64 in flight.\n\n", number(float64(l.entries)))
	fmt.Fprint(&s, "| entries | events/s since the line before | resident MB | bytes an entry on the disk |\n|---|---|---|---|\n")
	for _, x := range l.samples {
		fmt.Fprintf(&s, "| %s | %s | %s | %s |\n", number(float64(x.Entries)), number(x.Rate), number(x.MemoryMB), number(x.Bytes))
	}
	return s.String() + "\n"
}

// given wraps a figure that was measured once.
func given(o outcome, err error) *cell {
	c := &cell{err: err}
	if err == nil {
		c.outcomes, c.rounds = []outcome{o}, []int{0}
	}
	return c
}

// once is the same with a name and what is asked.
func once(system string, a ask, o outcome, err error) *cell {
	c := given(o, err)
	c.system, c.ask = system, a
	return c
}

// storage is the table about what a filled log takes.
func (b *bench) storage(ctx context.Context, l, t *built, fillErr, tesseraErr error) *group {
	g := &group{title: "Filling a log, and what it takes"}
	add := func(name, unit string, low bool, cells ...*cell) {
		g.rows = append(g.rows, &row{name: name, unit: unit, lowWins: low, cells: cells})
	}
	of := func(l *built, f func(*built) outcome) outcome {
		if l == nil {
			return outcome{}
		}
		return f(l)
	}
	pair := func(name, unit string, low bool, a ask, f func(*built) outcome) {
		add(name, unit, low, once("keytrail", a, of(l, f), fillErr), once("Tessera in process", ask{}, of(t, f), tesseraErr))
	}
	size := number(float64(b.Entries)) + " random events"
	pair(size+" in messages of 64", "events/s", false, ask{}, func(l *built) outcome { return outcome{Value: l.rate} })
	pair("processor time with the stop", "s a million", true, ask{most: 8, scales: true}, func(l *built) outcome { return outcome{Value: l.cpu} })
	pair("peak memory", "MB", true, ask{most: 300}, func(l *built) outcome { return outcome{Value: l.peakMB} })
	pair("disk, random events of 500 B", "B an event", true, ask{most: 600}, func(l *built) outcome {
		return outcome{Value: l.space.bytes / float64(l.entries), Note: fmt.Sprintf("%.0f B of it write-ahead logs", l.space.wal/float64(l.entries))}
	})
	pair("inodes", "per 1,000 events", true, ask{most: 0.1}, func(l *built) outcome {
		return outcome{Value: float64(l.space.inodes) * 1000 / float64(l.entries), Note: fmt.Sprintf("%d in all", l.space.inodes)}
	})
	for _, set := range []*payload.Set{b.trail, b.kept, b.bao} {
		x, err := b.fillOnce(ctx, set, min(b.Entries, 1_000_000))
		o := of(x, func(l *built) outcome {
			each := l.space.bytes / float64(l.entries)
			return outcome{Value: each, Note: fmt.Sprintf("%.1f %% of the source's %.0f B; %.0f B of it write-ahead logs", 100*each/set.SourceBytes, set.SourceBytes, l.space.wal/float64(l.entries))}
		})
		a := ask{}
		if set == b.trail {
			a.most = 0.35 * set.SourceBytes
		}
		add("disk, "+set.Name, "B an event", true, once("keytrail", a, o, err))
	}
	if l != nil {
		add("clean stop under load's end", "s", true, once("keytrail", ask{}, outcome{Value: l.stop}, nil))
	}
	return g
}

// fillOnce fills a log only to see what it takes.
func (b *bench) fillOnce(ctx context.Context, set *payload.Set, entries int) (*built, error) {
	b.say("filling a log with %d events of %s", entries, set.Name)
	l, err := b.fill(ctx, set, entries)
	if err != nil {
		return nil, err
	}
	return l, os.RemoveAll(l.dir)
}

// fillTessera makes a log of Tessera's with deep queues, which are its strength.
func (b *bench) fillTessera(ctx context.Context, entries int) (*built, error) {
	ctx, cancel := context.WithTimeout(ctx, fillWait(entries))
	defer cancel()
	dir, err := b.newDir("tessera")
	if err != nil {
		return nil, err
	}
	l := &built{entries: entries, dir: filepath.Join(dir, "d")}
	var res load.Result
	r, err := self(ctx, &res, "record", "--system", "tessera", "--dir", l.dir, "--events", strconv.Itoa(entries),
		"--waiters", "1024", "--batch", "1024", "--age", "50ms", "--keys", strconv.Itoa(b.Keys))
	if err != nil {
		return nil, err
	}
	l.rate, l.cpu, l.peakMB = res.Rate(), r.cpu*1e6/float64(entries), r.peakMB
	l.space, err = diskUse(l.dir)
	return l, err
}
