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

// sequencer gives events their places: the one goroutine that extends the tree. It takes
// what has gathered while the last batch was synced, commits it, wakes the publisher,
// acknowledges it, and hands it on to the index.
//
// All fields are owned by run. After a failed commit the frontier and recent are ahead of
// a store whose state is unknown; the sequencer then ends for good.
type sequencer struct {
	log      *Log
	head     storage.Head
	frontier frontier
	recent   recent
	keys     keyHeads
	rows     chan applyJob
	// spare holds memory of rows that the index has taken.
	spare chan []index.Row

	// Reused from batch to batch.
	parts []part
	batch batch
}

// batch is a commit under construction. Payloads and leaves of its entries are slices of
// two buffers.
type batch struct {
	records  []record.Record
	events   []*Event
	payloads []byte
	ends     []int // ends[i] is where payload i ends in payloads
	leaves   []byte
	entries  []storage.Entry
	hashes   []prove.Hash // of the leaves
	nodes    []storage.Node
	salts    []byte
}

// applyJob is one committed batch on its way into the index.
type applyJob struct {
	rows   []index.Row
	cursor index.Cursor
}

// applyQueue is how many batches may wait for the index before the next batch waits for
// it.
const applyQueue = 4

func newSequencer(ctx context.Context, l *Log, head storage.Head) (*sequencer, error) {
	hashes, err := storage.Frontier(ctx, l.store, head)
	if err != nil {
		return nil, fmt.Errorf("loading the right edge of the tree: %w", err)
	}
	s := &sequencer{log: l, head: head, rows: make(chan applyJob, applyQueue), spare: make(chan []index.Row, applyQueue)}
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
	err := s.writeBatches(ctx)
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
	for {
		s.parts = s.log.pool.take(s.parts[:0])
		if len(s.parts) == 0 {
			return nil
		}
		if err := s.log.cause(); err != nil {
			return s.finish(fmt.Errorf("%w: %w", ErrStopped, err))
		}
		job, err := s.write(ctx)
		if err != nil {
			return s.finish(fmt.Errorf("%w: %w", ErrStopped, err))
		}
		_ = s.finish(nil)
		s.handOver(job)
	}
}

// handOver gives a committed batch to the index, if there is one. It may have to wait:
// the calls have their answers by then, and their events may be gone.
func (s *sequencer) handOver(job applyJob) {
	if len(job.rows) == 0 {
		return
	}
	s.rows <- job
	s.recent.rotate(s.log.index.Applied(), s.head.Size)
}

// finish answers the parts of a batch, and the calls that have no other part.
func (s *sequencer) finish(err error) error {
	for i := range s.parts {
		c := s.parts[i].call
		s.parts[i] = part{}
		if err != nil {
			c.err = err
		}
		if c.parts--; c.parts == 0 {
			c.forget()
			close(c.done)
		}
	}
	return err
}

// refuseRest answers the calls that no batch will take.
func (s *sequencer) refuseRest(err error) {
	for {
		s.parts = s.log.pool.take(s.parts[:0])
		if len(s.parts) == 0 {
			return
		}
		_ = s.finish(err)
	}
}

// write commits one batch made of s.parts. The rows that it returns are what the batch,
// if there is one, adds to the index.
func (s *sequencer) write(ctx context.Context) (applyJob, error) {
	b := &s.batch
	b.reset()
	now := s.now()
	for _, p := range s.parts {
		for i := range p.items {
			if err := s.place(ctx, p.call, &p.items[i], now); err != nil {
				return applyJob{}, err
			}
		}
	}
	if len(b.records) == 0 {
		return applyJob{}, nil
	}
	s.encode()
	next := storage.Head{Size: s.frontier.size, Root: s.frontier.root(), Time: now}
	begin := time.Now()
	err := s.log.store.Commit(ctx, &storage.Batch{Old: s.head, Entries: b.entries, Nodes: b.nodes, New: next})
	if err != nil {
		return applyJob{}, fmt.Errorf("committing %d entries at %d: %w", len(b.entries), s.head.Size, err)
	}
	s.head = next
	s.log.durable.Store(next.Size)
	s.log.metrics.committed(len(b.entries), len(b.payloads), time.Since(begin))
	s.log.logger.DebugContext(ctx, "batch committed", slog.Int("entries", len(b.entries)), slog.Uint64("size", next.Size))
	s.log.pub.wake()
	return applyJob{rows: b.indexRows(s.spareRows()), cursor: index.Cursor{Size: next.Size, Root: next.Root}}, nil
}

