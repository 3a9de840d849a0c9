package witness

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a witness. Names are under "keytrail_witness_".
type metrics struct {
	answers      *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	cosignatures prometheus.Counter
	forks        prometheus.Counter
	// last is the time of the latest cosignature, in seconds since 1970.
	last atomic.Uint64
}

func newMetrics() *metrics {
	name := func(n string) string { return "keytrail_witness_" + n }
	return &metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("answers_total"), Help: "Answers by call and status code."}, []string{"call", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name("answer_seconds"), Help: "Time from the header of a request to its answer, sync included, by call.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}, []string{"call"}),
		cosignatures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("cosigned_total"), Help: "Checkpoints cosigned since the start."}),
		forks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("forks_total"), Help: "Validly signed checkpoints that contradict a cosigned one: a log misbehaves."}),
	}
}

func (m *metrics) answered(call string, code int, took time.Duration) {
	m.answers.WithLabelValues(call, strconv.Itoa(code)).Inc()
	m.seconds.WithLabelValues(call).Observe(took.Seconds())
}

func (m *metrics) cosigned(l *latest) {
	m.cosignatures.Inc()
	for {
		was := m.last.Load()
		if was >= l.time || m.last.CompareAndSwap(was, l.time) {
			return
		}
	}
}

// Metrics returns the witness's collectors.
func (w *Witness) Metrics() []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keytrail_witness_" + name, Help: help}, f)
	}
	m := w.metrics
	return []prometheus.Collector{
		m.answers, m.seconds, m.cosignatures, m.forks,
		gauge("logs", "Enrolled logs.", func() float64 { return float64(w.enrolledLogs()) }),
		gauge("last_cosigned_timestamp_seconds", "When a checkpoint was last cosigned, since 1970.",
			func() float64 { return float64(m.last.Load()) }),
		gauge("stopped", "1 when the witness cosigns nothing more until it is started again.", func() float64 {
			if w.Err() != nil {
				return 1
			}
			return 0
		}),
	}
}
