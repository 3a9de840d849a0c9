// Package feed is the log's side of tlog-witness: it asks the witnesses of a policy to
// cosign the checkpoints that the log has signed.
//
// A Feed keeps one state for each URL. Witnesses of the policy that share a URL, as one
// with an Ed25519 and an ML-DSA-44 key does, are asked once, and the lines of the answer
// are matched with all of their keys. At most one request is under way for each URL;
// different URLs are asked in parallel. A Feed may be used concurrently, but Cosign takes
// turns. Nothing is durable: which size each witness cosigned last is asked again after a
// restart.
//
// It is trusted to return only cosignatures that it has verified, each of a key of the
// policy and from that key's URL; to send no witness an older tree after a newer one, nor two
// trees of one size; and to send nothing but the log's own signatures. It trusts Tree to
// hold the tree that was signed. It does not trust witnesses: see below.
//
// # What an answer means
//
//   - 200 with good cosignatures: the witness has cosigned. Lines of keys that the policy does not
//     have for the URL are ignored; one false line of a key that it has, or one whose time is more
//     than 24 hours off, makes all of the answer worthless.
//   - 409 with a size of at most ours: the witness is behind, or an earlier answer was lost. It is asked
//     again at once from that size, three requests at most in all.
//   - 409 with any other body, with a larger size, or with the size that was just sent, and 422:
//     a contradiction. A 422 to a size that this process only remembered is asked about once more
//     with old size 0, because the witness's state may have been replaced.
//   - 403 and 404: the witness does not serve the log; asked again after 10 s, then less and less
//     often, down to every 10 minutes.
//   - 429, 503, all else, and no answer: asked again after 100 ms, then less and less often, down
//     to every 30 s, or when the witness says, up to an hour. Redirects are not followed.
//
// A request under way is not cut short when the quorum is met without it, and not doubled.
//
// # Who is asked when
//
// With a Grace every witness is asked at once and waited for, but one that was later than the
// grace is not waited for until it was in time again. Without, as is the default, those are asked
// first that are enough for the quorum: the ones with no request under way, the quickest of
// them. The others are spare: asked when one of the first fails or takes long, else once the
// quorum is met, for the newest checkpoint and every SpareInterval at most. What they answer
// is in Gathered. So nobody waits for them, and under load they are not asked as often as the
// log publishes. One that fails is asked again like every other.
//
// # What a witness can do
//
// A witness can be silent, slow, or answer anything. It then counts as not having
// cosigned, the reason stands in Status, and it is asked again after a delay that grows.
//
// A witness can contradict the log: its answer says that it cosigned a tree which ours does not
// extend. Then somebody is wrong, and asking again cannot help. If the witness's monitoring
// endpoint shows a checkpoint that this log's own keys signed and that does not fit our
// tree, the log has two histories: the channel Conflict is closed and nothing more is asked.
// Without such a checkpoint the witness alone is not asked again by this process: a witness
// that is faulty, or lies, must not be able to stop a log whose quorum does not need it.
package feed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// Defaults of Config.
const (
	// DefaultTimeout is how long one request may take.
	DefaultTimeout = 5 * time.Second
	// SpareInterval is the least time between two requests to a witness that the quorum
	// could do without. A busy log replaces what such a witness cosigned before anyone has
	// fetched it; at rest it is asked at once.
	SpareInterval = 100 * time.Millisecond
	// startGrace is how long Start waits for witnesses that it could do without.
	startGrace = 20 * time.Millisecond
)

// Tree gives consistency proofs of the log's tree.
type Tree interface {
	// Consistency returns the RFC 6962 consistency proof between two sizes, from <= to,
	// from stored nodes; empty when from is 0 or equals to.
	Consistency(ctx context.Context, from, to uint64) ([][32]byte, error)
}

// Config is what a Feed is made of.
type Config struct {
	// Origin names the log; Policy must know its keys.
	Origin string
	// Policy holds the witnesses, their URLs and the quorum. Witnesses without a URL are
	// never asked. Nobody may change it while the Feed is open.
	Policy *policy.Policy
	// Tree is the log's tree.
	Tree Tree
	// Timeout is how long one request may take, its answer included; 0 means DefaultTimeout.
	Timeout time.Duration
	// Grace is how long Cosign waits for the remaining witnesses once the quorum is met. With
	// 0 it does not, and asks first only as many as the quorum needs.
	Grace time.Duration
	// PerDay is how many add-checkpoint requests a witness takes a day ("qpd" of the
	// witness network), by its name in the policy; without an entry there is no limit. Up to
	// an hour's share may be used at once. For witnesses of one URL the smallest counts.
	PerDay map[string]uint32
	// Logger takes what changes: witnesses that fail and recover, contradictions. nil
	// discards it.
	Logger *slog.Logger
	// Transport sends the requests; nil means one of the Feed's own, with HTTP/1.1
	// connections kept open and HTTP/2 over TLS.
	Transport http.RoundTripper
}

// Feed asks the witnesses of one log.
type Feed struct {
	origin  string
	path    string // of the log's checkpoint at a monitoring endpoint
	logKeys []checkpoint.VerifierKey
	policy  *policy.Policy
	tree    Tree
	timeout time.Duration
	grace   time.Duration
	log     *slog.Logger
	client  *http.Client
	metrics *metrics

	// endpoints are in the order of their first witness in the policy.
	endpoints []*endpoint

	// cosigning is held by Cosign.
	cosigning sync.Mutex
	// latest is the last call of Cosign that met the quorum, nil before; more tells of
	// cosignatures that came after it returned.
	latest atomic.Pointer[call]
	more   chan struct{}
	// endSpare ends the asking of spare witnesses for the last call; guarded by cosigning.
	endSpare func()
	// ctx ends with Close; running counts the goroutines that end then. Those that have nothing
	// to do take more from idle.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	idle    chan func()

	conflict chan struct{}

	mu     sync.Mutex
	closed bool
	// newest is the largest checkpoint that witnesses were asked about, ours its note;
	// ours is nil before the first.
	newest checkpoint.Checkpoint
	ours   []byte
	proof  *ConflictError
}

