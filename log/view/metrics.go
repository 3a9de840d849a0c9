package view

import "github.com/prometheus/client_golang/prometheus"

// Metrics returns the view's collectors, to be registered once.
func (v *View) Metrics() []prometheus.Collector {
	gauge := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, v.locked(value))
	}
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, v.locked(value))
	}
	return []prometheus.Collector{
		gauge("view_size", "Entries of the log that the view has read.", v.size),
		gauge("view_lag", "Published entries that the view has not read yet.", func() uint64 {
			return v.published - min(v.published, v.size())
		}),
		gauge("view_erased_entries", "Entries that were erased when the view read them.", func() uint64 { return v.counts.erased }),
		gauge("view_unreadable_entries", "Entries that the view could not read and leaves out.", func() uint64 { return v.counts.unreadable }),
		counter("view_rebuilds_total", "How often the view was dropped to be built anew.", func() uint64 { return v.counts.rebuilds }),
	}
}

// locked reads a number under mu.
func (v *View) locked(value func() uint64) func() float64 {
	return func() float64 {
		v.mu.RLock()
		defer v.mu.RUnlock()
		return float64(value())
	}
}
