package log

import (
	"fmt"
	"testing"
	"time"
)

// TestQuotaFills moves a clock: what was used comes back with time, up to the burst, and
// tenants that have all of theirs are forgotten.
func TestQuotaFills(t *testing.T) {
	now := time.Unix(0, 0)
	q := newQuotas(func(string) Rate { return Rate{PerSecond: 10, Burst: 5} })
	q.now = func() time.Time { return now }
	use := func(tenant string, events int, want bool) {
		t.Helper()
		err := q.check([]byte(tenant))
		if (err == nil) != want {
			t.Fatalf("%s at %v: %v", tenant, now, err)
		}
		if err == nil {
			q.charge(tenant, events)
		}
	}
	use("a", 5, true)
	use("a", 1, false)
	now = now.Add(100 * time.Millisecond)
	use("a", 11, true) // one token: ten are owed
	now = now.Add(time.Second)
	use("a", 1, false)
	now = now.Add(100 * time.Millisecond)
	use("a", 1, true)
	now = now.Add(time.Hour)
	use("a", 4, true)
	use("a", 1, true)
	use("a", 1, false)
	now = now.AddDate(-1, 0, 0) // costs nobody what is left
	now = now.Add(100 * time.Millisecond)
	use("a", 1, false)
	now = now.Add(100 * time.Millisecond)
	use("a", 1, true)
	for i := range 10 * fewBuckets {
		use(fmt.Sprint(i), 1, true)
		now = now.Add(time.Millisecond)
	}
	if len(q.buckets) > 2*fewBuckets {
		t.Errorf("%d tenants are remembered", len(q.buckets))
	}
}