// ErrClosed is what Cosign and Start return after Close.
var ErrClosed = errors.New("witness/feed: closed")

// New returns a Feed. It asks nobody yet.
//
// It refuses a policy whose quorum the witnesses with a URL cannot meet, URLs that are not
// plain http or https prefixes, a policy that does not know the log's keys, and limits that
// name no witness or allow no request.
func New(c Config) (*Feed, error) {
	if c.Policy == nil || c.Tree == nil {
		return nil, errors.New("witness/feed: policy or tree is missing")
	}
	if c.Timeout < 0 || c.Grace < 0 {
		return nil, errors.New("witness/feed: negative timeout or grace")
	}
	hash := sha256.Sum256([]byte(c.Origin))
	f := &Feed{
		origin: c.Origin, path: "/" + hex.EncodeToString(hash[:]) + "/checkpoint",
		logKeys: c.Policy.LogKeys(c.Origin), policy: c.Policy, tree: c.Tree,
		timeout: c.Timeout, grace: c.Grace, log: c.Logger,
		metrics: newMetrics(), conflict: make(chan struct{}), more: make(chan struct{}, 1), endSpare: func() {},
		idle: make(chan func()),
	}
	if len(f.logKeys) == 0 {
		return nil, fmt.Errorf("witness/feed: the policy knows no key of log %q", c.Origin)
	}
	if f.timeout == 0 {
		f.timeout = DefaultTimeout
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if err := f.addEndpoints(c.PerDay); err != nil {
		return nil, err
	}
	f.client = newClient(c.Transport)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// addEndpoints makes the state of each URL.
func (f *Feed) addEndpoints(perDay map[string]uint32) error {
	byURL := make(map[string]*endpoint)
	askable := make(map[string]bool)
	limits := len(perDay)
	for i, w := range f.policy.Witnesses {
		limit, limited := perDay[w.Name]
		if limited {
			limits--
		}
		if limited && (limit == 0 || w.URL == "") {
			return fmt.Errorf("witness/feed: witness %q has a limit of %d requests a day and the URL %q: it could never be asked", w.Name, limit, w.URL)
		}
		if w.URL == "" {
			continue
		}
		prefix, err := cleanURL(w.URL)
		if err != nil {
			return fmt.Errorf("witness/feed: URL of witness %q: %w", w.Name, err)
		}
		e := byURL[prefix]
		if e == nil {
			e = &endpoint{f: f, url: prefix, slot: make(chan struct{}, 1)}
			byURL[prefix] = e
			f.endpoints = append(f.endpoints, e)
		}
		e.members = append(e.members, &member{Witness: w, index: i})
		if limited {
			e.budget.limit(limit)
		}
		askable[w.Name] = true
	}
	if limits > 0 {
		return errors.New("witness/feed: the limits of requests a day name a witness that the policy does not know")
	}
	if !f.policy.Satisfied(askable) {
		return errors.New("witness/feed: the quorum cannot be met: too few of its witnesses have a URL in the policy")
	}
	for _, e := range f.endpoints {
		e.label = strings.ToValidUTF8(strings.Join(e.names(), ","), "�")
	}
	return nil
}

// cleanURL checks a submission prefix and returns it without slashes at its end.
func cleanURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", plain(err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q does not begin with http:// or https://", u.Redacted())
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", fmt.Errorf("%q is not just a scheme, a host and a path", u.Redacted())
	}
	return strings.TrimRight(s, "/"), nil
}

// start runs fn until it ends by itself, or soon after f.ctx does. It returns false, and
// runs nothing, after Close.
func (f *Feed) start(fn func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	select {
	case f.idle <- fn:
	default:
		f.running.Go(func() { f.work(fn) })
	}
	return true
}

// work runs fn and whatever comes after it until f.ctx ends. A goroutine that has verified
// signatures before has the stack for it: to grow that of a new one took a tenth of a request's
// time.
func (f *Feed) work(fn func()) {
	for {
		fn()
		select {
		case fn = <-f.idle:
		case <-f.ctx.Done():
			return
		}
	}
}

// Close ends the requests that are under way and the idle connections. Cosign and Start
// return an error from then on.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.running.Wait()
	f.client.CloseIdleConnections()
}

// admit checks that a checkpoint may be sent to witnesses, remembers it, and returns its
// note with the log's own signatures only.
func (f *Feed) admit(cp checkpoint.Checkpoint, note []byte) ([]byte, error) {
	stated, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint to be cosigned: %w", err)
	}
	if stated != cp || cp.Origin != f.origin {
		return nil, errors.New("witness/feed: the note to be cosigned states another checkpoint")
	}
	var own []checkpoint.Signature
	for _, s := range sigs {
		if s.Name == f.origin { // the name of the log's keys
			own = append(own, s)
		}
	}
	if len(own) == 0 {
		return nil, errors.New("witness/feed: the log has not signed the checkpoint to be cosigned")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, ErrClosed
	case f.proof != nil:
		return nil, f.proof
	case f.ours != nil && (cp.Size < f.newest.Size || cp.Size == f.newest.Size && cp.Root != f.newest.Root):
		return nil, fmt.Errorf("witness/feed: asking about size %d root %x after size %d root %x",
			cp.Size, cp.Root, f.newest.Size, f.newest.Root)
	}
	f.newest, f.ours = cp, checkpoint.AppendNote(nil, cp, own)
	return f.ours, nil
}
