package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"
)

// Runs of about one size are merged into one, fanIn at a time, so that a row is written
// three times in all and a lookup reads few runs: at most fanIn-1 of each level and those
// of the last level, which are not merged any more.
const (
	fanIn     = 8
	lastLevel = 2
)

// level is 0 for runs of about one round, 1 for fanIn rounds, and so on.
func level(rows, round uint64) int { return min((bits.Len64(rows/round)+1)/3, lastLevel) }

// mergeable returns the newest runs that are to become one, nil when there are not enough.
func mergeable(runs []*run, round uint64) []*run {
	for l := range lastLevel {
		from := len(runs)
		for from > 0 && level(runs[from-1].rows, round) <= l {
			from--
		}
		if len(runs)-from >= fanIn {
			return runs[from:]
		}
	}
	return nil
}

var errQuit = errors.New("index: is being closed")

// head is the next row of one of the runs that are merged.
type head struct {
	scan *scan
	row  []byte
	hi   uint64 // the first bytes of row
}

// merge writes the rows of runs as one run. quit ends it early, with errQuit.
func (x *Index) merge(runs []*run) (*run, error) {
	heads, rows := make([]head, 0, len(runs)), uint64(0)
	for _, r := range runs {
		rows += r.rows
		h := head{scan: newScan(r)}
		if err := h.next(); err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	k := runs[0].kind
	w, err := newRun(x.fs, x.dir, k, x.nextNumber(), rows)
	if err != nil {
		return nil, err
	}
	if err := x.mergeInto(w, k, heads); err != nil {
		w.abort()
		return nil, err
	}
	return w.finish()
}

func (x *Index) mergeInto(w *runWriter, k *kind, heads []head) error {
	for n := 1; ; n++ {
		least := least(heads, k)
		if least < 0 {
			return nil
		}
		h := &heads[least]
		if !k.latest || !superseded(heads[least+1:], h, k) {
			row, err := w.add()
			if err != nil {
				return err
			}
			copy(row, h.row)
		}
		if err := h.next(); err != nil {
			return err
		}
		if n%4096 == 0 {
			select {
			case <-x.files.quit:
				return errQuit
			default:
			}
		}
	}
}

func (h *head) next() (err error) {
	if h.row, err = h.scan.next(); h.row != nil {
		h.hi = binary.BigEndian.Uint64(h.row)
	}
	return err
}

// least returns the head with the lowest id, of equal ones the oldest; -1 when all runs
// are at their end.
func least(heads []head, k *kind) int {
	best := -1
	for i := range heads {
		h := &heads[i]
		if h.row == nil {
			continue
		}
		if best < 0 || h.hi < heads[best].hi ||
			(h.hi == heads[best].hi && bytes.Compare(h.row[:k.id], heads[best].row[:k.id]) < 0) {
			best = i
		}
	}
	return best
}

// superseded says whether one of newer, which are not below h, has the id of h.
func superseded(newer []head, h *head, k *kind) bool {
	for i := range newer {
		if n := &newer[i]; n.row != nil && n.hi == h.hi && bytes.Equal(n.row[:k.id], h.row[:k.id]) {
			return true
		}
	}
	return false
}
