package log

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/keytrail/keytrail/log/index"
	"github.com/keytrail/keytrail/log/prove"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage"
)

// sequencer gives events their places: what extends the tree. It takes what has gathered
// while the last batch was synced, commits it, wakes the publisher, acknowledges it, and
// hands it on to the index and to the nodes kept for proofs. While a batch is being synced
// and much comes meanwhile, a second goroutine begins with the next one: its places, leaves
// and nodes.
//
// After a failed commit the frontier and recent are ahead of a store whose state is
// unknown; the sequencer then ends for good.
type sequencer struct {
	log   *Log
	rows  chan applyJob
	spare chan applyJob // memory of jobs that are done

	// mu guards what follows. writeBatches holds it, but while a batch is being committed
	// and acknowledged.
	mu sync.Mutex
	// head is what the next batch extends: the stored head, or the one that flight will make.
	head     storage.Head
	frontier frontier
	recent   recent
	keys     keyHeads
	clock    time.Time // of the newest record
	next     *batch    // is being made
	flight   *batch    // is being committed, or was last; it does not change
	failed   error     // why next cannot be written
}

// batch is a commit under construction. Payloads and leaves of its entries are slices of
// buffers that are used again.
type batch struct {
	old storage.Head
	filling
	records  []record.Record
	sources  []*Event // of the records
	salts    []byte
	payloads []byte
	ends     []int // where each payload ends in payloads
	leaves   []byte
	entries  []storage.Entry
	hashes   []prove.Hash // of the leaves
	nodes    []storage.Node
	groups   []prove.Hash // nodes over groups that the batch completes
}

// applyJob is one committed batch on its way into the index and the nodes.
type applyJob struct {
	rows   []index.Row
	cursor index.Cursor
	// leaves and groups are the batch's hashes and groups.
	leaves, groups []prove.Hash
}

// applyQueue is how many batches may wait for the index before the next batch waits for
// it.
const applyQueue = 4

func newSequencer(ctx context.Context, l *Log, head storage.Head) (*sequencer, error) {
	hashes, err := storage.Frontier(ctx, l.store, head)
	if err != nil {
		return nil, fmt.Errorf("loading the right edge of the tree: %w", err)
	}
	s := &sequencer{
		log: l, rows: make(chan applyJob, applyQueue), spare: make(chan applyJob, applyQueue),
		head: head, clock: head.Time, next: &batch{old: head}, flight: &batch{old: head},
	}
	s.frontier = frontier{size: head.Size, roots: make([]prove.Hash, len(hashes))}
	for i := range hashes {
		copy(s.frontier.roots[i][:], hashes[i])
	}
	s.recent, s.keys = newRecent(head.Size), newKeyHeads()
	return s, nil
}

// run writes batches until the pool is closed and empty, or a commit fails.
func (s *sequencer) run(ctx context.Context) error {
	applied := make(chan error, 1)
	go func() { applied <- s.applyRows() }()
	ahead := make(chan struct{})
	var helper sync.WaitGroup
	helper.Go(func() { s.workAhead(ctx, ahead) })
	err := s.writeBatches(ctx)
	close(ahead)
	helper.Wait()
	close(s.rows)
	if applyErr := <-applied; err == nil {
		err = applyErr
	}
	if err != nil {
		s.log.fail(err)
		s.refuseRest(err)
	}
	return err
}

func (s *sequencer) writeBatches(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.next.parts) > 0 || s.log.pool.wait() {
		b, next, err := s.seal(ctx)
		if err == nil {
			s.mu.Unlock()
			err = s.write(ctx, b, next)
			s.mu.Lock()
		}
		if err != nil {
			s.failed = fmt.Errorf("%w: %w", ErrStopped, err)
			b.finish(s.failed)
			s.next.finish(s.failed)
			return s.failed
		}
		s.recent.rotate(s.log.index.Applied(), s.head.Size+uint64(len(s.next.records)))
	}
	return nil
}

// seal completes the next batch with what waits, and returns it with the head that it makes.
func (s *sequencer) seal(ctx context.Context) (b *batch, next storage.Head, err error) {
	b = s.next
	if err = s.failed; err == nil {
		err = s.log.cause()
	}
	if err == nil {
		err = s.add(ctx, maxBatchEvents, maxBatchBytes)
	}
	if err != nil {
		return b, next, err
	}
	next = s.head
	if n := len(b.records); n > 0 {
		next = storage.Head{Size: s.frontier.size, Root: s.frontier.root(), Time: b.records[n-1].LoggedAt}
	}
	s.next, s.flight = s.flight, b
	s.next.reset(next)
	s.head = next
	return b, next, nil
}

