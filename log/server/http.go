package server

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HTTP returns the handler of /healthz, /readyz and /metrics, and of the tile API (C2SP
// tlog-tiles): /checkpoint, /tile/…. Tiles hold hashes and salted commitments only. A log
// that continues another one shows that one's final statement under /predecessor.
func (s *Server) HTTP(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthy)
	mux.HandleFunc("GET /readyz", s.healthy)
	mux.HandleFunc("GET /checkpoint", s.checkpoint)
	mux.HandleFunc("GET /tile/", s.tile)
	mux.HandleFunc("GET /predecessor", s.showPredecessor)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// showPredecessor answers 404 when the log continues none.
func (s *Server) showPredecessor(w http.ResponseWriter, req *http.Request) {
	if s.predecessor == nil {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(s.predecessor)
}

// healthy answers 200 while the log writes and 503 when it has stopped.
func (s *Server) healthy(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-s.log.Failed():
		http.Error(w, "the log has stopped writing; see its log", http.StatusServiceUnavailable)
	default:
		fmt.Fprintf(w, "ok durable=%d published=%d\n", s.log.DurableSize(), s.log.Published().Size)
	}
}
