package log_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/witness/feed"
)

// witnesses starts n witnesses for the log of d and demands k of them.
func witnesses(t *testing.T, d *logtest.Dir, k, n int) []*logtest.Witness {
	t.Helper()
	var ws []*logtest.Witness
	for range n {
		ws = append(ws, logtest.NewWitness(t, d, "witness.test/"+string(rune('a'+len(ws)))))
	}
	d.WithPolicy(logtest.Policy(t, d, k, ws...))
	return ws
}

// cosigned verifies a checkpoint as a client does and returns the witnesses that cosigned.
func cosigned(t *testing.T, note []byte, p *policy.Policy) *verify.Signed {
	t.Helper()
	s, err := verify.Checkpoint(note, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func policyOf(d *logtest.Dir) *policy.Policy {
	var c log.Config
	d.Change(&c)
	return c.Policy
}

func TestPublishesWhatTheQuorumCosigned(t *testing.T) {
	d := logtest.NewDir(t)
	witnesses(t, d, 2, 3)
	l := logtest.Open(t, d, memstore.New())
	for i := range 5 {
		res := l.Append1(t, logtest.Event(i, "k"))
		pub := l.AwaitPublished(t, res.Index+1)
		if got := cosigned(t, pub.Note, policyOf(d)); len(got.Cosignatures) < 4 {
			t.Errorf("%d cosignatures, want both of two witnesses at least", len(got.Cosignatures))
		}
		r, err := l.Receipt(t.Context(), res.Index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify.Receipt(r, policyOf(d)); err != nil {
			t.Errorf("receipt of entry %d: %v", res.Index, err)
		}
	}
	if got := l.Witnesses(); len(got) != 3 || len(got[0].Names) != 2 {
		t.Errorf("status of the witnesses: %+v", got)
	}
}

// TestPublicationWaits takes the quorum away and brings it back: appends go on, nothing
// that was not cosigned is shown, and the log catches up by itself.
func TestPublicationWaits(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 2, 3)
	l := logtest.Open(t, d, memstore.New())
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	ws[0].Down()
	l.Append1(t, logtest.Event(1, "k"))
	l.AwaitPublished(t, 2) // two are enough
	ws[1].Down()
	for i := 2; i < 20; i++ {
		if res := l.Append1(t, logtest.Event(i, "k")); res.Index != uint64(i) {
			t.Fatalf("event %d has index %d", i, res.Index)
		}
	}
	waitFor(t, "a problem that is shown", func() bool { return l.Problem() != "" })
	if pub := l.Published(); pub.Size != 2 || l.DurableSize() != 20 {
		t.Fatalf("published %d, durable %d, want 2 and 20", pub.Size, l.DurableSize())
	}
	if _, err := l.Receipt(t.Context(), 19); !errors.Is(err, log.ErrUnpublished) {
		t.Errorf("receipt of what no quorum cosigned: %v", err)
	}
	ws[1].Up()
	cosigned(t, l.AwaitPublished(t, 20).Note, policyOf(d))
	waitFor(t, "the problem's end", func() bool { return l.Problem() == "" })
	ws[0].Up()
	waitFor(t, "the first witness to catch up", func() bool {
		l.Append1(t, logtest.Event(int(l.DurableSize()), "k"))
		return ws[0].Logs()[0].Size > 19
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long for ", what)
		}
	}
}

// TestStartRefusesBelowWitnesses restores store and ledger of an earlier day: only the
// witnesses know that the log was larger.
func TestStartRefusesBelowWitnesses(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 2, 3)
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "store"), filepath.Join(dir, "backup")
	s, err := pebblestore.Create(path, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	stop(t, l, s)
	ledgerThen := d.ReadLedger(t)
	if err := os.CopyFS(backup, os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	l = logtest.Open(t, d, s)
	for i := 1; i < 8; i++ {
		l.Append1(t, logtest.Event(i, "k"))
	}
	l.AwaitPublished(t, 8)
	waitFor(t, "witnesses that the quorum did not need", func() bool {
		return ws[0].Logs()[0].Size == 8 && ws[1].Logs()[0].Size == 8
	})
	stop(t, l, s)

	restored := d.WithLedger(t, ledgerThen)
	old := open(t, backup)
	defer old.Close()
	ws[2].Down() // two of three are enough to know
	_, err = logtest.TryOpen(t, restored, old)
	var refused *log.RefusalError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "8 entries") || !strings.Contains(err.Error(), "keytrail recover") {
		t.Fatalf("opening the restored backup: %v", err)
	}
	for _, w := range ws[:2] {
		if size := w.Logs()[0].Size; size != 8 {
			t.Errorf("witness %s has size %d", w.URL, size)
		}
	}
	// With the newer ledger and store it opens.
	s = open(t, path)
	defer s.Close()
	logtest.Open(t, d, s).AwaitPublished(t, 8)
}

func open(t *testing.T, path string) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(path, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, l *logtest.Log, s storage.Store) {
	t.Helper()
	if err := errors.Join(l.Stop(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestStartWithoutWitnesses opens while too few witnesses answer to know that nothing was
// set back: appends are taken, nothing is signed before they answer.
func TestStartWithoutWitnesses(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 2, 3)
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	before := d.ReadLedger(t)
	ws[0].Down()
	ws[1].Down()
	l = logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(1, "k"))
	if l.Problem() == "" || l.Published().Size != 1 {
		t.Errorf("published %d, problem %q", l.Published().Size, l.Problem())
	}
	if string(d.ReadLedger(t)) != string(before) {
		t.Error("a larger tree was signed before the witnesses were asked")
	}
	ws[0].Up()
	l.AwaitPublished(t, 2)
}

// TestPolicyRaised demands witnesses of a log that had none: what was published without
// them is not shown any more until they have cosigned.
func TestPolicyRaised(t *testing.T) {
	d := logtest.NewDir(t)
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	if l.Witnessed() {
		t.Error("a log without witnesses says it is witnessed")
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	ws := witnesses(t, d, 1, 1)
	ws[0].Down()
	l = logtest.Open(t, d, s)
	if pub := l.Published(); pub.Note != nil || pub.Size != 0 {
		t.Errorf("published without the quorum: %d entries", pub.Size)
	}
	if _, err := l.RootAt(t.Context(), 1); err != nil {
		t.Errorf("root that a view was made under: %v", err)
	}
	if _, err := l.RootAt(t.Context(), 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("root that nothing was published of: %v", err)
	}
	ws[0].Up()
	cosigned(t, l.AwaitPublished(t, 1).Note, policyOf(d))
}

// TestRefresh lets a log be idle: its checkpoint is signed and cosigned again.
func TestRefresh(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 1, 1)
	p := policyOf(d)
	d.Change = func(c *log.Config) { c.Policy, c.Refresh = p, 20*time.Millisecond }
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	first := l.AwaitPublished(t, 1)
	waitFor(t, "three further checkpoints", func() bool { return ws[0].Requests.Load() > 5 })
	again := l.Published()
	if again.Size != 1 || again.Root != first.Root || !again.At.After(first.At) {
		t.Errorf("checkpoint of %d entries at %v, first at %v", again.Size, again.At, first.At)
	}
	cosigned(t, again.Note, p)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	logtest.Check(t, d, s)
}

// TestStopWithoutWitnesses stops a log whose witnesses hang: soon, with nothing lost.
func TestStopWithoutWitnesses(t *testing.T) {
	d := logtest.NewDir(t)
	ws := witnesses(t, d, 1, 1)
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	ws[0].Hang()
	l.Append1(t, logtest.Event(1, "k"))
	ended := make(chan error, 1)
	go func() { ended <- l.Stop() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the log does not stop")
	}
	ws[0].Up()
	logtest.Open(t, d, s).AwaitPublished(t, 2)
}

// TestSecondProcessWithTheKeys runs a second log with the same keys and witnesses on a copy
// of the store: a witness proves to one of them that the other exists.
func TestSecondProcessWithTheKeys(t *testing.T) {
	d := logtest.NewDir(t)
	witnesses(t, d, 1, 1)
	p := policyOf(d)
	d.Change = func(c *log.Config) { c.Policy, c.Witness = p, feed.Config{Grace: time.Millisecond} }
	a := logtest.Open(t, d, memstore.New())
	b := logtest.Open(t, d.WithLedger(t, d.ReadLedger(t)), memstore.New())
	a.Append1(t, logtest.Event(0, "k"))
	a.AwaitPublished(t, 1)
	b.Append1(t, logtest.Event(1, "k")) // another tree of one entry
	err := b.Wait(t)
	var refused *log.RefusalError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("the second log ended with %v", err)
	}
	if b.Published().Size != 0 {
		t.Error("the second log published a fork")
	}
	if _, err := a.Append(context.Background(), "", []log.Event{logtest.Prepare(t, logtest.Event(2, "k"))}); err != nil {
		t.Errorf("the first log: %v", err)
	}
	a.AwaitPublished(t, 2)
}

// tokenKey is a key in a token that can be pulled out.
type tokenKey struct {
	ed25519.PrivateKey
	away atomic.Bool
}

func (k *tokenKey) Sign(r io.Reader, msg []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.away.Load() {
		return nil, errors.New("token is not present")
	}
	return k.PrivateKey.Sign(r, msg, o)
}

// TestKeyAway takes a signing key away for a while: appends go on, and what they appended is
// published when it is back.
func TestKeyAway(t *testing.T) {
	d := logtest.NewDir(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := checkpoint.NewVerifierKey(logtest.Origin, checkpoint.TypeEd25519, public)
	if err != nil {
		t.Fatal(err)
	}
	token := &tokenKey{PrivateKey: private}
	key, err := checkpoint.NewSignerFrom(vkey, token)
	if err != nil {
		t.Fatal(err)
	}
	d.Signers = append(d.Signers, key)
	s := memstore.New()
	l := logtest.Open(t, d, s)
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	token.away.Store(true)
	l.Append1(t, logtest.Event(1, "k"))
	waitFor(t, "a problem that is shown", func() bool { return strings.Contains(l.Problem(), "token is not present") })
	l.Append1(t, logtest.Event(2, "k"))
	if size := l.Published().Size; size != 1 {
		t.Errorf("published %d without the key", size)
	}
	token.away.Store(false)
	l.AwaitPublished(t, 3)
	token.away.Store(true)
	l.Append1(t, logtest.Event(3, "k"))
	if err := l.Stop(); err != nil {
		t.Errorf("stopping without the key: %v", err)
	}
	token.away.Store(false)
	logtest.Open(t, d, s).AwaitPublished(t, 4)
	logtest.Check(t, d, s)
}

// TestNothingIsSignedWhileWaiting uses a witness's day up: until it can be asked again, in
// an hour, appends go on and the ledger stays where it is.
func TestNothingIsSignedWhileWaiting(t *testing.T) {
	d := logtest.NewDir(t)
	witnesses(t, d, 1, 1)
	p := policyOf(d)
	d.Change = func(c *log.Config) {
		c.Policy, c.Witness = p, feed.Config{PerDay: map[string]uint32{"w1.1": 24}}
	}
	l := logtest.Open(t, d, memstore.New())
	l.Append1(t, logtest.Event(0, "k"))
	l.AwaitPublished(t, 1)
	l.Append1(t, logtest.Event(1, "k"))
	waitFor(t, "a problem that is shown", func() bool { return l.Problem() != "" })
	before := d.ReadLedger(t)
	for i := 2; i < 12; i++ {
		l.Append1(t, logtest.Event(i, "k"))
		time.Sleep(10 * time.Millisecond) // a log that waits for nothing signs in this time
	}
	if string(d.ReadLedger(t)) != string(before) {
		t.Error("trees were signed that no witness could be asked about")
	}
	if l.Published().Size != 1 || l.DurableSize() != 12 {
		t.Errorf("published %d, durable %d", l.Published().Size, l.DurableSize())
	}
}
