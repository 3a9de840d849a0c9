package pebblestore

import "github.com/cockroachdb/pebble/v2"

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

// ParseRun returns the items of a row from number from on.
func ParseRun(row []byte, from int) ([][]byte, error) {
	r, err := parseRun(row)
	if err != nil {
		return nil, err
	}
	c := chunk{data: []byte{}}
	if err := r.addTo(&c, min(from, r.n), r.n); err != nil {
		return nil, err
	}
	items := make([][]byte, len(c.ends))
	for i := range items {
		items[i] = c.item(i)
	}
	return items, nil
}
