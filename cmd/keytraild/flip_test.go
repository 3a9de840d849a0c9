package main_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
)

// named is what tells files of a class apart: numbers and hashes.
var named = regexp.MustCompile(`[0-9a-f][0-9a-f-]{15,}|[0-9]+`)

// flips is a directory of a stopped program of which copies are damaged.
type flips struct {
	t        *testing.T
	chance   *rand.Rand
	dir      string // as it was left, never opened again
	outcomes map[string]map[string]int
}

func newFlips(t *testing.T, dir string) *flips {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &flips{t: t, chance: rand.New(rand.NewPCG(seed, 0)), dir: dir, outcomes: make(map[string]map[string]int)}
}

// files are those of the directory by their class: the name without its numbers.
func (f *flips) files() map[string][]string {
	f.t.Helper()
	classes := make(map[string][]string)
	err := filepath.WalkDir(f.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() == 0 {
			return err // nothing in it can be wrong
		}
		rel, err := filepath.Rel(f.dir, path)
		class := named.ReplaceAllString(rel, "#")
		classes[class] = append(classes[class], rel)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return classes
}

// want fails the test when a class of files is not there.
func (f *flips) want(classes ...string) {
	f.t.Helper()
	have := f.files()
	for _, class := range classes {
		if len(have[class]) == 0 {
			f.t.Fatalf("there is no %s among %v: the test does not test", class, slices.Sorted(maps.Keys(have)))
		}
	}
}

// each calls try with copies of the directory in each of which one bit is flipped, in the
// files of all classes in turn, until each class has been met rounds times. In make test it is a
// few of the classes.
func (f *flips) each(rounds int, try func(class, copied, what string) (outcome string)) {
	f.t.Helper()
	classes := f.files()
	names := slices.Sorted(maps.Keys(classes))
	if !long() {
		f.chance.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:min(4, len(names))]
	}
	for range rounds {
		for _, class := range names {
			rel := classes[class][f.chance.IntN(len(classes[class]))]
			copied := filepath.Join(f.t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(f.dir)); err != nil {
				f.t.Fatal(err)
			}
			if err := private(copied); err != nil {
				f.t.Fatal(err)
			}
			what := f.flip(filepath.Join(copied, rel))
			outcome := try(class, copied, rel+", "+what)
			if f.outcomes[class] == nil {
				f.outcomes[class] = make(map[string]int)
			}
			f.outcomes[class][outcome]++
			if err := os.RemoveAll(copied); err != nil {
				f.t.Fatal(err)
			}
			if f.t.Failed() {
				f.t.Fatalf("the case was %s, %s: %s", rel, what, outcome)
			}
		}
	}
	for _, class := range slices.Sorted(maps.Keys(f.outcomes)) {
		f.t.Logf("%-28s %v", class, f.outcomes[class])
	}
}

// flip flips one bit of a file: anywhere, or where files begin and end.
func (f *flips) flip(path string) (what string) {
	f.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	at := f.chance.IntN(len(b))
	switch f.chance.IntN(6) {
	case 0:
		at = f.chance.IntN(min(len(b), 100))
	case 1:
		at = len(b) - 1 - f.chance.IntN(min(len(b), 100))
	}
	bit := byte(1) << f.chance.IntN(8)
	b[at] ^= bit
	if err := os.WriteFile(path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return fmt.Sprintf("bit %#02x of byte %d of %d", bit, at, len(b))
}

// TestFlippedLog flips a bit in every class of files that a stopped log has, its keys, policy and
// configuration among them. keytrail fsck finds it and names a place, where it is the store's; the
// server does not start and says why, or serves nothing but what was recorded, and signs
// nothing but what extends what it had signed. Nothing panics.
func TestFlippedLog(t *testing.T) {
	t.Parallel()
	c := successor(t)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial}
	fill := func() {
		l.bulk = 4 << 10
		before := l.acks.Load()
		whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > before+600 })
	}
	fill()
	c.log.stop()
	c.log.mustStart()
	fill()
	auditCluster(c, l.book, true)
	c.log.stop()
	if out, status := fsck(t, c.logDir()); status != 0 {
		t.Fatalf("fsck before any damage: %d\n%s", status, out)
	}
	rounds := 1
	if long() {
		rounds = 5
	}
	f := newFlips(t, c.logDir())
	f.want("store/db/tree/#.sst", "store/db/cells/#.sst", "store/mark", "signer/ledger", "index/events-#", "index/manifest",
		"keys/ed#.key", "policy", "config.yaml", "predecessor.statement")
	f.each(rounds, func(class, copied, what string) string {
		out, status := fsck(t, copied)
		found := "fsck finds it"
		switch {
		case status == 0:
			found = "fsck finds nothing"
			if strings.HasSuffix(class, ".sst") && strings.HasPrefix(class, "store/") {
				t.Errorf("fsck finds nothing wrong with a table of the store")
			}
		case len(strings.TrimSpace(out)) == 0:
			t.Errorf("fsck ends with status %d and says nothing", status)
		case strings.HasPrefix(class, "store/") && !strings.Contains(out, "store") && !strings.Contains(out, "entry") && !strings.Contains(out, "entries"):
			t.Errorf("fsck names no place:\n%s", out)
		}
		twin := *c
		twin.log = c.server(copied)
		outcome := twin.judge(t, l.book)
		if derived := strings.HasPrefix(class, "index/") || strings.HasPrefix(class, "views/"); derived && outcome != works {
			if again := twin.judge(t, l.book); again != works {
				t.Errorf("it %s, and when it has been started again it %s", outcome, again)
			}
			outcome += ", then " + works
		} else if outcome == doesNotStart && status == 0 {
			t.Errorf("fsck finds nothing, and the server does not start:\n%s", tail(twin.log.lastSaid(), 2000))
		}
		return found + ", " + outcome
	})
}

