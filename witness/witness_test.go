package witness_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/witness"
)

const testOrigin = "log.test/one"

// key returns a key that depends on its arguments alone.
func key(t testing.TB, name string, typ checkpoint.KeyType, n byte) *checkpoint.SignerKey {
	t.Helper()
	seed := sha256.Sum256(append([]byte(name), byte(typ), n))
	k, err := checkpoint.NewSignerKey(name, typ, seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testLog is a log with as many leaves as a test asks for; fork names its history.
type testLog struct {
	origin string
	keys   []*checkpoint.SignerKey
	fork   string
	tree   *testonly.Tree
}

func newLog(t testing.TB, origin, name string) *testLog {
	return &testLog{
		origin: origin, tree: testonly.New(rfc6962.DefaultHasher),
		keys: []*checkpoint.SignerKey{key(t, name, checkpoint.TypeEd25519, 0), key(t, name, checkpoint.TypeMLDSA44, 0)},
	}
}

// forked returns a log with the same keys and another history from the first leaf on.
func (l *testLog) forked(name string) *testLog {
	return &testLog{origin: l.origin, keys: l.keys, fork: name, tree: testonly.New(rfc6962.DefaultHasher)}
}

func (l *testLog) enrolment() witness.Log {
	e := witness.Log{Origin: l.origin}
	for _, k := range l.keys {
		e.Keys = append(e.Keys, k.VerifierKey())
	}
	return e
}

func (l *testLog) grow(size uint64) {
	for i := l.tree.Size(); i < size; i++ {
		l.tree.AppendData(fmt.Appendf(nil, "%s leaf %d", l.fork, i))
	}
}

// at returns the log's checkpoint of a size.
func (l *testLog) at(size uint64) checkpoint.Checkpoint {
	l.grow(size)
	return checkpoint.Checkpoint{Origin: l.origin, Size: size, Root: [32]byte(l.tree.HashAt(size))}
}

// sign returns c signed with the log's keys, as any text that a log may sign.
func (l *testLog) sign(t testing.TB, c checkpoint.Checkpoint, keys ...*checkpoint.SignerKey) []byte {
	t.Helper()
	if keys == nil {
		keys = l.keys
	}
	var sigs []checkpoint.Signature
	for _, k := range keys {
		sigs = append(sigs, rawSign(t, k, c))
	}
	return checkpoint.AppendNote(nil, c, sigs)
}

// rawSign signs what the package checkpoint refuses to sign, too: by an Ed25519 key of
// type 0x01 whatever the origin is.
func rawSign(t testing.TB, k *checkpoint.SignerKey, c checkpoint.Checkpoint) checkpoint.Signature {
	t.Helper()
	if k.VerifierKey().Type() == checkpoint.TypeEd25519 {
		return ed25519Sign(t, k, c)
	}
	s, err := k.Cosign(c, 1700000000)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request returns the body that asks for a cosignature of size after old.
func (l *testLog) request(t testing.TB, old, size uint64) []byte {
	t.Helper()
	return l.bundle(t, old, size, l.sign(t, l.at(size)))
}

func (l *testLog) bundle(t testing.TB, old, size uint64, note []byte) []byte {
	t.Helper()
	u := consistency.Bundle{OldSize: old, Checkpoint: note}
	l.grow(size)
	if old > 0 && old < size {
		hashes, err := l.tree.ConsistencyProof(old, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hashes {
			u.Hashes = append(u.Hashes, [32]byte(h))
		}
	}
	return u.Append(nil)
}

// testWitness is a witness with its files.
type testWitness struct {
	*witness.Witness
	dir   string
	store storage.Store
	// signers are its keys, those of the function when nil.
	signers []*checkpoint.SignerKey
}

func signers(t testing.TB) []*checkpoint.SignerKey {
	const name = "witness.test/w1"
	return []*checkpoint.SignerKey{
		key(t, name, checkpoint.TypeEd25519Cosignature, 0), key(t, name, checkpoint.TypeMLDSA44, 0),
	}
}

// newWitness makes a witness of some logs over a store, which is closed at the test's end.
func newWitness(t testing.TB, store storage.Store, logs ...*testLog) *testWitness {
	t.Helper()
	w := &testWitness{dir: t.TempDir(), store: store}
	if err := witness.Create(context.Background(), store, w.counter()); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	for _, l := range logs {
		if err := w.Enroll(context.Background(), l.enrolment()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Close(), w.store.Close()); err != nil && w.Err() == nil {
			t.Error(err)
		}
	})
	return w
}

func inMemory(t testing.TB, logs ...*testLog) *testWitness {
	t.Helper()
	return newWitness(t, memstore.New(), logs...)
}

func (w *testWitness) counter() string  { return filepath.Join(w.dir, "counter") }
func (w *testWitness) evidence() string { return filepath.Join(w.dir, "evidence") }

// open opens the witness over its store.
func (w *testWitness) open(t testing.TB) {
	t.Helper()
	if err := w.tryOpen(t); err != nil {
		t.Fatal(err)
	}
}

func (w *testWitness) config(t testing.TB) witness.Config {
	keys := w.signers
	if keys == nil {
		keys = signers(t)
	}
	return witness.Config{Store: w.store, Signers: keys, Evidence: w.evidence()}
}

func (w *testWitness) tryOpen(t testing.TB) error {
	t.Helper()
	c := w.config(t)
	var err error
	if c.Counter, err = witness.OpenCounter(w.counter()); err != nil {
		return err
	}
	opened, err := witness.Open(context.Background(), c)
	if err == nil {
		w.Witness = opened
	}
	return err
}

// reopen closes the witness and opens it again.
func (w *testWitness) reopen(t testing.TB) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(t)
}

// add sends a request that must be answered with cosignatures and returns their lines.
func (w *testWitness) add(t testing.TB, body []byte) []byte {
	t.Helper()
	lines, err := w.AddCheckpoint(context.Background(), body)
	if err != nil {
		t.Fatalf("adding a checkpoint: %v", err)
	}
	return lines
}

// wantRefused sends a request that must be refused with a status.
func (w *testWitness) wantRefused(t testing.TB, body []byte, status int) *witness.RefusalError {
	t.Helper()
	_, err := w.AddCheckpoint(context.Background(), body)
	e, ok := errors.AsType[*witness.RefusalError](err)
	if !ok || e.Status != status {
		t.Fatalf("the answer is %v, want a refusal with %d", err, status)
	}
	return e
}

func hash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// verifyLines checks that lines hold a good cosignature of each of the witness's keys over
// c, and returns their time.
func verifyLines(t testing.TB, lines []byte, c checkpoint.Checkpoint) uint64 {
	t.Helper()
	sigs, err := checkpoint.ParseSignatures(lines)
	if err != nil {
		t.Fatal(err)
	}
	keys := signers(t)
	if len(sigs) != len(keys) {
		t.Fatalf("%d signature lines, want %d", len(sigs), len(keys))
	}
	var at uint64
	for i, k := range keys {
		if at, err = k.VerifierKey().Verify(c, sigs[i]); err != nil || at == 0 {
			t.Errorf("line %d: time %d, %v", i+1, at, err)
		}
	}
	return at
}

func TestCosigns(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	begin := uint64(time.Now().Unix())
	for _, step := range [][2]uint64{{0, 0}, {0, 5}, {5, 5}, {5, 8}, {8, 300}} {
		lines := w.add(t, l.request(t, step[0], step[1]))
		if at := verifyLines(t, lines, l.at(step[1])); at < begin {
			t.Errorf("size %d was cosigned at %d, before the test began at %d", step[1], at, begin)
		}
	}
	s := w.Logs()
	if len(s) != 1 || s[0].Size != 300 || s[0].Root != l.at(300).Root || s[0].Time < begin {
		t.Errorf("the state is %+v", s)
	}
}

// TestMonitoring checks that what is served holds the log's verified signatures and the
// cosignatures of the answer, and no line that came along.
func TestMonitoring(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	if note, ok := w.Checkpoint(hash(l.origin)); ok {
		t.Errorf("before the first cosignature there is %q", note)
	}
	c := l.at(7)
	stranger := key(t, "stranger.test", checkpoint.TypeEd25519, 1)
	namesake := key(t, testOrigin, checkpoint.TypeEd25519, 1)
	note := l.sign(t, c, l.keys[0], stranger, namesake, l.keys[0])
	lines := w.add(t, l.bundle(t, 0, 7, note))
	want := append(l.sign(t, c, l.keys[0]), lines...)
	got, ok := w.Checkpoint(hash(l.origin))
	if !ok || string(got) != string(want) {
		t.Errorf("it serves\n%s\nwant\n%s", got, want)
	}
	if _, ok := w.Checkpoint(hash("another")); ok {
		t.Error("it serves a checkpoint of a log that it does not know")
	}
}

// TestForeignOrigin cosigns a log whose origin is no key name.
func TestForeignOrigin(t *testing.T) {
	l := newLog(t, "go.sum database tree", "sum.test")
	w := inMemory(t, l)
	verifyLines(t, w.add(t, l.request(t, 0, 9)), l.at(9))
}

func TestStatus(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	w.add(t, l.request(t, 0, 8))
	for name, c := range statusCases(t, l) {
		t.Run(name, func(t *testing.T) {
			e := w.wantRefused(t, c.body, c.status)
			if c.status == http.StatusConflict && e.Size != 8 {
				t.Errorf("the conflict states size %d, want 8", e.Size)
			}
		})
	}
	if s := w.Logs()[0]; s.Size != 8 || s.Root != l.at(8).Root {
		t.Errorf("refused requests moved the state to %+v", s)
	}
}

type statusCase struct {
	body   []byte
	status int
}

// statusCases are requests to a witness that cosigned size 8 of l. Each breaks one rule, or
// two, to show which comes first.
func statusCases(t *testing.T, l *testLog) map[string]statusCase {
	other := newLog(t, "log.test/unknown", "log.test/unknown")
	stranger := key(t, "stranger.test", checkpoint.TypeEd25519, 1)
	badSig := func(c checkpoint.Checkpoint) []byte {
		s := rawSign(t, l.keys[0], c)
		s.Sig[0] ^= 1
		return checkpoint.AppendNote(nil, c, []checkpoint.Signature{rawSign(t, l.keys[1], c), s})
	}
	wrongRoot := l.at(8)
	wrongRoot.Root[0] ^= 1
	emptyRoot := l.at(0)
	emptyRoot.Root[0] ^= 1
	proof := func(old uint64, hashes int, note []byte) []byte {
		return (&consistency.Bundle{OldSize: old, Hashes: make([][32]byte, hashes), Checkpoint: note}).Append(nil)
	}
	ext := l.at(9)
	extended := append(ext.Text(), "extension\n\n"...)
	extended = rawSign(t, l.keys[1], ext).Append(extended)
	return map[string]statusCase{
		"not a request":                          {[]byte("hello\n"), 400},
		"empty body":                             {nil, 400},
		"leading zero in old":                    {append([]byte("old 08"), l.request(t, 8, 9)[len("old 8"):]...), 400},
		"no final newline":                       {l.request(t, 8, 9)[:len(l.request(t, 8, 9))-1], 400},
		"extension line, signed":                 {proof(8, 0, extended), 400},
		"64 hashes":                              {proof(8, 64, l.sign(t, l.at(9))), 400},
		"unknown origin":                         {other.request(t, 0, 9), 404},
		"unknown origin and bad sizes":           {other.bundle(t, 10, 9, other.sign(t, other.at(9))), 404},
		"no trusted signature":                   {l.bundle(t, 8, 9, l.sign(t, l.at(9), stranger)), 403},
		"bad signature beside a good one":        {l.bundle(t, 8, 9, badSig(l.at(9))), 403},
		"no trusted signature and old too large": {l.bundle(t, 10, 9, l.sign(t, l.at(9), stranger)), 403},
		"old too large":                          {l.bundle(t, 10, 9, l.sign(t, l.at(9))), 400},
		"old too large and not the last":         {l.bundle(t, 8, 7, l.sign(t, l.at(7))), 400},
		"old 0":                                  {l.request(t, 0, 9), 409},
		"old too small":                          {l.request(t, 7, 9), 409},
		"old larger than the last":               {l.request(t, 9, 10), 409},
		"smaller checkpoint":                     {l.request(t, 5, 7), 409},
		"old 0 and empty tree of another root":   {proof(0, 0, l.sign(t, emptyRoot, l.keys[0])), 409},
		"old 0 and another root of the size":     {proof(0, 0, l.sign(t, wrongRoot)), 409},
		"same size, another root":                {proof(8, 0, l.sign(t, wrongRoot)), 422},
		"same size and a proof":                  {proof(8, 1, l.sign(t, l.at(8))), 422},
		"no proof":                               {proof(8, 0, l.sign(t, l.at(9))), 422},
		"wrong proof":                            {proof(8, 1, l.sign(t, l.at(9))), 422},
		"proof too long":                         {proof(8, 63, l.sign(t, l.at(9))), 422},
		"root of the empty tree":                 {proof(8, 0, l.sign(t, checkpoint.Checkpoint{Origin: l.origin, Size: 9, Root: checkpoint.EmptyRoot()}, l.keys[0])), 422},
	}
}

// TestStatusOfFirstContact holds the rules about old size 0.
func TestStatusOfFirstContact(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	w := inMemory(t, l)
	if e := w.wantRefused(t, l.request(t, 4, 5), http.StatusConflict); e.Size != 0 {
		t.Errorf("the conflict states size %d, want 0", e.Size)
	}
	bad := l.at(0)
	bad.Root[0] ^= 1
	w.wantRefused(t, l.bundle(t, 0, 0, l.sign(t, bad, l.keys[0])), http.StatusUnprocessableEntity)
	u := consistency.Bundle{Hashes: make([][32]byte, 1), Checkpoint: l.sign(t, l.at(5))}
	w.wantRefused(t, u.Append(nil), http.StatusUnprocessableEntity)
	w.add(t, l.request(t, 0, 0))
	w.add(t, l.request(t, 0, 5))
}

// TestTimeNeverGoesBack gives a witness a cosignature of its own from the future.
func TestTimeNeverGoesBack(t *testing.T) {
	l := newLog(t, testOrigin, testOrigin)
	for name, c := range map[string]struct {
		ahead time.Duration
		ok    bool
	}{"a little": {30 * time.Second, true}, "too far": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			w := inMemory(t, l)
			w.add(t, l.request(t, 0, 5))
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			future := uint64(time.Now().Add(c.ahead).Unix())
			if err := witness.Adopt(context.Background(), w.config(t), w.counter(), cosignedAt(t, l, l.at(6), future)); err != nil {
				t.Fatal(err)
			}
			w.open(t)
			lines, err := w.AddCheckpoint(context.Background(), l.request(t, 6, 9))
			if (err == nil) != c.ok {
				t.Fatalf("cosigning after a time of %v ahead: %v", c.ahead, err)
			}
			if c.ok && verifyLines(t, lines, l.at(9)) != future {
				t.Error("the time is not that of the last cosignature")
			}
		})
	}
}

// cosignedAt returns a checkpoint as the witness would have cosigned it at a time.
func cosignedAt(t testing.TB, l *testLog, c checkpoint.Checkpoint, at uint64) []byte {
	t.Helper()
	note := l.sign(t, c)
	for _, k := range signers(t) {
		s, err := k.Cosign(c, at)
		if err != nil {
			t.Fatal(err)
		}
		note = s.Append(note)
	}
	return note
}
