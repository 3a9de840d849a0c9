package pebblestore

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Metrics returns what Pebble counts of the tree and of the cells.
func (s *Store) Metrics() (tree, cells *pebble.Metrics) {
	return s.tree.db.Metrics(), s.cells.db.Metrics()
}

// ChangeRow replaces or adds a row of the tree, or deletes it when items is nil, and leaves
// the head as it is.
func (s *Store) ChangeRow(kind byte, last uint64, items [][]byte) error {
	w := s.tree.newBatch(0)
	if items == nil {
		_ = w.Delete(newKey(kind, last), nil)
	} else {
		_ = w.Set(newKey(kind, last), AppendRun(nil, items), nil)
	}
	return w.Commit(pebble.Sync)
}

// AppendRun appends a row of items, of which the nil ones are erased.
func AppendRun(b []byte, items [][]byte) []byte {
	length := func(i int) int {
		if items[i] == nil {
			return erasedItem
		}
		return len(items[i])
	}
	l := layoutRun(len(items), length)
	begin := len(b)
	b = l.begin(b, length)
	for _, item := range items {
		b = append(b, item...)
	}
	if len(b)-begin != l.size() {
		panic("the layout is wrong")
	}
	return b
}

// ParseRun returns the items of a row from number from on. Both ways of reading them must
// agree.
func ParseRun(row []byte, from int) ([][]byte, error) {
	r, err := parseRun(row)
	if err != nil {
		return nil, err
	}
	var where [][]byte
	eachErr := r.each(min(from, r.n), r.n, func(_ int, item []byte) error {
		where = append(where, item)
		return nil
	})
	c := chunk{data: []byte{}}
	if err := r.addTo(&c, min(from, r.n), r.n); err != nil {
		if eachErr == nil {
			panic("each does not find what is wrong")
		}
		return nil, err
	}
	items := make([][]byte, len(c.ends))
	for i := range items {
		items[i] = c.item(i)
	}
	same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	if eachErr != nil || !slices.EqualFunc(items, where, same) {
		panic(fmt.Sprintf("each gives %q and %v, addTo %q", where, eachErr, items))
	}
	return items, nil
}

// Straight says whether many payloads are read past Pebble.
func (s *Store) Straight() bool { return s.straight != nil }

// PebblePayloads is Payloads through Pebble.
func (s *Store) PebblePayloads(ctx context.Context, start, end uint64, fn func(uint64, []byte) error) error {
	return s.items(ctx, kindPayloads, start, end, fn)
}

// StraightOver says whether a store with other tables of payloads would be read past Pebble.
func (s *Store) StraightOver(change func([]pebble.SSTableInfo) []pebble.SSTableInfo) bool {
	levels, err := s.tree.db.SSTables()
	if err != nil {
		panic(err)
	}
	var tables []pebble.SSTableInfo
	for _, t := range slices.Concat(levels...) {
		if t.Smallest.UserKey[0] == kindPayloads {
			t.Smallest.UserKey = slices.Clone(t.Smallest.UserKey)
			tables = append(tables, t)
		}
	}
	_, ok := s.payloadTables(change(tables))
	return ok
}
