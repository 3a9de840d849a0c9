package witness

import "time"

// budget holds a log to its requests per day: a bucket of one day's requests that fills
// evenly. It starts full. What is left after each cosignature is stored with it, at no
// further cost, so that a witness that is started again goes on from there.
//
// Only cosignatures count. Every other answer costs neither a write nor a signature, and
// strangers could use the budget up with them. What a stranger can still ask for is another
// cosignature of the published checkpoint: that may use half of the budget, so that there
// is always some left for the log's next tree.
type budget struct {
	used bool
	// left is what the bucket held at the time at.
	left float64
	at   time.Time
}

// state is what is left, nil when the budget was never needed.
func (b *budget) state() *float64 {
	if !b.used {
		return nil
	}
	left := b.left
	return &left
}

const day = 24 * time.Hour

// take uses one request and returns 0, or how long to wait for the next. The log may have
// perDay requests, 0 for no limit; again says that the same tree was cosigned before.
func (b *budget) take(now time.Time, perDay uint32, again bool) time.Duration {
	if perDay == 0 {
		return 0
	}
	full := float64(perDay)
	if !b.used {
		*b = budget{used: true, left: full, at: now}
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.left += full * passed.Seconds() / day.Seconds()
		b.at = now
	}
	b.left = min(b.left, full)
	need := 1.0
	if again {
		need += float64(perDay / 2)
	}
	if b.left < need {
		return time.Duration((need - b.left) / full * float64(day))
	}
	b.left--
	return 0
}