// Outcomes of a start on damaged files.
const (
	works        = "works"
	doesNotStart = "does not start"
)

// successor makes a log that continues another one, so that its directory has all files that
// a log's can have.
func successor(t *testing.T) *cluster {
	t.Helper()
	old := newCluster(t, 0)
	old.log.mustStart()
	cl := old.dial()
	defer cl.Close()
	var newest []byte
	if err := os.CopyFS(old.logDir()+".copy", os.DirFS(old.logDir())); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := cl.Append(t.Context(), &rpc.AppendRequest{Event: newEvent(uint64(i), i), Wait: rpc.Wait_WAIT_PUBLISHED}); err != nil {
			t.Fatal(err)
		}
	}
	res, err := cl.GetCheckpoint(t.Context(), &rpc.GetCheckpointRequest{})
	if err != nil {
		t.Fatal(err)
	}
	newest = res.GetCheckpoint()
	old.log.stop()
	// The store is lost but for its beginning.
	store := filepath.Join(old.logDir(), "store")
	err = os.RemoveAll(store)
	if err == nil {
		err = os.CopyFS(store, os.DirFS(filepath.Join(old.logDir()+".copy", "store")))
	}
	if err == nil {
		err = private(store)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(old.dir, "newest"), newest, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{tb: t, dir: filepath.Join(old.dir, "next")}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.run("keytrail", "recover", "--dir", old.logDir(), "--successor", c.logDir(), "--last-checkpoint", filepath.Join(old.dir, "newest"))
	d, err := logdir.Load(c.logDir())
	if err != nil {
		t.Fatal(err)
	}
	if c.policy, err = policy.Parse([]byte(d.Policy)); err != nil {
		t.Fatal(err)
	}
	c.log = c.server(c.logDir())
	return c
}

// judge starts a log that may be damaged and holds what it serves and signs against the book.
// It says how it came out.
func (c *cluster) judge(t *testing.T, b *book) string {
	t.Helper()
	defer c.log.kill()
	if err := c.log.start(); err != nil {
		if len(strings.TrimSpace(c.log.lastSaid())) == 0 {
			t.Errorf("it does not start and does not say why: %v", err)
		}
		return doesNotStart
	}
	cl := c.dial()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.audit(ctx, cl, true); err != nil {
		return refusal(t, "refuses to be read", err)
	}
	if err := c.lists(ctx, b); err != nil {
		return refusal(t, "refuses to list", err)
	}
	// What it signs next extends what it had signed.
	ev, n := newEvent(9_000_000, 1), uint64(len(b.events))
	res, err := cl.Append(ctx, &rpc.AppendRequest{Event: ev, Wait: rpc.Wait_WAIT_PUBLISHED})
	if err != nil {
		return refusal(t, "refuses to write", err)
	}
	if r, err := verify.Receipt(res.GetAck().GetReceipt(), c.policy); err != nil || r.Entry.Index != n {
		t.Errorf("the receipt after the damage: entry %+v, %v", r, err)
	}
	b.fresh[n] = struct{}{}
	err = b.prove(ctx, cl, n)
	delete(b.fresh, n)
	if err != nil {
		return refusal(t, "refuses to prove", err)
	}
	c.log.signal(syscall.SIGTERM)
	if !c.log.wait(time.Minute) {
		t.Errorf("it does not end")
	}
	return works
}

