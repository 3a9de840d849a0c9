package server_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytrail/keytrail/log/server"
)

func TestPredecessorIsShown(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	srv := server.New(server.Config{Log: f.log, Predecessor: []byte("last words\n")})
	w := httptest.NewRecorder()
	srv.HTTP(prometheus.NewRegistry()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/predecessor", nil))
	if w.Code != http.StatusOK || w.Body.String() != "last words\n" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
}
