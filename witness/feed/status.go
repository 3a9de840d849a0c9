package feed

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is what is known of the witness behind one URL.
type Status struct {
	// Names are those in the policy that share the URL, in its order.
	Names []string
	// URL is the submission prefix.
	URL string
	// Size is what the witness cosigned last as far as this process knows, 0 at first.
	Size uint64
	// LastSuccess is when it last answered with good cosignatures; zero when it never did.
	LastSuccess time.Time
	// Latency is how long its last answer took, of whatever kind.
	Latency time.Duration
	// Problem says what was wrong with the last request, for people; empty when nothing was.
	Problem string
	// RetryAt is when it can be asked again; zero when it can be asked now or never again.
	RetryAt time.Time
	// Conflict says that it contradicted the log and is not asked again by this process.
	Conflict bool
}

// Status returns the state of each URL, in the order of the policy.
func (f *Feed) Status() []Status {
	all := make([]Status, len(f.endpoints))
	for i, e := range f.endpoints {
		all[i] = e.status()
	}
	return all
}

func (e *endpoint) status() Status {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{
		Names: e.names(), URL: e.url, Size: e.size, LastSuccess: e.lastSuccess, Latency: e.latency,
		Problem: e.problem, Conflict: e.excluded,
	}
	at := slices.MaxFunc([]time.Time{e.backoff.until, e.budget.next(now)}, time.Time.Compare)
	if at.After(now) && !e.excluded {
		s.RetryAt = at
	}
	return s
}

// metrics of the requests. Names are under "keytrail_log_witness_"; the label "witness" holds
// the names in the policy that share the URL, with commas between.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics() *metrics {
	name := func(n string) string { return "keytrail_log_witness_" + n }
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("requests_total"), Help: "Requests for a cosignature by what came of them."}, []string{"witness", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name("request_seconds"), Help: "Time to the answer to a request for a cosignature, whatever it said.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"witness"}),
	}
}

// Metrics returns the Feed's collectors.
func (f *Feed) Metrics() []prometheus.Collector {
	return []prometheus.Collector{f.metrics.requests, f.metrics.seconds, newStates(f)}
}

// states reports the state of each URL when it is asked.
type states struct {
	f                            *Feed
	size, lag, success, conflict *prometheus.Desc
}

func newStates(f *Feed) *states {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("keytrail_log_witness_"+name, help, []string{"witness"}, nil)
	}
	return &states{
		f:        f,
		size:     desc("size", "Size of the tree that the witness cosigned last, as far as this process knows."),
		lag:      desc("lag", "Entries of the largest tree that witnesses were asked about which this one has not cosigned."),
		success:  desc("last_success_timestamp_seconds", "When the witness last cosigned, since 1970; 0 when it never did."),
		conflict: desc("conflict", "1 when the witness contradicted the log and is not asked again."),
	}
}

// Describe sends the descriptions of what Collect reports.
func (s *states) Describe(ch chan<- *prometheus.Desc) {
	ch <- s.size
	ch <- s.lag
	ch <- s.success
	ch <- s.conflict
}

// Collect reports the states.
func (s *states) Collect(ch chan<- prometheus.Metric) {
	s.f.mu.Lock()
	newest := s.f.newest.Size
	s.f.mu.Unlock()
	for _, e := range s.f.endpoints {
		st := e.status()
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, e.label)
		}
		gauge(s.size, float64(st.Size))
		gauge(s.lag, float64(newest-min(st.Size, newest)))
		success := 0.0
		if !st.LastSuccess.IsZero() {
			success = float64(st.LastSuccess.UnixMilli()) / 1e3
		}
		gauge(s.success, success)
		conflict := 0.0
		if st.Conflict {
			conflict = 1
		}
		gauge(s.conflict, conflict)
	}
}