// now is the clock of the records: it never goes back along the log.
func (s *sequencer) now() time.Time {
	now := time.Now().UTC().Round(0)
	if now.Before(s.head.Time) {
		return s.head.Time
	}
	return now
}

// place gives one event its record, or finds that it has one.
func (s *sequencer) place(ctx context.Context, c *Call, it *item, now time.Time) error {
	ev := it.event
	at, dup := s.recent.find(ev.id)
	if !dup && it.seen < s.recent.floor() {
		var err error
		if at, dup, err = s.log.index.Event(&ev.id, (*entries)(s.log)); err != nil {
			return err
		}
	}
	if dup {
		return s.duplicate(ctx, c, it, at)
	}
	next := s.head.Size + uint64(len(s.batch.records))
	r := record.Record{Index: next, LoggedAt: now, Producer: c.producer, KeyEvent: ev.bytes}
	if ev.hasKey {
		last, err := s.lastOf(&ev.key)
		if err != nil {
			return err
		}
		r.KeySequence, r.PreviousIndex = last.Sequence+1, last.Index
		s.keys.put(&ev.key, index.KeyHead{Sequence: r.KeySequence, Index: next})
	}
	s.recent.add(ev.id, next)
	s.batch.records = append(s.batch.records, r)
	s.batch.events = append(s.batch.events, ev)
	c.results[it.result] = Result{
		Index: next, LoggedAt: now, KeySequence: r.KeySequence, PreviousIndex: r.PreviousIndex,
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

// duplicate answers an event whose id stands at an index, perhaps in this very batch.
func (s *sequencer) duplicate(ctx context.Context, c *Call, it *item, at uint64) error {
	if at >= s.head.Size {
		c.results[it.result] = s.log.compare(it.event, &s.batch.records[at-s.head.Size])
		return nil
	}
	res, err := s.log.settle(ctx, it.event, at)
	c.results[it.result] = res
	return err
}

// encode makes payloads, leaves and nodes of the batch's records.
func (s *sequencer) encode() {
	b := &s.batch
	n := len(b.records)
	b.salts = resize(b.salts, n*record.SaltSize)
	rand.Read(b.salts) // never fails: the process ends if the kernel has no randomness
	size := 0
	for i := range b.records {
		size += record.SaltSize + b.records[i].Size()
		b.ends = append(b.ends, size)
	}
	b.payloads = resize(b.payloads, size)
	b.leaves = resize(b.leaves, n*record.LeafSize)
	b.entries, b.hashes = resize(b.entries, n), resize(b.hashes, n)
	b.hash()
	for i := range b.hashes {
		b.nodes = s.frontier.add(b.hashes[i], b.nodes)
	}
}

// hashedAtOnce is how many records keep one processor busy for longer than it takes to
// ask another for help.
const hashedAtOnce = 128

// hash makes payloads, leaves and their hashes, on as many processors as there are.
func (b *batch) hash() {
	n := len(b.records)
	workers := max(1, min(runtime.GOMAXPROCS(0), n/hashedAtOnce))
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { b.hashSome(w*n/workers, (w+1)*n/workers) })
	}
	b.hashSome(0, n/workers)
	wg.Wait()
}

func (b *batch) hashSome(from, to int) {
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
		b.hashes[i] = prove.HashLeaf(stored)
	}
}

// resize returns a slice of n elements, whatever they hold, in the memory of s if there is
// room.
func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/2)
	}
	return s[:n]
}

func (b *batch) reset() {
	clear(b.records)
	clear(b.events)
	b.records, b.events = b.records[:0], b.events[:0]
	b.ends, b.nodes = b.ends[:0], b.nodes[:0]
}

// indexRows appends what the batch adds to the index.
func (b *batch) indexRows(rows []index.Row) []index.Row {
	rows = slices.Grow(rows, len(b.records))
	for i := range b.records {
		r := &b.records[i]
		rows = append(rows, index.Row{Index: r.Index, Event: b.events[i].id, Key: b.events[i].key, KeySequence: r.KeySequence})
	}
	return rows
}

// spareRows returns the memory of a batch that the index has taken, empty, or nil.
func (s *sequencer) spareRows() []index.Row {
	select {
	case rows := <-s.spare:
		return rows[:0]
	default:
		return nil
	}
}

// applyRows keeps the index up with the commits.
func (s *sequencer) applyRows() error {
	for job := range s.rows {
		if err := s.log.index.Apply(job.rows, job.cursor); err != nil {
			s.log.fail(err)
			for range s.rows { // the sequencer may be waiting to hand over
			}
			return err
		}
		select {
		case s.spare <- job.rows:
		default:
		}
	}
	return nil
}
