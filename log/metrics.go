package log

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a log. Names are under "keytrail_log_".
type metrics struct {
	entries      prometheus.Counter
	payloadBytes prometheus.Counter
	batchEntries prometheus.Histogram
	commit       prometheus.Histogram
	duplicates   prometheus.Counter
	conflicts    prometheus.Counter
	overloaded   prometheus.Counter
	publish      prometheus.Histogram
	waits        prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "keytrail_log_" + name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "keytrail_log_" + name, Help: help, Buckets: buckets})
	}
	seconds := prometheus.ExponentialBuckets(0.0001, 2, 16) // 0.1 ms to 3.3 s
	return &metrics{
		entries:      counter("entries_total", "Entries committed since the start."),
		payloadBytes: counter("payload_bytes_total", "Bytes of payloads committed since the start."),
		batchEntries: histogram("batch_entries", "Entries in one commit.", prometheus.ExponentialBuckets(1, 2, 13)),
		commit:       histogram("commit_seconds", "Time that one commit took, sync included.", seconds),
		duplicates:   counter("duplicates_total", "Events sent again that were in the log already."),
		conflicts:    counter("conflicts_total", "Event ids sent again with other content: an integrity alert."),
		overloaded:   counter("overloaded_total", "Calls refused because the pool was full."),
		publish:      histogram("publish_seconds", "Time from reading the head to the published checkpoint.", seconds),
		waits:        counter("publication_waits_total", "Attempts to publish that found too few witnesses, or a key that did not sign."),
	}
}

func (m *metrics) committed(entries, bytes int, took time.Duration) {
	m.entries.Add(float64(entries))
	m.payloadBytes.Add(float64(bytes))
	m.batchEntries.Observe(float64(entries))
	m.commit.Observe(took.Seconds())
}

// Metrics returns the log's collectors.
func (l *Log) Metrics() []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keytrail_log_" + name, Help: help}, f)
	}
	m := l.metrics
	all := []prometheus.Collector{
		m.entries, m.payloadBytes, m.batchEntries, m.commit, m.duplicates, m.conflicts, m.overloaded, m.publish, m.waits,
		gauge("durable_size", "Entries on stable storage.", func() float64 { return float64(l.DurableSize()) }),
		gauge("published_size", "Entries under the latest published checkpoint.",
			func() float64 { return float64(l.Published().Size) }),
		gauge("published_timestamp_seconds", "When the latest checkpoint was published, since 1970.",
			func() float64 {
				if at := l.Published().At; !at.IsZero() {
					return float64(at.UnixNano()) / 1e9
				}
				return 0
			}),
		gauge("pending_events", "Events that wait for the next batch.", func() float64 { return float64(l.pool.depth()) }),
		gauge("unpublished_entries", "Entries on stable storage that no published checkpoint covers.",
			func() float64 { return float64(l.backlog()) }),
		gauge("publication_blocked", "1 while publication waits for witnesses or for a key.", func() float64 {
			if l.Problem() != "" {
				return 1
			}
			return 0
		}),
	}
	if l.pub.feed != nil {
		all = append(all, l.pub.feed.Metrics()...)
	}
	return all
}

// backlog is how many entries are durable and not published.
func (l *Log) backlog() uint64 {
	published := l.Published().Size // first: it never passes what is durable
	return l.DurableSize() - published
}
