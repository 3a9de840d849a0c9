package main_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/checkpoint"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// modelRun is how much TestModelService does.
type modelRun struct {
	// steps are those of all sequences together, length those of one.
	steps, length int
	// rare is how many steps there are to one restart or fault.
	rare int
	// beside is how many sequences run at the same time, as far as go test's -parallel allows.
	beside int
}

// newModelRun says how much was asked for: starting a log takes longer than a hundred steps,
// so that the short form has few of them.
func newModelRun(t *testing.T) modelRun {
	t.Helper()
	if s := os.Getenv("KEYTRAIL_STEPS"); s != "" {
		steps, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("KEYTRAIL_STEPS: %v", err)
		}
		return modelRun{steps: steps, length: 1000, rare: 60, beside: 6}
	}
	if long() {
		return modelRun{steps: 50_000, length: 1000, rare: 60, beside: 6}
	}
	return modelRun{steps: 300, length: 100, rare: 20, beside: 1}
}

// TestModelService drives the service over gRPC with operations and faults left to chance
// and compares every answer with a plain slice: appends in each form, new, sent before, with
// other content, malformed; entries, lists, histories, receipts, consistency proofs; clean
// stops, lost indexes and views, store writes that fail, done or not, power loss with requests
// under way, second servers. The log, its index and its views are those of keytraild, on a
// crashable file system in memory. KEYTRAIL_STEPS says how many operations (make soak: a million).
func TestModelService(t *testing.T) {
	t.Parallel()
	run := newModelRun(t)
	checks := (run.steps + run.length*run.beside - 1) / (run.length * run.beside)
	if testing.Short() {
		checks *= 5 // of which rapid does a fifth
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(checks)); err != nil {
		t.Fatal(err)
	}
	c := newModelCounts(run.steps)
	stop := c.progress(t)
	signers := logtest.NewDir(t).Signers
	t.Run("sequences", func(t *testing.T) {
		for i := range run.beside {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				rapid.Check(t, func(rt *rapid.T) { modelSequence(t, rt, signers, run, c) })
			})
		}
	})
	stop()
	t.Log(c)
	if t.Failed() {
		return
	}
	if n := c.left(); n > 0 {
		t.Errorf("%d steps are missing", n)
	}
	if run.steps < 10_000 {
		return
	}
	for _, kind := range c.missing() {
		t.Errorf("there was no %s", kind)
	}
}

// modelSequence is one log from its creation on.
func modelSequence(tb testing.TB, rt *rapid.T, signers []*checkpoint.SignerKey, run modelRun, c *modelCounts) {
	dir := &logtest.Dir{Path: modelDir(rt), Signers: signers}
	if err := ledger.Create(dir.Ledger(), logtest.Origin); err != nil {
		rt.Fatal(err)
	}
	m := newServiceModel(tb, rt, dir)
	m.open()
	defer func() { m.close() }()
	for range run.length {
		c.count(m.step(run.rare))
	}
	m.compare()
}

// modelDir makes a directory for what is no file in memory, which is the ledger: in memory, too,
// where there is such a file system.
func modelDir(t *rapid.T) string {
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "keytrail-model-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// modelCounts counts the steps of all sequences by their kind.
type modelCounts struct {
	steps int
	begin time.Time

	mu    sync.Mutex
	total int
	kinds map[string]int
}

func newModelCounts(steps int) *modelCounts {
	return &modelCounts{steps: steps, begin: time.Now(), kinds: make(map[string]int)}
}

// count counts a step of some kinds: what it did, and how it came out where that is chance.
func (c *modelCounts) count(kinds []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total++
	for _, k := range kinds {
		c.kinds[k]++
	}
}

// left is how many steps are to be done.
func (c *modelCounts) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.steps - c.total
}

// missing are kinds that there should have been.
func (c *modelCounts) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, kind := range slices.Concat(modelOperations(), modelFaults(), modelOutcomes()) {
		if c.kinds[kind] == 0 {
			out = append(out, kind)
		}
	}
	return out
}

func (c *modelCounts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := time.Since(c.begin)
	s := fmt.Sprintf("%d steps in %v, %.2f ms each:", c.total, took.Round(time.Second), took.Seconds()*1e3/float64(max(1, c.total)))
	for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
		s += fmt.Sprintf(" %s=%d", kind, c.kinds[kind])
	}
	return s
}