// write commits a batch, unless all of it was in the log before, and acknowledges it.
func (s *sequencer) write(ctx context.Context, b *batch, next storage.Head) error {
	if len(b.records) == 0 {
		b.finish(nil)
		return nil
	}
	s.log.pool.allowAhead(true)
	defer s.log.pool.allowAhead(false)
	begin := time.Now()
	err := s.log.store.Commit(ctx, &storage.Batch{Old: b.old, Entries: b.entries, Nodes: b.nodes, New: next})
	if err != nil {
		return fmt.Errorf("committing %d entries at %d: %w", len(b.entries), b.old.Size, err)
	}
	s.log.durable.Store(next.Size)
	s.log.metrics.committed(len(b.entries), len(b.payloads), time.Since(begin))
	s.log.logger.DebugContext(ctx, "batch committed", slog.Int("entries", len(b.entries)), slog.Uint64("size", next.Size))
	s.log.pub.wake()
	job := b.job(s.spareJob(), index.Cursor{Size: next.Size, Root: next.Root})
	b.finish(nil)
	// The index may have to be waited for. The calls have their answers by then, and their
	// events may be gone.
	s.rows <- job
	s.giveWay()
	return nil
}

// mostTurns bounds how often the sequencer lets others run before it makes the next batch.
const mostTurns = 16

// giveWay lets those who can run go first, for as long as they bring events: who has an answer
// often has another one, and the next batch is larger. It waits for nobody who could not run.
func (s *sequencer) giveWay() {
	runtime.Gosched()
	had := s.log.pool.depth()
	for range mostTurns {
		runtime.Gosched()
		has := s.log.pool.depth()
		if has == had {
			return
		}
		had = has
	}
}

// What is made of the next batch while another one is being committed: half of it at most, so
// that a flood of one tenant leaves room for those who come last, and no more than a
// sixteenth of the pool. Steps are short, since the sequencer waits for one of them at most.
const (
	maxAheadEvents = maxBatchEvents / 2
	maxAheadBytes  = maxBatchBytes / 2
	maxAheadShare  = 16  // of Config.MaxPending
	aheadStep      = 256 // events
)

// workAhead makes parts of the next batch, when the pool says that it is worth it, until end
// is closed.
func (s *sequencer) workAhead(ctx context.Context, end <-chan struct{}) {
	for {
		select {
		case <-s.log.pool.plenty:
		case <-end:
			return
		}
		for s.log.pool.aheadWanted() && s.makeAhead(ctx) {
		}
	}
}

// makeAhead makes a step of the next batch, and says whether there may be another one.
func (s *sequencer) makeAhead(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := min(maxAheadEvents, s.log.cfg.MaxPending/maxAheadShare)
	had := len(s.next.parts)
	// A part that is larger than a step is a step by itself.
	for _, step := range []int{aheadStep, most} {
		if s.failed != nil || len(s.next.parts) > had {
			break
		}
		s.failed = s.add(ctx, min(s.next.events+step, most), maxAheadBytes)
	}
	return s.failed == nil && len(s.next.parts) > had
}

// add takes what waits into the next batch, up to so many events and bytes in all, and gives
// it its place in the tree.
func (s *sequencer) add(ctx context.Context, events, bytes int) error {
	b := s.next
	from := len(b.parts)
	b.maxEvents, b.maxBytes, b.full = events, bytes, false
	s.log.pool.take(&b.filling)
	if now := time.Now().UTC().Round(0); now.After(s.clock) {
		s.clock = now // never goes back along the log
	}
	first := len(b.records)
	for _, p := range b.parts[from:] {
		for i := range p.items {
			if err := s.place(ctx, p.call, &p.items[i]); err != nil {
				return err
			}
		}
	}
	if first == len(b.records) {
		return nil
	}
	b.encode(first)
	for i := first; i < len(b.hashes); i++ {
		b.nodes, b.groups = s.frontier.add(b.hashes[i], b.nodes, b.groups)
	}
	return nil
}

// finish answers the parts of a batch, and the calls that have no other part.
func (b *batch) finish(err error) {
	for i := range b.parts {
		c := b.parts[i].call
		b.parts[i] = part{}
		if err != nil {
			c.err = err
		}
		if c.parts--; c.parts == 0 {
			c.forget()
			close(c.done)
		}
	}
	b.parts = b.parts[:0]
}

// refuseRest answers the calls that no batch will take.
func (s *sequencer) refuseRest(err error) {
	for s.log.pool.wait() {
		b := &batch{filling: filling{maxEvents: maxBatchEvents, maxBytes: maxBatchBytes}}
		s.log.pool.take(&b.filling)
		b.finish(err)
	}
}

// place gives one event its record, or finds that it has one.
func (s *sequencer) place(ctx context.Context, c *Call, it *item) error {
	ev := it.event
	at, dup := s.recent.find(&ev.id)
	if !dup && it.seen < s.recent.floor() {
		var err error
		if at, dup, err = s.log.index.Event(&ev.id, (*entries)(s.log)); err != nil {
			return err
		}
	}
	if dup {
		return s.duplicate(ctx, c, it, at)
	}
	next := s.head.Size + uint64(len(s.next.records))
	r := record.Record{Index: next, LoggedAt: s.clock, Producer: c.producer, KeyEvent: ev.bytes}
	if ev.hasKey {
		last, err := s.lastOf(&ev.key)
		if err != nil {
			return err
		}
		r.KeySequence, r.PreviousIndex = last.Sequence+1, last.Index
		s.keys.put(&ev.key, index.KeyHead{Sequence: r.KeySequence, Index: next})
	}
	s.recent.add(&ev.id, next)
	s.next.records = append(s.next.records, r)
	s.next.sources = append(s.next.sources, ev)
	c.results[it.result] = Result{
		Index: next, LoggedAt: s.clock, KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex,
	}
	return nil
}

