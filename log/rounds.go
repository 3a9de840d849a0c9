package log

import (
	"context"
	"log/slog"
	"time"
)

// stopPublishing is how long the end of a log waits for its witnesses. What they do not
// cosign by then is durable, and published after the next start.
const stopPublishing = 2 * time.Second

// busyInterval is the least time between two checkpoints when the machine is so busy that
// proving and signing takes half of it.
const busyInterval = 5 * time.Millisecond

// leisureInterval is the time between two checkpoints when more than leisureEntries wait at the
// end of the shortest interval, and nobody for them: entries come faster than checkpoints
// may, and each commit would wait behind a checkpoint's syncs.
const (
	leisureInterval = 20 * time.Millisecond
	leisureEntries  = 1
)

// busy says how far apart checkpoints are when somebody waits for them, and more than so many
// entries do at the end of the interval before. A checkpoint costs as much time of a processor,
// and as many syncs, as appending twenty entries and more: where few come at a time it is what
// they wait for, where many come it would take time from appending. 16 in DefaultMinInterval
// are 8,000 a second.
var busy = [...]struct {
	entries  uint64
	interval time.Duration
}{{16, busyInterval}, {64, 2 * busyInterval}, {256, 4 * busyInterval}}

// pause says when publish has something to do again.
type pause struct {
	d time.Duration
	// blocked means that new entries cannot be published before.
	blocked bool
}

// run publishes what is committed, as soon as it is and interval and witnesses allow, until
// the sequencer has ended; what it committed last is published before run returns, if the
// witnesses are there.
func (p *publisher) run(ctx context.Context) error {
	if p.feed != nil {
		ended := make(chan struct{})
		defer close(ended)
		go p.endFeed(ended)
	}
	err := p.rounds(ctx)
	if failed := p.settle(); err == nil {
		err = failed
	}
	if err != nil {
		p.log.fail(err)
	}
	return err
}

// rounds publishes until the sequencer has ended or something is wrong.
func (p *publisher) rounds(ctx context.Context) error {
	for {
		begin := time.Now()
		wait, err := p.publish(ctx)
		if err != nil {
			return err
		}
		drained, err := p.rest(ctx, wait)
		if err == nil && !drained {
			drained, err = p.pace(ctx, begin)
		}
		switch {
		case err != nil:
			return err
		case drained:
			return p.last(ctx)
		}
	}
}

// pace waits, when there is something to publish, until a checkpoint may be signed after one
// that was begun at begin.
func (p *publisher) pace(ctx context.Context, begin time.Time) (drained bool, err error) {
	least := max(p.log.cfg.MinInterval, min(2*p.cost, busyInterval))
	drained, err = p.await(ctx, begin.Add(least), nil, nil)
	for !drained && err == nil && p.waiters.Load() == 0 && p.backlog() > leisureEntries && time.Since(begin) < p.leisure {
		drained, err = p.await(ctx, begin.Add(p.leisure), p.hurried, nil)
	}
	for _, b := range busy {
		if drained || err != nil || p.backlog() <= b.entries {
			break
		}
		if least < b.interval {
			drained, err = p.await(ctx, begin.Add(b.interval), nil, nil)
		}
	}
	return drained, err
}

// backlog is how many entries are durable and in no checkpoint.
func (p *publisher) backlog() uint64 { return p.log.DurableSize() - p.newest.Size }

// rest waits until there may be something to publish.
func (p *publisher) rest(ctx context.Context, wait pause) (drained bool, err error) {
	work := p.work
	if wait.blocked {
		work = nil // nothing new can be published before then
	}
	return p.await(ctx, time.Now().Add(wait.d), work, p.more)
}

// await waits for a time, or for work before it. Meanwhile it takes the outcome of a store
// that runs, and cosignatures that more tells of. It returns true when the sequencer has ended.
func (p *publisher) await(ctx context.Context, until time.Time, work, more <-chan struct{}) (drained bool, err error) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return false, nil
		case <-work:
			return false, nil
		case err := <-p.storing:
			p.storing = nil
			if err != nil {
				return false, err
			}
			if more != nil {
				p.complete(ctx)
			}
		case <-more:
			p.complete(ctx)
		case <-p.conflict:
			return false, conflictRefusal(p.feed.Proof())
		case <-p.draining:
			return true, nil
		}
	}
}

// endFeed stops asking witnesses when run has ended, or some time after the sequencer has.
func (p *publisher) endFeed(ended <-chan struct{}) {
	defer p.feed.Close()
	select {
	case <-ended:
		return
	case <-p.draining:
	}
	select {
	case <-ended:
	case <-time.After(stopPublishing):
	}
}

// last publishes once more at the end, unless writing failed: then nothing is sure.
func (p *publisher) last(ctx context.Context) error {
	if p.log.cause() != nil {
		return nil
	}
	if _, err := p.publish(ctx); err != nil {
		return err
	}
	if left := p.log.DurableSize() - p.newest.Size; left > 0 {
		p.log.logger.WarnContext(ctx, "entries are durable and not published; the next start publishes them",
			slog.Uint64("entries", left), slog.String("reason", p.Problem()))
	}
	return nil
}