// progress says now and then how far it is, until the function that it returns is called.
func (c *modelCounts) progress(t *testing.T) (stop func()) {
	done := make(chan struct{})
	var saying sync.WaitGroup
	saying.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Minute):
				t.Log(c)
			}
		}
	})
	return func() {
		close(done)
		saying.Wait()
	}
}

// serviceModel is a served log and what it must hold.
type serviceModel struct {
	tb      testing.TB
	t       *rapid.T
	dir     *logtest.Dir
	fsys    *storagetest.SyncFS
	faults  *storagetest.Faults
	watched *logtest.Watched
	world   *logtest.History
	policy  *policy.Policy
	kinds   []string // what the step that is under way counts as

	log     *logtest.Log
	client  rpc.LogServiceClient
	close   func()
	number  int
	entries []modelEvent
	byID    map[int]int // event number -> index
	// places are those of entries in the histories of their keys, which are in histories.
	places    []keyPlace
	histories map[string][]int
	// seen are roots of trees that somebody has been shown, by size.
	seen map[int][32]byte
}

// newServiceModel makes an empty log, which is not open.
func newServiceModel(tb testing.TB, t *rapid.T, dir *logtest.Dir) *serviceModel {
	m := &serviceModel{
		tb: tb, t: t, dir: dir, fsys: storagetest.NewSyncFS(), world: logtest.NewHistory(),
		byID: make(map[int]int), histories: make(map[string][]int), seen: make(map[int][32]byte),
		policy: &policy.Policy{Quorum: policy.None},
	}
	for _, s := range dir.Signers {
		m.policy.Logs = append(m.policy.Logs, policy.Log{Key: s.VerifierKey()})
	}
	s, err := pebblestore.Create("store", m.storeOptions())
	m.must(err)
	m.must(s.Close())
	return m
}

func (m *serviceModel) must(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatal(err)
	}
}

// modelEvent is an event: its number makes its id and its key, its variant its content.
type modelEvent struct{ number, variant int }

// modelKeys is how many keys there are.
const modelKeys = 7

func (e modelEvent) key() string { return fmt.Sprint("key-", e.number%modelKeys) }

func (e modelEvent) event() *keytrailv1.KeyEvent {
	ev := logtest.Event(e.number, e.key())
	if e.variant != 0 {
		ev.Outcome = keytrailv1.Outcome_OUTCOME_DENIED
	}
	return ev
}

// draw picks one of a number of ways.
func (m *serviceModel) draw(n int, what string) int { return rapid.IntRange(0, n-1).Draw(m.t, what) }

// also says what else the step counts as.
func (m *serviceModel) also(kind string) { m.kinds = append(m.kinds, kind) }

// fresh draws a new event.
func (m *serviceModel) fresh() modelEvent {
	m.number++
	return modelEvent{number: m.number, variant: m.draw(5, "variant") / 4}
}

// some draws an event: a new one, or one that was sent before, perhaps with other content.
func (m *serviceModel) some() modelEvent {
	if m.number == 0 || m.draw(3, "new") > 0 {
		return m.fresh()
	}
	return modelEvent{number: 1 + m.draw(m.number, "old"), variant: m.draw(5, "variant") / 4}
}

// modelOperations are the kinds of steps, as often as they are done.
func modelOperations() []string {
	return []string{"append", "append", "batch", "batch", "stream", "malformed", "entry", "entry", "list", "history", "receipt", "consistency"}
}

// step does one operation, or once in so many a fault, and says what it was.
func (m *serviceModel) step(rare int) []string {
	from := modelOperations()
	if m.draw(rare, "rare") == rare/3 { // the ends of a range are drawn more often
		from = modelFaults()
	}
	kind := from[m.draw(len(from), "operation")]
	m.kinds = []string{kind}
	map[string]func(){
		"append": m.append, "batch": m.batch, "stream": m.stream, "malformed": m.malformed, "entry": m.entry,
		"list": m.list, "history": m.history, "receipt": m.receipt, "consistency": m.consistency,
		"restart": m.restart, "fault": m.fault, "power": m.power, "second": m.second,
	}[kind]()
	return m.kinds
}
