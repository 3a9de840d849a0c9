package feed_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
	"github.com/keytrail/keytrail/witness/feed"
)

const testOrigin = "log.test/feed"

// key returns a key that depends on its arguments alone.
func key(t testing.TB, name string, typ checkpoint.KeyType) *checkpoint.SignerKey {
	t.Helper()
	seed := sha256.Sum256(append([]byte(name), byte(typ)))
	k, err := checkpoint.NewSignerKey(name, typ, seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testLog is a log with as many leaves as a test asks for; fork names its history.
type testLog struct {
	keys []*checkpoint.SignerKey
	fork string
	mu   sync.Mutex
	tree *testonly.Tree
}

func newLog(t testing.TB, fork string) *testLog {
	return &testLog{
		fork: fork, tree: testonly.New(rfc6962.DefaultHasher),
		keys: []*checkpoint.SignerKey{key(t, testOrigin, checkpoint.TypeEd25519), key(t, testOrigin, checkpoint.TypeMLDSA44)},
	}
}

// at returns the log's checkpoint of a size.
func (l *testLog) at(size uint64) checkpoint.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := l.tree.Size(); i < size; i++ {
		l.tree.AppendData(fmt.Appendf(nil, "%s leaf %d", l.fork, i))
	}
	return checkpoint.Checkpoint{Origin: testOrigin, Size: size, Root: [32]byte(l.tree.HashAt(size))}
}

// note returns the log's signed checkpoint of a size.
func (l *testLog) note(t testing.TB, size uint64) []byte {
	t.Helper()
	note, err := checkpoint.SignNote(l.at(size), time.Now(), l.keys...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// Consistency makes a testLog a feed.Tree.
func (l *testLog) Consistency(_ context.Context, from, to uint64) ([][32]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from == 0 || from == to {
		return nil, nil
	}
	proof, err := l.tree.ConsistencyProof(from, to)
	hashes := make([][32]byte, len(proof))
	for i := range proof {
		hashes[i] = [32]byte(proof[i])
	}
	return hashes, err
}

func (l *testLog) enrolment() witness.Log {
	e := witness.Log{Origin: testOrigin}
	for _, k := range l.keys {
		e.Keys = append(e.Keys, k.VerifierKey())
	}
	return e
}

// party is a witness of a test's policy: one or two keys behind one URL.
type party struct {
	name string
	keys []*checkpoint.SignerKey
	url  string
}

// newParty returns a witness with a key of each kind; names in the policy are NAME and NAME-pq.
func newParty(t testing.TB, name, url string) *party {
	vname := name + ".test"
	return &party{name: name, url: url, keys: []*checkpoint.SignerKey{
		key(t, vname, checkpoint.TypeEd25519Cosignature), key(t, vname, checkpoint.TypeMLDSA44),
	}}
}

// testPolicy returns a policy of the log and the parties, whose groups demand all keys of a
// party, and the quorum any number of the parties.
func testPolicy(t testing.TB, l *testLog, quorum int, parties ...*party) *policy.Policy {
	t.Helper()
	var b strings.Builder
	for _, k := range l.keys {
		fmt.Fprintf(&b, "log %s\n", k.VerifierKey())
	}
	var members []string
	for _, p := range parties {
		fmt.Fprintf(&b, "witness %s %s %s\n", p.name, p.keys[0].VerifierKey(), p.url)
		member := p.name
		if len(p.keys) > 1 {
			fmt.Fprintf(&b, "witness %s-pq %s %s\n", p.name, p.keys[1].VerifierKey(), p.url)
			fmt.Fprintf(&b, "group %s-both all %s %s-pq\n", p.name, p.name, p.name)
			member += "-both"
		}
		members = append(members, member)
	}
	if quorum == 0 {
		b.WriteString("quorum none\n")
	} else {
		fmt.Fprintf(&b, "group q %d %s\nquorum q\n", quorum, strings.Join(members, " "))
	}
	p, err := policy.Parse([]byte(b.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	return p
}

// open returns a feed that the test closes at its end.
func open(t testing.TB, c feed.Config) *feed.Feed {
	t.Helper()
	c.Origin = testOrigin
	f, err := feed.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// wantCosigned has a size cosigned and checks every signature, and that as many came as wanted.
func wantCosigned(t testing.TB, f *feed.Feed, l *testLog, p *policy.Policy, size uint64, lines int) []checkpoint.Signature {
	t.Helper()
	sigs, err := f.Cosign(context.Background(), l.at(size), l.note(t, size))
	if err != nil {
		t.Fatalf("cosigning size %d: %v", size, err)
	}
	last := -1
	for _, s := range sigs {
		i := 0
		for i < len(p.Witnesses) && !p.Witnesses[i].Key.Made(s) {
			i++
		}
		if i == len(p.Witnesses) {
			t.Fatalf("a line of %s is of no witness of the policy", s.Name)
		}
		if i <= last {
			t.Errorf("the line of %s is not in the order of the policy, or stands twice", p.Witnesses[i].Name)
		}
		last = i
		if _, err := p.Witnesses[i].Key.Verify(l.at(size), s); err != nil {
			t.Errorf("the line of %s: %v", p.Witnesses[i].Name, err)
		}
	}
	if len(sigs) != lines {
		t.Errorf("%d signatures of size %d, want %d", len(sigs), size, lines)
	}
	return sigs
}

// wantNoQuorum has a size refused for want of witnesses.
func wantNoQuorum(t testing.TB, f *feed.Feed, l *testLog, size uint64) *feed.QuorumError {
	t.Helper()
	sigs, err := f.Cosign(context.Background(), l.at(size), l.note(t, size))
	e, ok := errors.AsType[*feed.QuorumError](err)
	if !ok {
		t.Fatalf("cosigning size %d: %d signatures, %v; want a QuorumError", size, len(sigs), err)
	}
	if !e.RetryAt.After(time.Now().Add(-time.Second)) {
		t.Errorf("asking again makes sense at %v, it is %v", e.RetryAt, time.Now())
	}
	return e
}

// realWitness serves package witness over HTTP and notes the requests' bodies.
type realWitness struct {
	*witness.Witness
	party *party

	mu     sync.Mutex
	bodies [][]byte
}

func newRealWitness(t testing.TB, name string, l *testLog) *realWitness {
	t.Helper()
	ctx := context.Background()
	store := memstore.New()
	path := filepath.Join(t.TempDir(), "counter")
	if err := witness.Create(ctx, store, path); err != nil {
		t.Fatal(err)
	}
	counter, err := witness.OpenCounter(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &realWitness{party: newParty(t, name, "")}
	if r.Witness, err = witness.Open(ctx, witness.Config{Store: store, Counter: counter, Signers: r.party.keys}); err != nil {
		t.Fatal(err)
	}
	if err := r.Enroll(ctx, l.enrolment()); err != nil {
		t.Fatal(err)
	}
	h := r.Handler()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Error(err)
			}
			r.mu.Lock()
			r.bodies = append(r.bodies, body)
			r.mu.Unlock()
			req.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		h.ServeHTTP(rw, req)
	}))
	t.Cleanup(func() {
		s.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.party.url = s.URL
	return r
}

func (r *realWitness) requests() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.bodies...)
}

// seed makes the witness cosign a size of a log.
func (r *realWitness) seed(t testing.TB, l *testLog, size uint64) {
	t.Helper()
	u := consistency.Bundle{Checkpoint: l.note(t, size)}
	if _, err := r.AddCheckpoint(context.Background(), u.Append(nil)); err != nil {
		t.Fatal(err)
	}
}

// TestCatchUp has witnesses that are at different sizes cosign one checkpoint, then the same
// again, then a larger one.
func TestCatchUp(t *testing.T) {
	l := newLog(t, "")
	var parties []*party
	var witnesses []*realWitness
	for i, size := range []uint64{0, 0, 1, 700, 1000} {
		w := newRealWitness(t, fmt.Sprint("w", i), l)
		if i > 0 {
			w.seed(t, l, size)
		}
		witnesses, parties = append(witnesses, w), append(parties, w.party)
	}
	p := testPolicy(t, l, len(parties), parties...)
	f := open(t, feed.Config{Policy: p, Tree: l})
	for i, size := range []uint64{1000, 1000, 1733} {
		before := 0
		for _, w := range witnesses {
			before += len(w.requests())
		}
		wantCosigned(t, f, l, p, size, 2*len(parties))
		for _, w := range witnesses {
			before -= len(w.requests())
		}
		// At first three must say where they are: the other two are at 0.
		if want := len(parties); i > 0 && -before != want || i == 0 && -before != want+3 {
			t.Errorf("size %d took %d requests", size, -before)
		}
	}
	for i, s := range f.Status() {
		if s.Size != 1733 || s.Problem != "" || s.Conflict || s.LastSuccess.IsZero() || s.Latency == 0 || len(s.Names) != 2 || s.URL != parties[i].url {
			t.Errorf("the state of a witness is %+v", s)
		}
	}
}

// TestOnlyOwnSignaturesAreSent gives Cosign and Start a note with cosignatures, as the
// published one has them.
func TestOnlyOwnSignaturesAreSent(t *testing.T) {
	l := newLog(t, "")
	w := newRealWitness(t, "w", l)
	p := testPolicy(t, l, 1, w.party)
	f := open(t, feed.Config{Policy: p, Tree: l})
	sigs := wantCosigned(t, f, l, p, 9, 2)
	published := l.note(t, 9)
	for _, s := range sigs {
		published = s.Append(published)
	}
	if err := f.Start(t.Context(), l.at(9), published); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Cosign(t.Context(), l.at(9), published); err != nil {
		t.Fatal(err)
	}
	if len(w.requests()) != 3 {
		t.Fatalf("%d requests, want 3", len(w.requests()))
	}
	for _, body := range w.requests() {
		u, err := consistency.Parse(body)
		if err != nil {
			t.Fatal(err)
		}
		_, sigs, err := checkpoint.ParseNote(u.Checkpoint)
		if err != nil || len(sigs) != len(l.keys) {
			t.Fatalf("%d signatures were sent, %v", len(sigs), err)
		}
		for i, s := range sigs {
			if !l.keys[i].VerifierKey().Made(s) {
				t.Errorf("a signature of %s was sent", s.Name)
			}
		}
	}
}
