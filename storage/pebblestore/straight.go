package pebblestore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"

	"github.com/keytrail/keytrail/storage"
)

// straight reads many payloads one after the other from their tables, past Pebble's cache
// and iterators: blocks are unpacked into buffers that are used again, and the items are
// handed out where they lie. Every block is held against its checksum, as by Pebble.
//
// It is for a store that nobody writes to, and only for one whose tables of payloads hold
// everything and do not overlap, so that each row stands in one place.
type straight struct {
	tree *database
	// tables are in the order of their rows.
	tables []payloadTable
	// buffers holds *block.BufferPool.
	buffers sync.Pool

	// mu guards open: the tables that were read last, the newest at the end.
	mu   sync.Mutex
	open []*openTable
}

// payloadTable is a table of rows of payloads; first and last are the numbers in its keys.
type payloadTable struct {
	path        string
	first, last uint64
}

// openTable is a table that is open; it is closed when it has no users and others are needed.
type openTable struct {
	path   string
	users  int
	reader *sstable.Reader
}

// maxOpenTables is how many tables a straight keeps open that nobody reads.
const maxOpenTables = 4

// minStraight is the fewest payloads for which a table is looked up.
const minStraight = rowItems

// openStraight leaves s.straight nil when the store must be read through Pebble: it was
// killed, so that logs hold what tables do not, or rows were erased and their tables not
// merged yet.
func (s *Store) openStraight() error {
	// Each write raises the revision, and the mark says which one the tables hold.
	if !s.readOnly || s.tree.revision != s.flushed[0] {
		return nil
	}
	levels, err := s.tree.db.SSTables()
	if err != nil {
		return err
	}
	if tables, ok := s.payloadTables(slices.Concat(levels...)); ok {
		s.straight = &straight{tree: s.tree, tables: tables}
		s.straight.buffers.New = func() any {
			b := new(block.BufferPool)
			b.Init(4) // index, block as it is stored, block unpacked, one to spare
			return b
		}
	}
	return nil
}

