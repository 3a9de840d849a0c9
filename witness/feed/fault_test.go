package feed_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/witness/feed"
)

// faults are what the network, or a witness, can do to a request. Each says what the
// Status must show.
var faults = []struct {
	name    string
	problem string
	// answer answers over a real connection.
	answer func(rw http.ResponseWriter, req *http.Request, u *consistency.Bundle, f *fake)
}{
	{"hanging", "no whole answer in time", func(_ http.ResponseWriter, req *http.Request, _ *consistency.Bundle, _ *fake) {
		<-req.Context().Done()
	}},
	{"one byte at a time", "no whole answer in time", func(rw http.ResponseWriter, req *http.Request, _ *consistency.Bundle, _ *fake) {
		for req.Context().Err() == nil {
			_, _ = io.WriteString(rw, "x")
			_ = http.NewResponseController(rw).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}},
	{"half a header", "no whole answer in time", func(rw http.ResponseWriter, req *http.Request, _ *consistency.Bundle, _ *fake) {
		c, _, err := http.NewResponseController(rw).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}},
	{"half a body", "unexpected EOF", func(rw http.ResponseWriter, _ *http.Request, u *consistency.Bundle, f *fake) {
		rw.Header().Set("Content-Length", "5000")
		_, _ = rw.Write(lines(mustParse(u), time.Now(), f.keys...))
		panic(http.ErrAbortHandler)
	}},
	{"closed without an answer", "EOF", func(http.ResponseWriter, *http.Request, *consistency.Bundle, *fake) {
		panic(http.ErrAbortHandler)
	}},
	{"garbage", "without signature lines", func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		_, _ = io.WriteString(rw, "<html>welcome to our wireless network</html>\n")
	}},
	{"not HTTP", "malformed HTTP", func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		c, _, err := http.NewResponseController(rw).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "220 mail.test ESMTP\r\n")
			_ = c.Close()
		}
	}},
	{"empty body", "without signature lines", func(http.ResponseWriter, *http.Request, *consistency.Bundle, *fake) {}},
	{"last newline missing", "without signature lines", func(rw http.ResponseWriter, _ *http.Request, u *consistency.Bundle, f *fake) {
		b := lines(mustParse(u), time.Now(), f.keys...)
		_, _ = rw.Write(b[:len(b)-1])
	}},
	{"wrong key", "none of a key that the policy has", func(rw http.ResponseWriter, _ *http.Request, u *consistency.Bundle, f *fake) {
		other, err := checkpoint.NewSignerKey(f.keys[0].Name(), checkpoint.TypeEd25519Cosignature, make([]byte, 32))
		if err != nil {
			panic(err)
		}
		_, _ = rw.Write(lines(mustParse(u), time.Now(), other))
	}},
	{"redirect", `redirects to "/elsewhere"`, func(rw http.ResponseWriter, req *http.Request, _ *consistency.Bundle, _ *fake) {
		http.Redirect(rw, req, "/elsewhere", http.StatusPermanentRedirect)
	}},
	{"huge body", "larger than 131072 bytes", func(rw http.ResponseWriter, _ *http.Request, u *consistency.Bundle, f *fake) {
		b := lines(mustParse(u), time.Now(), f.keys...)
		for n := 0; n < 1<<20; n += len(b) {
			if _, err := rw.Write(b); err != nil {
				return
			}
		}
	}},
	{"endless body", "larger than 131072 bytes", func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		for {
			if _, err := io.WriteString(rw, strings.Repeat("x", 4096)); err != nil {
				return
			}
		}
	}},
	{"huge header", "header", func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		rw.Header().Set("X", strings.Repeat("x", 1<<20))
	}},
	{"server error", "answered 500", statusFault(http.StatusInternalServerError)},
	{"overloaded", "answered 503", statusFault(http.StatusServiceUnavailable)},
	{"bad request", `answered 400 ("no\nthanks")`, statusFault(http.StatusBadRequest)},
	{"403", "does not serve this log", statusFault(http.StatusForbidden)},
	{"404", "does not serve this log", statusFault(http.StatusNotFound)},
	{"unknown status", "answered 299", statusFault(299)},
	{"no content", "answered 204", func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		rw.WriteHeader(http.StatusNoContent)
	}},
}

func statusFault(code int) func(http.ResponseWriter, *http.Request, *consistency.Bundle, *fake) {
	return func(rw http.ResponseWriter, _ *http.Request, _ *consistency.Bundle, _ *fake) {
		rw.WriteHeader(code)
		_, _ = io.WriteString(rw, "no\nthanks\n")
	}
}

