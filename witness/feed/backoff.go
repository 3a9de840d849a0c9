package feed

import (
	"math/rand/v2"
	"time"
)

// Delays before a witness that failed is asked again: they double from first to longest.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 30 * time.Second
	// Enrolment is done by people.
	firstEnrolment   = 10 * time.Second
	longestEnrolment = 10 * time.Minute
	// longestPause is the longest time that a witness can ask for.
	longestPause = time.Hour
)

// backoff says when to ask again after failures in a row.
type backoff struct {
	until time.Time
	delay time.Duration
	first time.Duration
}

// fail makes the delay longer. A row of failures with another first delay begins anew.
func (b *backoff) fail(now time.Time, first, longest time.Duration) {
	if b.first != first || b.delay == 0 {
		b.first, b.delay = first, first
	} else {
		b.delay = min(2*b.delay, longest)
	}
	// Between half of the delay and all of it, so that logs do not come together.
	b.until = now.Add(b.delay/2 + rand.N(b.delay/2+1))
}

// pause waits for at least as long as the witness asks.
func (b *backoff) pause(now time.Time, d time.Duration) {
	if until := now.Add(min(d, longestPause)); until.After(b.until) {
		b.until = until
	}
}

func (b *backoff) reset() { *b = backoff{} }

const day = 24 * time.Hour

// budget holds requests to a number a day: a bucket of an hour's share, at least one, that
// fills evenly and is full at first. The zero value allows everything.
type budget struct {
	perDay float64
	left   float64
	at     time.Time // when left was right; zero before the first request
}

// limit lowers the number a day to n.
func (b *budget) limit(n uint32) {
	if b.perDay == 0 || float64(n) < b.perDay {
		b.perDay = float64(n)
	}
}

func (b *budget) fill(now time.Time) {
	full := max(1, b.perDay/24)
	switch {
	case b.at.IsZero():
		b.left = full
	case now.After(b.at):
		b.left = min(full, b.left+b.perDay*now.Sub(b.at).Seconds()/day.Seconds())
	default: // the clock went back
		return
	}
	b.at = now
}

// next returns when a request may be sent: now, or later.
func (b *budget) next(now time.Time) time.Time {
	if b.perDay == 0 {
		return now
	}
	b.fill(now)
	if b.left >= 1 {
		return now
	}
	// A little more, so that the bucket holds one in spite of rounding.
	return now.Add(time.Duration((1-b.left)/b.perDay*float64(day)) + time.Millisecond)
}

// take uses one request, if there is one.
func (b *budget) take(now time.Time) bool {
	if b.next(now).After(now) {
		return false
	}
	if b.perDay > 0 {
		b.left--
	}
	return true
}
