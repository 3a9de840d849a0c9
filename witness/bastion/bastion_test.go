package bastion_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytrail/keytrail/witness/bastion"
	"github.com/keytrail/keytrail/witness/bastion/bastiontest"
)

var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// start runs a backend of a bastion until the test or stop ends it.
func start(t *testing.T, b *bastiontest.Server, h http.Handler) (backend *bastion.Backend, stop func()) {
	t.Helper()
	backend, err := bastion.New(bastion.Config{
		Address: b.Address, Key: testKey, Roots: b.Pool(), Server: &http.Server{Handler: h, ReadTimeout: 5 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := backend.Run(ctx); err != nil {
			t.Errorf("running: %v", err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return backend, stop
}

// offered waits for a connection of the backend.
func offered(t *testing.T, b *bastiontest.Server) tls.ConnectionState {
	t.Helper()
	select {
	case s := <-b.Offered:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("the backend does not come")
		return tls.ConnectionState{}
	}
}

func ask(t *testing.T, url string, body io.Reader) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.URL.Path, r.Header.Get("X-Forwarded-For"), b)
})

// TestBackend has requests answered through a bastion, also after it dropped the
// connection.
func TestBackend(t *testing.T) {
	b := bastiontest.New(t)
	url := b.URL + "/" + bastion.Hash(testKey.Public().(ed25519.PublicKey)) + "/add-checkpoint"
	if status, _ := ask(t, url, nil); status != http.StatusMisdirectedRequest {
		t.Errorf("before the backend came the bastion says %d", status)
	}
	backend, stop := start(t, b, echo)
	s := offered(t, b)
	if s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != "bastion/0" || !s.PeerCertificates[0].PublicKey.(ed25519.PublicKey).Equal(testKey.Public()) {
		t.Errorf("the backend offers %+v", s)
	}
	const want = "HTTP/2.0 /add-checkpoint 127.0.0.1 "
	body := strings.Repeat("x", 100_000)
	if status, got := ask(t, url, strings.NewReader(body)); status != http.StatusOK || got != want+body {
		t.Errorf("%d %.80q", status, got)
	}
	b.Drop()
	offered(t, b)
	if status, got := ask(t, url, nil); status != http.StatusOK || got != want {
		t.Errorf("after the connection was dropped: %d %q", status, got)
	}
	if !backend.Connected() {
		t.Error("the backend does not know that it is connected")
	}
	stop()
	if backend.Connected() {
		t.Error("the backend is connected after its end")
	}
}

// TestParallel sends many requests at once over the one connection.
func TestParallel(t *testing.T) {
	b := bastiontest.New(t)
	const n = 50
	var all sync.WaitGroup
	all.Add(n)
	together := make(chan struct{})
	go func() { all.Wait(); close(together) }()
	start(t, b, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		all.Done()
		select { // Nobody is answered before everybody has come.
		case <-together:
		case <-r.Context().Done():
		}
	}))
	offered(t, b)
	url := b.URL + "/" + bastion.Hash(testKey.Public().(ed25519.PublicKey)) + "/"
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			if status, got := ask(t, url, nil); status != http.StatusOK {
				t.Errorf("%d %q", status, got)
			}
		})
	}
	clients.Wait()
}

// TestStop ends the backend while a request is under way: that is answered.
func TestStop(t *testing.T) {
	b := bastiontest.New(t)
	came, answer := make(chan struct{}), make(chan struct{})
	_, stop := start(t, b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(came)
		<-answer
		fmt.Fprint(w, "done")
	}))
	offered(t, b)
	url := b.URL + "/" + bastion.Hash(testKey.Public().(ed25519.PublicKey)) + "/"
	got := make(chan string)
	go func() {
		_, body := ask(t, url, nil)
		got <- body
	}()
	<-came
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("the backend ended before the request was answered")
	case <-time.After(50 * time.Millisecond):
	}
	close(answer)
	if body := <-got; body != "done" {
		t.Errorf("the answer is %q", body)
	}
	<-stopped
}

// TestNoBastion connects to servers that are none.
func TestNoBastion(t *testing.T) {
	trusted := bastiontest.New(t)
	for name, address := range map[string]func(t *testing.T) string{
		"nobody listens": func(t *testing.T) string {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer lis.Close()
			return lis.Addr().String()
		},
		"no TLS": func(t *testing.T) string {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = lis.Close() })
			go func() {
				for {
					c, err := lis.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
					_ = c.Close()
				}
			}()
			return lis.Addr().String()
		},
		"another authority": func(t *testing.T) string { return bastiontest.New(t).Address },
	} {
		t.Run(name, func(t *testing.T) {
			backend, err := bastion.New(bastion.Config{Address: address(t), Key: testKey, Roots: trusted.Pool(), Server: &http.Server{Handler: echo}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if err := backend.Run(ctx); err != nil || backend.Connected() {
				t.Errorf("it ends with %v, connected %v", err, backend.Connected())
			}
		})
	}
	for _, address := range []string{"", "host", ":443", "host:"} {
		if _, err := bastion.New(bastion.Config{Address: address, Key: testKey}); err == nil {
			t.Errorf("address %q is taken", address)
		}
	}
	if _, err := bastion.New(bastion.Config{Address: "host:443"}); err == nil {
		t.Error("no key is taken")
	}
}