func mustParse(u *consistency.Bundle) checkpoint.Checkpoint {
	cp, _, err := checkpoint.ParseNote(u.Checkpoint)
	if err != nil {
		panic(err)
	}
	return cp
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFaults has one of three witnesses fail in every way. The other two must cosign, one
// checkpoint after the other; the third's problem must show; and it must cosign again once it
// is well.
func TestFaults(t *testing.T) {
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, "")
			w := []*fake{newFake(t, "w1").serve(t), newFake(t, "w2").serve(t), newFake(t, "w3").serve(t)}
			w[2].answer = func(_ int, rw http.ResponseWriter, req *http.Request, u *consistency.Bundle) bool {
				c.answer(rw, req, u, w[2])
				return true
			}
			p := testPolicy(t, l, 2, w[0].party, w[1].party, w[2].party)
			f := open(t, feed.Config{Policy: p, Tree: l, Timeout: 3 * time.Second})
			for size := uint64(1); size <= 3; size++ {
				wantCosigned(t, f, l, p, size, 4)
			}
			eventually(t, "the problem shows", func() bool { return f.Status()[2].Problem != "" })
			s := f.Status()[2]
			if !strings.Contains(s.Problem, c.problem) || strings.Contains(s.Problem, "\n") {
				t.Errorf("its problem is %q, want %q", s.Problem, c.problem)
			}
			if s.Conflict || !s.LastSuccess.IsZero() {
				t.Errorf("its state is %+v", s)
			}
			for _, s := range f.Status()[:2] {
				if s.Problem != "" || s.Size != 3 {
					t.Errorf("the state of a good one is %+v", s)
				}
			}
			if strings.HasPrefix(c.name, "40") {
				return // Nobody waits for an enrolment here.
			}
			w[2].mend()
			for size := uint64(4); f.Status()[2].LastSuccess.IsZero(); size++ {
				if size == 1000 {
					t.Fatalf("it does not recover: %+v", f.Status()[2])
				}
				if _, err := f.Cosign(t.Context(), l.at(size), l.note(t, size)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if s := f.Status()[2]; s.Problem != "" {
				t.Errorf("after its recovery its state is %+v", s)
			}
		})
	}
}

// TestConnectionRefused has a witness that is not there.
func TestConnectionRefused(t *testing.T) {
	l := newLog(t, "")
	n, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := newParty(t, "gone", "http://"+n.Addr().String())
	n.Close()
	w := newFake(t, "w1").serve(t)
	p := testPolicy(t, l, 1, w.party, gone)
	f := open(t, feed.Config{Policy: p, Tree: l})
	wantCosigned(t, f, l, p, 5, 2)
	eventually(t, "the problem shows", func() bool { return strings.Contains(f.Status()[1].Problem, "refused") })
	if s := f.Status()[1].Problem; strings.Contains(s, "Post") {
		t.Errorf("the problem repeats the request: %q", s)
	}
}

// TestRedirectIsNotFollowed has a witness redirect to one that would cosign.
func TestRedirectIsNotFollowed(t *testing.T) {
	l := newLog(t, "")
	honest := newFake(t, "w1").serve(t)
	bent := newFake(t, "w2").serve(t)
	bent.answer = func(_ int, rw http.ResponseWriter, req *http.Request, _ *consistency.Bundle) bool {
		http.Redirect(rw, req, honest.url+"/add-checkpoint", http.StatusTemporaryRedirect)
		return true
	}
	// The keys behind the redirect are those that the policy has for the witness.
	honest.keys = bent.keys
	p := testPolicy(t, l, 1, bent.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	e := wantNoQuorum(t, f, l, 5)
	if !strings.Contains(e.Error(), honest.url) || honest.count() != 0 {
		t.Errorf("%d requests reached the other place; the error is %v", honest.count(), e)
	}
}

// TestDeadConnection stops and starts a witness between two requests. The second must come
// through at once, on a new connection.
func TestDeadConnection(t *testing.T) {
	l := newLog(t, "")
	w := newFake(t, "w1")
	n, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := n.Addr().String()
	w.url = "http://" + addr
	p := testPolicy(t, l, 1, w.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	for size := uint64(1); size < 5; size++ {
		s := &http.Server{Handler: w}
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(n) })
		wantCosigned(t, f, l, p, size, 2)
		s.Close()
		serving.Wait()
		if n, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	n.Close()
}

// TestContextEnds ends the caller's context while a witness hangs.
func TestContextEnds(t *testing.T) {
	l := newLog(t, "")
	w := newFake(t, "w1").serve(t)
	w.slow(time.Minute)
	p := testPolicy(t, l, 1, w.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for w.count() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := f.Cosign(ctx, l.at(3), l.note(t, 3))
	if err == nil || !strings.Contains(err.Error(), "has not answered yet") {
		t.Errorf("the answer is %v", err)
	}
}
