package feed_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness/feed"
)

// fake is a witness that cosigns whatever comes after its size, without looking at proofs or
// signatures, unless answer says otherwise.
type fake struct {
	*party

	mu sync.Mutex
	// size is what it cosigned last.
	size uint64
	// asked are the requests that came.
	asked []*consistency.Bundle
	// answer answers a request, n from 1; false leaves it to the fake.
	answer func(n int, rw http.ResponseWriter, req *http.Request, u *consistency.Bundle) bool
	// monitor is the checkpoint at the monitoring endpoint; nil is 404.
	monitor []byte
	// looked is how often it was read.
	looked int
}

func newFake(t testing.TB, name string) *fake {
	return &fake{party: newParty(t, name, "http://"+name+".test")}
}

// serve serves the fake on a real socket.
func (f *fake) serve(t testing.TB) *fake {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

func (f *fake) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.looked++
		if f.monitor == nil {
			http.NotFound(rw, req)
			return
		}
		_, _ = rw.Write(f.monitor)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	u, err := consistency.Parse(body)
	if err != nil || req.URL.Path != "/add-checkpoint" {
		http.Error(rw, "bad request", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.asked = append(f.asked, u)
	n, answer := len(f.asked), f.answer
	f.mu.Unlock()
	if answer != nil && answer(n, rw, req, u) {
		return
	}
	f.cosign(rw, u)
}

// cosign answers as a witness should, without checks.
func (f *fake) cosign(rw http.ResponseWriter, u *consistency.Bundle) {
	cp, _, err := checkpoint.ParseNote(u.Checkpoint)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if u.OldSize != f.size {
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", f.size)
		return
	}
	f.size = cp.Size
	_, _ = rw.Write(lines(cp, time.Now(), f.keys...))
}

// lines returns the cosignatures of keys.
func lines(cp checkpoint.Checkpoint, at time.Time, keys ...*checkpoint.SignerKey) []byte {
	var b []byte
	for _, k := range keys {
		s, err := k.Cosign(cp, uint64(at.Unix()))
		if err != nil {
			panic(err)
		}
		b = s.Append(b)
	}
	return b
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// set changes the fake while it is being asked.
func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// always answers every request alike.
func (f *fake) always(status int, header, body string) {
	f.set(func(f *fake) {
		f.answer = func(_ int, rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle) bool {
			if header != "" {
				rw.Header().Set("Retry-After", header)
			}
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
			return true
		}
	})
}

// mend makes the fake honest again.
func (f *fake) mend() { f.set(func(f *fake) { f.answer = nil }) }

// slow delays every answer.
func (f *fake) slow(d time.Duration) {
	f.set(func(f *fake) {
		f.answer = func(_ int, _ http.ResponseWriter, req *http.Request, _ *consistency.Bundle) bool {
			select {
			case <-time.After(d):
				return false
			case <-req.Context().Done():
				return true
			}
		}
	})
}

// network carries requests to fakes by their host, without sockets, so that time can stand
// still.
type network map[string]http.Handler

func newNetwork(fakes ...*fake) network {
	n := make(network)
	for _, f := range fakes {
		n[f.name+".test"] = f
	}
	return n
}

// RoundTrip makes a network a http.RoundTripper.
func (n network) RoundTrip(req *http.Request) (*http.Response, error) {
	rw := httptest.NewRecorder()
	h, ok := n[req.URL.Host]
	if !ok {
		return nil, fmt.Errorf("no route to %s", req.URL.Host)
	}
	h.ServeHTTP(rw, req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	return rw.Result(), nil
}

// trio is a log with three fakes that time can stand still for, two of which are the quorum.
type trio struct {
	log  *testLog
	w    []*fake
	conf feed.Config
}

// grace is the one of a trio, and that of Start.
const grace = 20 * time.Millisecond

func newTrio(t testing.TB, quorum int) *trio {
	t.Helper()
	s := &trio{log: newLog(t, "")}
	for _, name := range []string{"w1", "w2", "w3"} {
		s.w = append(s.w, newFake(t, name))
	}
	s.conf = feed.Config{
		Tree:      s.log,
		Grace:     grace,
		Policy:    testPolicy(t, s.log, quorum, s.w[0].party, s.w[1].party, s.w[2].party),
		Transport: newNetwork(s.w...),
	}
	return s
}

// light leaves the log and each fake one key, so that many requests take little work.
func (s *trio) light(t testing.TB, quorum int) *trio {
	t.Helper()
	s.log.keys = s.log.keys[:1]
	for _, w := range s.w {
		w.keys = w.keys[:1]
	}
	s.conf.Policy = testPolicy(t, s.log, quorum, s.w[0].party, s.w[1].party, s.w[2].party)
	return s
}

// cosign has a size cosigned with as many lines as wanted.
func (s *trio) cosign(t testing.TB, f *feed.Feed, size uint64, lines int) {
	t.Helper()
	wantCosigned(t, f, s.log, s.conf.Policy, size, lines)
}
