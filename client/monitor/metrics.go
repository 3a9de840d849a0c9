package monitor

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a monitor. Names are under "keytrail_monitor_".
type metrics struct {
	rounds prometheus.Counter
	told   *prometheus.CounterVec

	mu   sync.Mutex
	last Round
	// success is when a round was last without warning or worse.
	success time.Time
}

func newMetrics() *metrics {
	m := &metrics{
		rounds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keytrail_monitor_rounds_total", Help: "Looks at the log since the start."}),
		told: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keytrail_monitor_alarms_total", Help: "Alarms told since the start, by kind."}, []string{"kind"}),
	}
	for _, k := range Kinds() {
		m.told.WithLabelValues(string(k))
	}
	return m
}

func (m *metrics) ended(r *Round) {
	m.rounds.Inc()
	for _, c := range r.Changes {
		if !c.Cleared {
			m.told.WithLabelValues(string(c.Kind)).Inc()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = *r
	if r.Verdict() == Fine {
		m.success = r.Time
	}
}

// Metrics returns the monitor's collectors.
func (m *Monitor) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.metrics.rounds, m.metrics.told, &gauges{metrics: m.metrics, payloads: m.chains != nil}}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("keytrail_monitor_"+name, help, labels, nil)
}

// gauges reads the last round.
type gauges struct {
	metrics  *metrics
	payloads bool
}

// Describe implements prometheus.Collector: what Collect sends depends on what was seen.
func (g *gauges) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	g.metrics.mu.Lock()
	r, success := g.metrics.last, g.metrics.success
	g.metrics.mu.Unlock()
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	at := func(name, help string, t time.Time) {
		if !t.IsZero() {
			send(desc(name, help), float64(t.UnixNano())/1e9)
		}
	}
	at("last_round_timestamp_seconds", "When a look at the log last ended, since 1970.", r.Time)
	at("last_success_timestamp_seconds", "When all was checked and nothing was found, since 1970.", success)
	at("newest_timestamp_seconds", "When the policy's witnesses last called the tree the newest, since 1970.", r.Newest)
	if r.Seen {
		send(desc("tree_size", "Entries of the last accepted checkpoint."), float64(r.Size))
	}
	active := make(map[Kind]int)
	for _, a := range r.Alarms {
		active[a.Kind]++
	}
	d := desc("alarms", "Alarms that hold, by kind.", "kind")
	for _, k := range Kinds() {
		send(d, float64(active[k]), string(k))
	}
	if !g.payloads {
		return
	}
	send(desc("payloads_checked", "Entries whose payload was checked or is erased."), float64(r.Payloads))
	send(desc("payload_lag", "Entries whose payload is still to be checked."), float64(r.Size-min(r.Payloads, r.Size)))
	d = desc("findings", "Oddities in the lives of keys, by kind.", "kind")
	for k, n := range r.Counts.Findings {
		send(d, float64(n), k)
	}
}