// payloadTables returns the tables of payloads in order; ok is false when one of them holds
// anything else or overlaps another.
func (s *Store) payloadTables(all []pebble.SSTableInfo) (tables []payloadTable, ok bool) {
	for i := range all {
		t := &all[i]
		if t.Largest.UserKey[0] < kindPayloads {
			continue
		}
		first, err := payloadKey(&t.Smallest)
		if err != nil || t.Virtual {
			return nil, false
		}
		last, err := payloadKey(&t.Largest)
		if err != nil {
			return nil, false
		}
		tables = append(tables, payloadTable{s.tree.tablePath(t.BackingSSTNum.String()), first, last})
	}
	slices.SortFunc(tables, func(a, b payloadTable) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(tables); i++ {
		if tables[i].first <= tables[i-1].last {
			return nil, false
		}
	}
	return tables, true
}

// payloadKey returns the number in the key of a row of payloads that was set.
func payloadKey(key *pebble.InternalKey) (uint64, error) {
	n, err := parseKey(key.UserKey)
	if err == nil && (key.UserKey[0] != kindPayloads || key.Kind() != pebble.InternalKeyKindSet) {
		err = fmt.Errorf("%w: %x is not the key of a row of payloads", storage.ErrCorrupt, key.UserKey)
	}
	return n, err
}

// items is Store.items for payloads.
func (r *straight) items(ctx context.Context, start, end uint64, fn func(index uint64, item []byte) error) error {
	for at := start; at < end; {
		// The row of at is in the first table that does not end before it.
		n := sort.Search(len(r.tables), func(i int) bool { return r.tables[i].last >= at })
		if n == len(r.tables) {
			return fmt.Errorf("reading from entry %d: %w: it is missing", at, storage.ErrCorrupt)
		}
		next, err := r.readTable(ctx, r.tables[n].path, at, end, fn)
		if err != nil {
			return err
		}
		if next == at {
			return fmt.Errorf("reading from entry %d: %w: table %s does not hold it", at, storage.ErrCorrupt, r.tables[n].path)
		}
		at = next
	}
	return nil
}

// readTable reads from start to end, or to the end of the table, and returns where it ended.
func (r *straight) readTable(ctx context.Context, path string, start, end uint64, fn func(uint64, []byte) error) (at uint64, err error) {
	t, err := r.acquire(ctx, path)
	if err != nil {
		return start, fmt.Errorf("opening %s: %w", path, corrupt(err))
	}
	defer r.release(t)
	buffers := r.buffers.Get().(*block.BufferPool)
	w := tableWalk{next: start}
	defer func() {
		if closeErr := w.close(); closeErr != nil { // buffers may still be in use
			if err == nil {
				err = fmt.Errorf("closing %s: %w", path, closeErr)
			}
			return
		}
		r.buffers.Put(buffers)
	}()
	if err := w.seek(ctx, t.reader, buffers); err != nil {
		return start, fmt.Errorf("reading from entry %d: %w", start, err)
	}
	for w.found && w.next < end {
		if err := ctx.Err(); err != nil {
			return w.next, err
		}
		from, to := w.next-w.first, min(end-w.first, uint64(w.row.n))
		if err := w.row.each(int(from), int(to), func(i int, item []byte) error { return fn(w.first+uint64(i), item) }); err != nil {
			return w.next, err
		}
		if w.next = w.first + to; w.next == end {
			break
		}
		if err := w.step(); err != nil {
			return w.next, fmt.Errorf("reading from entry %d: %w", w.next, err)
		}
	}
	return w.next, nil
}

// acquire opens a table, unless it is open.
func (r *straight) acquire(ctx context.Context, path string) (*openTable, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, t := range r.open {
		if t.path == path {
			t.users++
			r.open = append(slices.Delete(r.open, i, i+1), t)
			return t, nil
		}
	}
	for i := 0; i < len(r.open) && len(r.open) >= maxOpenTables; i++ {
		if t := r.open[i]; t.users == 0 {
			r.open = slices.Delete(r.open, i, i+1)
			if err := t.reader.Close(); err != nil {
				return nil, err
			}
			break
		}
	}
	t := &openTable{path: path, users: 1}
	err := guard(func() (err error) {
		t.reader, err = r.tree.openTable(ctx, path)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.open = append(r.open, t)
	return t, nil
}

func (r *straight) release(t *openTable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.users--
}

// close closes the tables; nobody reads any more. r may be nil.
func (r *straight) close() error {
	if r == nil {
		return nil
	}
	var first error
	for _, t := range r.open {
		if err := t.reader.Close(); err != nil && first == nil {
			first = err
		}
	}
	r.open = nil
	return first
}

// tableWalk goes over the rows of one table.
type tableWalk struct {
	it sstable.Iterator
	// next is the entry that is to be read, row the row that holds it, whose first entry is
	// first; found is false at the end of the table.
	next  uint64
	first uint64
	row   run
	found bool
}

// seek finds the row that holds w.next.
func (w *tableWalk) seek(ctx context.Context, reader *sstable.Reader, buffers *block.BufferPool) error {
	err := guard(func() (err error) {
		w.it, err = reader.NewPointIter(ctx, sstable.IterOptions{
			FilterBlockSizeLimit: sstable.NeverUseFilterBlock,
			Env:                  sstable.ReadEnv{Block: block.ReadEnv{BufferPool: buffers}},
			ReaderProvider:       sstable.MakeTrivialReaderProvider(reader),
			BlobContext:          sstable.AssertNoBlobHandles,
		})
		if err != nil {
			return err
		}
		kv := w.it.SeekGE(newKey(kindPayloads, w.next), 0)
		if w.found = kv != nil; !w.found {
			return w.it.Error()
		}
		value, _, err := kv.Value(nil)
		if err != nil {
			return err
		}
		return w.take(&kv.K, value, false)
	})
	return corrupt(err)
}

// step goes to the row after.
func (w *tableWalk) step() error {
	return corrupt(guard(func() error {
		kv := w.it.Next()
		if w.found = kv != nil; !w.found {
			return w.it.Error()
		}
		value, _, err := kv.Value(nil)
		if err != nil {
			return err
		}
		return w.take(&kv.K, value, true)
	}))
}

// take notes a row, which must begin with w.next when it follows another.
func (w *tableWalk) take(key *pebble.InternalKey, value []byte, follows bool) (err error) {
	if _, err = payloadKey(key); err != nil {
		return err
	}
	if w.first, w.row, err = parseRow(key.UserKey, value); err != nil {
		return err
	}
	if w.first > w.next || follows && w.first < w.next {
		return fmt.Errorf("%w: row %x does not hold entry %d", storage.ErrCorrupt, key.UserKey, w.next)
	}
	return nil
}

func (w *tableWalk) close() error {
	if w.it == nil {
		return nil
	}
	return guard(w.it.Close)
}