// lastOf returns the last record of a key.
func (s *sequencer) lastOf(key *[32]byte) (index.KeyHead, error) {
	if h, ok := s.keys.get(key); ok {
		return h, nil
	}
	return s.log.index.Key(key)
}

// duplicate answers an event whose id stands at an index, perhaps in this very batch, or in the
// one before it, which the store may not have yet.
func (s *sequencer) duplicate(ctx context.Context, c *Call, it *item, at uint64) error {
	for _, b := range []*batch{s.next, s.flight} {
		if at >= b.old.Size {
			c.results[it.result] = s.log.compare(it.event, &b.records[at-b.old.Size])
			return nil
		}
	}
	res, err := s.log.settle(ctx, it.event, at)
	c.results[it.result] = res
	return err
}

// hashedAtOnce is how many records keep one processor busy for longer than it takes to
// ask another for help.
const hashedAtOnce = 128

// encode makes payloads, leaves and their hashes of the records from first on, on as many
// processors as there are.
func (b *batch) encode(first int) {
	n := len(b.records)
	b.salts = extend(b.salts, n*record.SaltSize)
	rand.Read(b.salts[first*record.SaltSize:]) // never fails: the process ends if the kernel has no randomness
	size := len(b.payloads)
	for i := first; i < n; i++ {
		size += record.SaltSize + b.records[i].Size()
		b.ends = append(b.ends, size)
	}
	b.payloads = extend(b.payloads, size)
	b.leaves = extend(b.leaves, n*record.LeafSize)
	b.entries, b.hashes = extend(b.entries, n), extend(b.hashes, n)
	workers := max(1, min(runtime.GOMAXPROCS(0), (n-first)/hashedAtOnce))
	place := func(w int) int { return first + w*(n-first)/workers }
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { b.encodeSome(place(w), place(w+1)) })
	}
	b.encodeSome(first, place(1))
	wg.Wait()
}

func (b *batch) encodeSome(from, to int) {
	for i := from; i < to; i++ {
		begin := 0
		if i > 0 {
			begin = b.ends[i-1]
		}
		salt := (*[record.SaltSize]byte)(b.salts[i*record.SaltSize:])
		payload := record.AppendPayload(b.payloads[begin:begin:b.ends[i]], salt, &b.records[i])
		stored := b.leaves[i*record.LeafSize : (i+1)*record.LeafSize]
		leaf := record.Leaf(payload)
		copy(stored, leaf[:])
		b.entries[i] = storage.Entry{Leaf: stored, Payload: payload}
		// The last field of a record. The event's own bytes are the caller's again after the call,
		// while duplicates may still be compared with this one.
		b.records[i].KeyEvent = payload[len(payload)-len(b.records[i].KeyEvent):]
		b.hashes[i] = prove.HashLeaf(stored)
	}
}

// extend returns s with n elements, of which those beyond its own hold anything. What was
// sliced off it stays as it is.
func extend[T any](s []T, n int) []T {
	return slices.Grow(s, n-len(s))[:n]
}

// reset empties a batch, which extends old then.
func (b *batch) reset(old storage.Head) {
	clear(b.records)
	clear(b.sources)
	b.old = old
	b.filling = filling{parts: b.parts[:0]}
	b.records, b.sources, b.ends = b.records[:0], b.sources[:0], b.ends[:0]
	b.salts, b.payloads, b.leaves = b.salts[:0], b.payloads[:0], b.leaves[:0]
	b.entries, b.hashes, b.nodes, b.groups = b.entries[:0], b.hashes[:0], b.nodes[:0], b.groups[:0]
}

// job returns what is left to do when a batch is committed, in the memory of j.
func (b *batch) job(j applyJob, cursor index.Cursor) applyJob {
	j.cursor = cursor
	j.rows = slices.Grow(j.rows[:0], len(b.records))
	for i := range b.records {
		r := &b.records[i]
		j.rows = append(j.rows, index.Row{Index: r.Index, Event: b.sources[i].id, Key: b.sources[i].key, KeySequence: r.KeySequence})
	}
	j.leaves, j.groups = append(j.leaves[:0], b.hashes...), append(j.groups[:0], b.groups...)
	return j
}

// spareJob returns one that is done, for its memory, or an empty one.
func (s *sequencer) spareJob() (j applyJob) {
	select {
	case j = <-s.spare:
	default:
	}
	return j
}

// applyRows keeps the index, and the nodes for proofs, up with the commits.
func (s *sequencer) applyRows() error {
	for job := range s.rows {
		s.log.cfg.Nodes.Keep(job.cursor.Size-uint64(len(job.leaves)), job.leaves, job.groups)
		if err := s.log.index.Apply(job.rows, job.cursor); err != nil {
			s.log.fail(err)
			for range s.rows { // the sequencer may be waiting to hand over
			}
			return err
		}
		select {
		case s.spare <- job:
		default:
		}
	}
	return nil
}
