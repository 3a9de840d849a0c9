package logtest

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

// Witness is a witness of package witness behind a real HTTP server, which a test can stop
// and start.
type Witness struct {
	*witness.Witness
	// URL is its submission prefix, the same through stops.
	URL string
	// Requests counts what it was asked while it was up.
	Requests atomic.Int64
	down     atomic.Bool
	hang     atomic.Pointer[chan struct{}]
}

// NewWitness starts a witness that serves the log of d.
func NewWitness(t testing.TB, d *Dir, name string) *Witness {
	t.Helper()
	store := memstore.New()
	path := filepath.Join(t.TempDir(), "counter")
	if err := witness.Create(t.Context(), store, path); err != nil {
		t.Fatal(err)
	}
	counter, err := witness.OpenCounter(path)
	if err != nil {
		t.Fatal(err)
	}
	c := witness.Config{Store: store, Counter: counter, Evidence: filepath.Join(t.TempDir(), "evidence")}
	for _, generate := range []func(string, io.Reader) (*checkpoint.SignerKey, error){
		checkpoint.GenerateEd25519Cosigner, checkpoint.GenerateMLDSA44,
	} {
		k, err := generate(name, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.Signers = append(c.Signers, k)
	}
	w := &Witness{}
	if w.Witness, err = witness.Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	enrolled := witness.Log{Origin: Origin}
	for _, k := range d.Signers {
		enrolled.Keys = append(enrolled.Keys, k.VerifierKey())
	}
	if err := w.Enroll(t.Context(), enrolled); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w)
	w.URL = srv.URL
	t.Cleanup(func() {
		w.Up()
		srv.Close()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// ServeHTTP answers as the witness does while it is up, with 503 while it is down, and
// not at all while it hangs.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if hang := w.hang.Load(); hang != nil {
		select {
		case <-*hang:
		case <-req.Context().Done():
			return
		}
	}
	if w.down.Load() {
		http.Error(rw, "down", http.StatusServiceUnavailable)
		return
	}
	w.Requests.Add(1)
	w.Handler().ServeHTTP(rw, req)
}

// Down makes the witness answer 503.
func (w *Witness) Down() { w.down.Store(true) }

// Hang makes the witness answer nothing until Up.
func (w *Witness) Hang() {
	c := make(chan struct{})
	w.hang.Store(&c)
}

// Up makes the witness answer again.
func (w *Witness) Up() {
	w.down.Store(false)
	if hang := w.hang.Swap(nil); hang != nil {
		close(*hang)
	}
}

// Policy returns a policy of the log of d under which k of the witnesses must have cosigned,
// each with both of its keys. With k 0 the quorum is none.
func Policy(t testing.TB, d *Dir, k int, witnesses ...*Witness) *policy.Policy {
	t.Helper()
	var b strings.Builder
	for _, s := range d.Signers {
		fmt.Fprintf(&b, "log %s\n", s.VerifierKey())
	}
	var groups []string
	for i, w := range witnesses {
		var names []string
		for j, key := range w.Keys() {
			names = append(names, fmt.Sprintf("w%d.%d", i+1, j+1))
			fmt.Fprintf(&b, "witness %s %s %s\n", names[j], key, w.URL)
		}
		groups = append(groups, fmt.Sprintf("w%d", i+1))
		fmt.Fprintf(&b, "group %s all %s\n", groups[i], strings.Join(names, " "))
	}
	if k == 0 {
		b.WriteString("quorum none\n")
	} else {
		fmt.Fprintf(&b, "group quorum %d %s\nquorum quorum\n", k, strings.Join(groups, " "))
	}
	p, err := policy.Parse([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// WithPolicy makes logs of d be opened under a policy.
func (d *Dir) WithPolicy(p *policy.Policy) {
	d.Change = func(c *log.Config) { c.Policy = p }
}
