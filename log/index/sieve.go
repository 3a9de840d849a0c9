package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A sieve holds copies of the filters of up to sieveRuns runs of events of the last level,
// side by side, so that one reading says of all of them which may have an id: a record for
// each block of the largest filter, of the block of each run that is the id's.
//
// It is made of the runs' filters in the background, after a start and when a run has been
// added. No manifest names it: what a crash leaves is removed. Where there is no sieve, or one
// that cannot be read or is damaged, the runs are asked one by one, more slowly.
type sieve struct {
	runs    []*run // in the order of the version
	records uint64
	file    vfs.File
	path    string
	bad     atomic.Bool // not to be asked again
	refs    int         // owned by versions
}

const (
	sieveRuns = 16
	sieveName = "sieve-"
	// sieveChunk is how many records are made at a time, a divisor of all that there are.
	sieveChunk = fewestBlocks << 6
)

const withoutSieve = "index goes on without a sieve, more slowly"

func (s *sieve) recordBytes() int { return len(s.runs) * blockSize }

// perhaps returns which of the runs may have an id, a bit each.
func (s *sieve) perhaps(id []byte) (which uint32, err error) {
	buf := pagePool.Get().(*[pageSize]byte)
	defer pagePool.Put(buf)
	hi, lo := binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:])
	record := buf[:s.recordBytes()]
	at := blockOf(hi, s.records)
	if _, err := s.file.ReadAt(record, int64(at)*int64(len(record))); err != nil {
		return 0, fmt.Errorf("reading record %d of %s: %w", at, s.path, err)
	}
	for i, r := range s.runs {
		b := record[i*blockSize:][:blockSize]
		if err := r.checkBlock(blockOf(hi, r.blocks), b); err != nil {
			return 0, fmt.Errorf("%s: %w", s.path, err)
		}
		if inBlock(b, lo) {
			which |= 1 << i
		}
	}
	return which, nil
}

// sifting asks the sieves of a version for an id, each of them once.
type sifting struct {
	sieves []*sieve
	id     []byte
	left   int // runs that have a sieve and were not asked about
	asked  *sieve
	which  uint32
}

func (v *version) sifting(id []byte) sifting {
	return sifting{sieves: v.sieves, id: id, left: v.sieved()}
}

// perhaps says false only of runs that do not have the id. It is asked about all runs of
// events of the version, from the newest on. An error is returned once; it is no reason not
// to ask the run.
func (q *sifting) perhaps(r *run) (_ bool, err error) {
	if q.left == 0 {
		return true, nil
	}
	s, at := q.sieves[(q.left-1)/sieveRuns], (q.left-1)%sieveRuns
	if s.runs[at] != r {
		return true, nil
	}
	q.left--
	if s != q.asked {
		q.asked = s
		if s.bad.Load() {
			q.which = ^uint32(0)
		} else if q.which, err = s.perhaps(q.id); err != nil {
			q.which = ^uint32(0)
			if s.bad.Swap(true) {
				err = nil
			}
		}
	}
	return q.which>>at&1 != 0, err
}

// sievable returns the runs of events of the last level.
func (v *version) sievable(round uint64) (runs []*run) {
	for _, r := range v.events {
		if level(r.rows, round) == lastLevel {
			runs = append(runs, r)
		}
	}
	return runs
}

// sift makes the sieves that the runs of the last level have not had yet.
func (x *Index) sift() error {
	f := &x.files
	f.merges.Lock()
	defer f.merges.Unlock()
	v := f.acquire()
	defer x.release(v)
	runs := v.sievable(uint64(x.size))
	if len(runs) == v.sieved() {
		return nil
	}
	full := v.sieved() / sieveRuns // runs are only added at the end: these stay
	sieves := slices.Clone(v.sieves[:full])
	for group := range slices.Chunk(runs[full*sieveRuns:], sieveRuns) {
		s, err := x.makeSieve(group)
		if err != nil {
			for _, s := range sieves[full:] {
				err = errors.Join(err, s.file.Close(), x.fs.Remove(s.path))
			}
			return err
		}
		sieves = append(sieves, s)
	}
	f.change.Lock()
	defer f.change.Unlock()
	x.warn("removing files that the index does not need", f.install(f.current.withSieves(sieves)))
	return nil
}

// makeSieve makes the sieve of some runs.
func (x *Index) makeSieve(runs []*run) (*sieve, error) {
	s := &sieve{runs: runs, path: x.fs.PathJoin(x.dir, fmt.Sprintf("%s%016x", sieveName, x.nextNumber()))}
	for _, r := range runs {
		s.records = max(s.records, r.blocks)
	}
	w, err := x.fs.Create(s.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("making a sieve of the index: %w", err)
	}
	err = errors.Join(s.write(w, x.files.quit), w.Close())
	if err == nil {
		s.file, err = x.fs.Open(s.path, vfs.RandomReadsOption)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a sieve of the index: %w", err), x.fs.Remove(s.path))
	}
	return s, nil
}

// write copies the filters of the runs. It need not be durable.
func (s *sieve) write(w vfs.File, quit <-chan struct{}) error {
	n := min(s.records, sieveChunk)
	out, in := make([]byte, int(n)*s.recordBytes()), make([]byte, n*blockSize)
	for at := uint64(0); at < s.records; at += n {
		select {
		case <-quit:
			return errQuit
		default:
		}
		for i, r := range s.runs {
			each := s.records / r.blocks // records that have the same block
			first, end := at/each, (at+n-1)/each+1
			if err := r.readBlocks(first, in[:(end-first)*blockSize]); err != nil {
				return err
			}
			for j := range n {
				block := (at+j)/each - first
				copy(out[int(j)*s.recordBytes()+i*blockSize:], in[block*blockSize:][:blockSize])
			}
		}
		if _, err := w.Write(out); err != nil {
			return fmt.Errorf("writing %s: %w", s.path, err)
		}
	}
	return nil
}
