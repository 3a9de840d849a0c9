package interop_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/types/known/timestamppb"

	keytrail "github.com/keytrail/keytrail/client"
	"github.com/keytrail/keytrail/proto/checkpoint"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
)

// logProcess is a keytraild of ours.
type logProcess struct {
	*keytrail.Client
	*process
	dir    string
	origin string
	url    string // of the tile API
	size   uint64
}

// initLog makes a log's directory.
func initLog(t testing.TB, origin string) *logProcess {
	t.Helper()
	l := &logProcess{dir: filepath.Join(t.TempDir(), "log"), origin: origin}
	run(t, "keytrail", "init", "--dir", l.dir, "--origin", origin)
	return l
}

// serve starts the log.
func (l *logProcess) serve(t testing.TB) {
	t.Helper()
	l.process = start(t, "keytraild", "", "--dir", l.dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn")
	words := l.line(t)
	l.url = "http://" + word(t, words, "http=")
	c, err := keytrail.Dial(word(t, words, "grpc="), keytrail.TLS{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l.Client = c
}

func newLog(t testing.TB, origin string) *logProcess {
	t.Helper()
	l := initLog(t, origin)
	l.serve(t)
	return l
}

// policy reads the log's policy file.
func (l *logProcess) policy(t testing.TB) *policy.Policy {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, "policy"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// vkey returns the log's key of a type.
func (l *logProcess) vkey(t testing.TB, typ checkpoint.KeyType) checkpoint.VerifierKey {
	t.Helper()
	for _, k := range l.policy(t).LogKeys(l.origin) {
		if k.Type() == typ {
			return k
		}
	}
	t.Fatalf("the log has no %v key", typ)
	return checkpoint.VerifierKey{}
}

// ed25519 returns the verifier of the log's Ed25519 key, from x/mod.
func (l *logProcess) ed25519(t testing.TB) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(l.vkey(t, checkpoint.TypeEd25519).String())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mldsa returns the verifier of the log's ML-DSA-44 key, from formats.
func (l *logProcess) mldsa(t testing.TB) note.Verifier {
	t.Helper()
	v, err := formats.NewMLDSAVerifier(l.vkey(t, checkpoint.TypeMLDSA44).String())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// grow appends events until the log has this size and has published it.
func (l *logProcess) grow(t testing.TB, size uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for l.size < size {
		var events []*keytrailv1.KeyEvent
		for i := l.size; i < size && len(events) < 1000; i++ {
			events = append(events, event(i))
		}
		wait := rpc.Wait_WAIT_DURABLE
		if l.size+uint64(len(events)) == size {
			wait = rpc.Wait_WAIT_PUBLISHED
		}
		res, err := l.AppendBatch(ctx, &rpc.AppendBatchRequest{Events: events, Wait: wait})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.GetResults() {
			if r.GetAck() == nil || r.GetAck().GetIndex() != l.size {
				t.Fatalf("event %d: %v", l.size, r)
			}
			l.size++
		}
	}
}

// event returns the event with a number.
func event(n uint64) *keytrailv1.KeyEvent {
	return &keytrailv1.KeyEvent{
		SchemaVersion: 1, EventId: fmt.Sprintf("event-%d", n), Source: &keytrailv1.Source{System: "interop"},
		Tenant: "tenant", Time: timestamppb.New(time.Unix(1_700_000_000+int64(n), 0)),
		Operation: keytrailv1.Operation_OPERATION_USE_SIGN, Outcome: keytrailv1.Outcome_OUTCOME_SUCCESS,
		Key: &keytrailv1.Key{Ref: fmt.Sprintf("key-%d", n%100)},
	}
}

// receipt returns the receipt of an entry.
func (l *logProcess) receipt(t testing.TB, index uint64) []byte {
	t.Helper()
	res, err := l.GetReceipt(t.Context(), &rpc.GetReceiptRequest{Index: index})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetReceipt()
}

// inclusion returns our own inclusion proof, with the leaf hash.
func (l *logProcess) inclusion(t testing.TB, index, size uint64) (leaf [32]byte, proof [][]byte) {
	t.Helper()
	res, err := l.GetInclusionProof(t.Context(), &rpc.GetInclusionProofRequest{Index: index, TreeSize: size})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(res.GetLeafHash()), res.GetHashes()
}

// consistency returns our own consistency proof.
func (l *logProcess) consistency(t testing.TB, from, to uint64) [][]byte {
	t.Helper()
	res, err := l.GetConsistencyProof(t.Context(), &rpc.GetConsistencyProofRequest{FromSize: from, ToSize: to})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetHashes()
}

// tesseraFetcher reads a log's tile API with Tessera's client.
func tesseraFetcher(t testing.TB, base string) *client.HTTPFetcher {
	t.Helper()
	u, err := url.Parse(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, &http.Client{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
