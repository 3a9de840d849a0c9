package witness_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness"
)

// do sends a request to a handler.
func do(h http.Handler, method, path string, body []byte) *http.Response {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, path, bytes.NewReader(body)))
	return rec.Result()
}

func readBody(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHTTP(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	h := w.Handler()
	monitor := "/" + hash(l.origin) + "/checkpoint"
	for _, c := range []struct {
		name, method, path string
		body               []byte
		status             int
		contentType        string
	}{
		{"nothing cosigned yet", "GET", monitor, nil, 404, "text/plain; charset=utf-8"},
		{"a method that is not POST", "GET", "/add-checkpoint", nil, 405, "text/plain; charset=utf-8"},
		{"too large", "POST", "/add-checkpoint", make([]byte, witness.MaxRequest+1), 413, "text/plain; charset=utf-8"},
		{"as large as possible", "POST", "/add-checkpoint", make([]byte, witness.MaxRequest), 400, "text/plain; charset=utf-8"},
		{"good", "POST", "/add-checkpoint", l.request(t, 0, 5), 200, "text/plain; charset=utf-8"},
		{"conflict", "POST", "/add-checkpoint", l.request(t, 0, 5), 409, "text/x.tlog.size"},
		{"monitoring", "GET", monitor, nil, 200, "text/plain; charset=utf-8"},
		{"hash in upper case", "GET", strings.ToUpper(monitor[:65]) + "/checkpoint", nil, 404, "text/plain; charset=utf-8"},
		{"unknown path", "GET", "/", nil, 404, "text/plain; charset=utf-8"},
	} {
		r := do(h, c.method, c.path, c.body)
		if r.StatusCode != c.status || r.Header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d with %q, want %d with %q", c.name, r.StatusCode, r.Header.Get("Content-Type"), c.status, c.contentType)
		}
		if got := readBody(t, r); c.status == 409 && got != "5\n" {
			t.Errorf("%s: the body is %q, want the size alone", c.name, got)
		}
	}
}

// TestHTTPLengths takes a request without an announced length, and announces that of the answer.
func TestHTTPLengths(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	h := inMemory(t, l).Handler()
	for i, length := range []int64{-1, 0, 1, 1 << 40} { // net/http holds clients to what they announce
		req := httptest.NewRequest("POST", "/add-checkpoint", io.MultiReader(bytes.NewReader(l.request(t, uint64(i), uint64(i+1)))))
		req.ContentLength = length
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		if r := rec.Result(); r.StatusCode != 200 || r.ContentLength != int64(rec.Body.Len()) {
			t.Errorf("length %d: %d with a length of %d, want 200 with %d", length, r.StatusCode, r.ContentLength, rec.Body.Len())
		}
	}
}

// TestHTTPStopped answers 503 without details when the witness has stopped.
func TestHTTPStopped(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{500, 503} {
		r := do(w.Handler(), "POST", "/add-checkpoint", l.request(t, 0, 5))
		if body := readBody(t, r); r.StatusCode != want || strings.Contains(body, "closed") {
			t.Errorf("%d %q, want %d without the cause", r.StatusCode, body, want)
		}
	}
	if w.Err() == nil {
		t.Error("the witness goes on although it cannot write")
	}
}

// TestHTTPHalfABody sends less than it announces, and slowly, to a real server.
func TestHTTPHalfABody(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	s := httptest.NewUnstartedServer(w.Handler())
	s.Config.ReadTimeout = 100 * time.Millisecond
	s.Start()
	defer s.Close()
	body, stall := io.Pipe()
	defer stall.Close()
	go func() { _, _ = stall.Write(l.request(t, 0, 5)[:50]) }()
	req, err := http.NewRequestWithContext(context.Background(), "POST", s.URL+"/add-checkpoint", body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 5000
	r, err := s.Client().Do(req)
	if err == nil {
		defer r.Body.Close()
		if r.StatusCode != http.StatusBadRequest {
			t.Errorf("half a request: %d, want 400", r.StatusCode)
		}
	}
	if len(w.Logs()) != 1 || w.Logs()[0].Time != 0 {
		t.Error("half a request was cosigned")
	}
}

func TestMetrics(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	h := w.Handler()
	do(h, "POST", "/add-checkpoint", l.request(t, 0, 5))
	fork := l.forked("fork")
	do(h, "POST", "/add-checkpoint", fork.bundle(t, 5, 5, fork.sign(t, fork.at(5), l.keys[0])))
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(w.Metrics()...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	for name, want := range map[string]float64{"cosigned_total": 1, "forks_total": 1, "logs": 1, "stopped": 0} {
		if v, ok := got["keytrail_witness_"+name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	if got["keytrail_witness_last_cosigned_timestamp_seconds"] < 1.7e9 {
		t.Error("the time of the last cosignature is not there")
	}
}

// TestLargestRequest sends what MaxRequest is made for: 16 lines of unknown signatures of
// 5 kB beside the log's own.
func TestLargestRequest(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	note := l.sign(t, l.at(5), l.keys[0])
	for i := range 15 {
		s := checkpoint.Signature{Name: strings.Repeat("n", 255), KeyID: uint32(i), Sig: make([]byte, 5000)}
		note = s.Append(note)
	}
	w.add(t, l.bundle(t, 0, 5, note))
}