// refusal is the outcome of a call that failed, which must not look like the caller's fault.
func refusal(t *testing.T, what string, err error) string {
	t.Helper()
	t.Logf("%s: %v", what, err)
	switch code := status.Code(err); code {
	case codes.InvalidArgument, codes.AlreadyExists, codes.Unimplemented, codes.PermissionDenied:
		t.Errorf("a good request was refused: %v", err)
	default:
	}
	return what
}

// lists reads all entries as the views have them and compares them with the book.
func (c *cluster) lists(ctx context.Context, b *book) error {
	cl := c.dial()
	defer cl.Close()
	req := &rpc.ListEntriesRequest{PageSize: 1000}
	seen := uint64(0)
	for {
		page, err := cl.ListEntries(ctx, req)
		if err != nil {
			return err
		}
		for _, e := range page.GetEntries() {
			s := b.events[b.owner[seen]]
			if e.GetIndex() != seen || s == nil || !proto.Equal(e.GetKeyEvent(), s.event) {
				c.tb.Errorf("entry %d is listed as %v", seen, e)
				return nil
			}
			seen++
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if seen > uint64(len(b.events)) {
		c.tb.Errorf("%d entries of %d are listed", seen, len(b.events))
	}
	return nil
}

// TestFlippedWitness flips a bit in every class of files that a stopped witness has. It does
// not start and says why, or it remembers the log as it was: it cosigns no other tree of
// the size, and goes on with the log.
func TestFlippedWitness(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.log.mustStart()
	l := &load{book: newBook(t, c.policy), dial: c.dial, witnessed: true}
	whileFaulty(l, 10*time.Second, func() bool { return l.acks.Load() > 200 })
	auditCluster(c, l.book, true)
	c.showFork(t, c.witnesses[0].addr["http"], true) // for which it keeps evidence
	c.stop()
	d, err := logdir.Load(c.logDir())
	if err != nil {
		t.Fatal(err)
	}
	rounds := 1
	if long() {
		rounds = 12
	}
	size := uint64(len(l.book.events))
	f := newFlips(t, filepath.Join(c.dir, "w0"))
	f.want("store/db/cells/#.sst", "store/mark", "counter", "keys/ed#.key", "evidence/#.json")
	f.each(rounds, func(_, copied, what string) string {
		w := newServer(t, "keytrail-witness", copied+".stderr", map[string]string{"http": "--listen"}, "--dir", copied, "--log-level", "warn")
		defer w.kill()
		if err := w.start(); err != nil {
			if len(strings.TrimSpace(w.lastSaid())) == 0 {
				t.Errorf("%s: it does not start and does not say why: %v", what, err)
			}
			return doesNotStart
		}
		twin := *c
		twin.witnesses = []*server{w}
		twin.witnessed(0, l.book)
		if status := twin.showFork(t, w.addr["http"], false); status == http.StatusOK {
			t.Errorf("%s: a second tree of %d entries was cosigned", what, size)
		}
		outcome := works
		if status := c.ask(t, w.addr["http"], size, sameNote(t, l.book, d, size)); status != http.StatusOK {
			outcome = fmt.Sprint("answers ", status)
		}
		return outcome
	})
}

// sameNote signs the log's own tree again.
func sameNote(t *testing.T, b *book, d *logdir.Dir, size uint64) []byte {
	t.Helper()
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: d.Config.Origin, Size: size, Root: b.roots[size]}, time.Now(), d.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// showFork shows a witness another tree of the size that it cosigned last, signed with the
// log's keys, and returns the status of its answer.
func (c *cluster) showFork(t *testing.T, addr string, refused bool) int {
	t.Helper()
	d, err := logdir.Load(c.logDir())
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(fmt.Sprintf("http://%s/%x/checkpoint", addr, sha256.Sum256([]byte(d.Config.Origin))))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	held, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		return res.StatusCode
	}
	cp, _, err := checkpoint.ParseNote(held)
	if err != nil {
		t.Fatalf("a witness serves %q: %v", held, err)
	}
	cp.Root[7] ^= 1
	note, err := checkpoint.SignNote(cp, time.Now(), d.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	status := c.ask(t, addr, cp.Size, note)
	if refused && (status == http.StatusOK || status >= 500) {
		t.Errorf("a fork is answered with %d", status)
	}
	return status
}

// ask asks a witness to cosign a checkpoint of a size that it should know.
func (c *cluster) ask(t *testing.T, addr string, old uint64, note []byte) int {
	t.Helper()
	res, err := http.Post("http://"+addr+"/add-checkpoint", "text/plain", strings.NewReader(fmt.Sprintf("old %d\n\n%s", old, note)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}
