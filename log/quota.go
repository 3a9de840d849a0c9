package log

import (
	"fmt"
	"time"
)

// OverloadError is an ErrOverloaded that concerns one tenant: others may go on.
type OverloadError struct {
	Tenant string
	// Waiting is how many events of the tenant wait to be written, when that is why.
	Waiting int
	// Rate is the tenant's quota and RetryAfter when there is room in it again, when the
	// quota is why.
	Rate       Rate
	RetryAfter time.Duration
}

func (e *OverloadError) Error() string {
	if e.Rate.PerSecond > 0 {
		return fmt.Sprintf("log: tenant %q has used up its quota of %g events a second", e.Tenant, e.Rate.PerSecond)
	}
	return fmt.Sprintf("log: too many events of tenant %q are waiting to be written: %d", e.Tenant, e.Waiting)
}

// Unwrap returns ErrOverloaded.
func (e *OverloadError) Unwrap() error { return ErrOverloaded }

// Rate is a quota: how many events a second a tenant may append in the long run, and how
// many at once after a pause. A call is taken whole as soon as there is room for one event, and
// is paid for after. PerSecond 0 means no quota.
type Rate struct {
	PerSecond float64
	Burst     int
}

// quotas counts what tenants with a quota have used. Owned by the pool's lock.
type quotas struct {
	rate    func(tenant string) Rate // nil: nobody has a quota
	now     func() time.Time
	buckets map[string]*bucket
	// sweep is at how many buckets those that are full are forgotten.
	sweep int
}

// bucket holds one token for each event that a tenant may append; below zero is debt.
type bucket struct {
	rate   Rate
	tokens float64
	at     time.Time
}

const fewBuckets = 1024

func newQuotas(rate func(tenant string) Rate) quotas {
	return quotas{rate: rate, now: time.Now, buckets: make(map[string]*bucket), sweep: fewBuckets}
}

func (b *bucket) fill(now time.Time) {
	passed := max(0, now.Sub(b.at).Seconds())
	b.tokens = min(float64(max(b.rate.Burst, 1)), b.tokens+passed*b.rate.PerSecond)
	b.at = now
}

// check refuses a tenant that has used up its quota.
func (q *quotas) check(tenant []byte) error {
	if q.rate == nil {
		return nil
	}
	b := q.buckets[string(tenant)]
	if b == nil {
		return nil
	}
	if b.fill(q.now()); b.tokens >= 1 {
		return nil
	}
	wait := (1 - b.tokens) / b.rate.PerSecond
	return &OverloadError{
		Tenant: string(tenant), Rate: b.rate, RetryAfter: time.Duration(wait * float64(time.Second)),
	}
}

// charge counts events that were taken.
func (q *quotas) charge(tenant string, events int) {
	if q.rate == nil {
		return
	}
	b := q.buckets[tenant]
	if b == nil {
		rate := q.rate(tenant)
		if rate.PerSecond <= 0 {
			return
		}
		b = &bucket{rate: rate, tokens: float64(max(rate.Burst, 1)), at: q.now()}
		q.add(tenant, b)
	}
	b.tokens -= float64(events)
}

// add keeps a new bucket, and forgets full ones when there are many: a new one is the same.
func (q *quotas) add(tenant string, b *bucket) {
	if len(q.buckets) >= q.sweep {
		for name, other := range q.buckets {
			if other.fill(b.at); other.tokens >= float64(max(other.rate.Burst, 1)) {
				delete(q.buckets, name)
			}
		}
		q.sweep = max(fewBuckets, 2*len(q.buckets))
	}
	q.buckets[tenant] = b
}
