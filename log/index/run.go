package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A run is a file of rows of one width in ascending order of their ids, never changed
// after it is written. It consists of pages: a checksum over rows and place, rows, zeros
// up to pageSize. So a flipped bit, and a page that lies elsewhere than it was written,
// show when the page is read. After the pages come the blocks of the run's filter.
const (
	pageSize   = 4096
	pageHeader = 4
)

// kind is what the rows of a run are.
type kind struct {
	name  string // begins the names of the files
	id    int    // width of the id in a row, bytes
	width int    // width of a row, bytes
	// latest means that of rows with one id only the one that was added last counts.
	latest bool
}

// Rows. An event's id is cut to 16 bytes; the entry that a row names says whether it is
// the same event. Indexes have 5 bytes: a million million entries.
var (
	eventKind = kind{name: "events", id: 16, width: 16 + 5}                 // id, be40 index
	keyKind   = kind{name: "keys", id: 32, width: 32 + 8 + 5, latest: true} // id, be64 sequence, be40 index
)

// maxIndex is the largest index that a row holds.
const maxIndex = 1<<40 - 1

func (k *kind) rowsPerPage() int { return (pageSize - pageHeader) / k.width }

func putIndex(b []byte, n uint64) {
	b[0] = byte(n >> 32)
	binary.BigEndian.PutUint32(b[1:], uint32(n))
}

func getIndex(b []byte) uint64 { return uint64(b[0])<<32 | uint64(binary.BigEndian.Uint32(b[1:])) }

// run is an open run.
type run struct {
	kind   *kind
	number uint64
	rows   uint64
	blocks uint64
	filter []byte // the blocks, nil when lookups read them from the file
	file   vfs.File
	path   string
	refs   int // owned by versions
}

// errPage means that a page, or a block of the filter, does not hold what was written.
var errPage = errors.New("index: page does not match its checksum")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pageSum is the checksum of a page of a run: of its place and of its rows.
func pageSum(number, page uint64, rows []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], number)
	binary.BigEndian.PutUint64(place[8:], page)
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, rows)
}

func (r *run) pages() uint64 {
	per := uint64(r.kind.rowsPerPage())
	return (r.rows + per - 1) / per
}

// bytes is the size of the file.
func (r *run) bytes() int64 { return int64(r.pages()*pageSize + r.blocks*blockSize) }

// check returns the rows of a page.
func (r *run) check(page uint64, b []byte) ([]byte, error) {
	if binary.BigEndian.Uint32(b) != pageSum(r.number, page, b[pageHeader:]) {
		return nil, fmt.Errorf("%w: %s, page %d", errPage, r.path, page)
	}
	return r.rowsOf(page, b), nil
}

// rowsOf returns the part of a page that is rows.
func (r *run) rowsOf(page uint64, b []byte) []byte {
	per := uint64(r.kind.rowsPerPage())
	n := min(r.rows-page*per, per)
	return b[pageHeader : pageHeader+int(n)*r.kind.width]
}

// pages are the buffers of lookups.
var pagePool = sync.Pool{New: func() any { return new([pageSize]byte) }}

// find calls fn with the rows whose id begins as id does, in order, until fn returns
// false. Ids are evenly spread, so that it guesses the page and is seldom far from it.
func (r *run) find(id []byte, fn func(row []byte) (bool, error)) error {
	buf := pagePool.Get().(*[pageSize]byte)
	defer pagePool.Put(buf)
	if perhaps, err := r.mayHave(id, buf); err != nil || !perhaps {
		return err
	}
	page, rows, err := r.seek(id[:r.kind.id], buf)
	for ; err == nil && rows != nil; rows, err = r.next(&page, buf) {
		for at := r.lowerBound(rows, id[:r.kind.id]); at < len(rows); at += r.kind.width {
			row := rows[at : at+r.kind.width]
			if !bytes.Equal(row[:r.kind.id], id[:r.kind.id]) {
				return nil
			}
			if on, err := fn(row); err != nil || !on {
				return err
			}
		}
	}
	return err
}

// seek reads the first page whose last row is not below id; nil when there is none.
func (r *run) seek(id []byte, buf *[pageSize]byte) (page uint64, rows []byte, err error) {
	lo, hi := uint64(0), r.pages() // the page is in [lo, hi]; hi means none
	loID, hiID := uint64(0), ^uint64(0)
	want := binary.BigEndian.Uint64(id)
	at := ^uint64(0) // the page in buf
	for try := 0; lo < hi; try++ {
		guess := lo + (hi-lo)/2
		if span := hiID - loID; try < 8 && span > 0 && loID <= want && want < hiID {
			high, low := bits.Mul64(want-loID, hi-lo)
			q, _ := bits.Div64(high, low, span)
			guess = lo + min(q, hi-lo-1)
		}
		if rows, err = r.read(guess, buf); err != nil {
			return 0, nil, err
		}
		at = guess
		last := rows[len(rows)-r.kind.width:]
		if bytes.Compare(last[:r.kind.id], id) < 0 {
			lo, loID = guess+1, binary.BigEndian.Uint64(last)
			continue
		}
		if bytes.Compare(rows[:r.kind.id], id) < 0 {
			return guess, rows, nil // the one before ends below id
		}
		hi, hiID = guess, binary.BigEndian.Uint64(rows)
	}
	if lo == r.pages() {
		return 0, nil, nil
	}
	if at != lo {
		rows, err = r.read(lo, buf)
	}
	return lo, rows, err
}

// next reads the page after page; nil when there is none.
func (r *run) next(page *uint64, buf *[pageSize]byte) ([]byte, error) {
	if *page++; *page == r.pages() {
		return nil, nil
	}
	return r.read(*page, buf)
}

func (r *run) read(page uint64, buf *[pageSize]byte) ([]byte, error) {
	if _, err := r.file.ReadAt(buf[:], int64(page*pageSize)); err != nil {
		return nil, fmt.Errorf("reading page %d of %s: %w", page, r.path, err)
	}
	return r.check(page, buf[:])
}

// lowerBound returns where the first row that is not below id begins.
func (r *run) lowerBound(rows, id []byte) int {
	w := r.kind.width
	lo, hi := 0, len(rows)/w
	for lo < hi {
		mid := (lo + hi) / 2
		if bytes.Compare(rows[mid*w:mid*w+r.kind.id], id) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo * w
}

// scan reads all rows of a run, one after the other.
type scan struct {
	run  *run
	buf  []byte
	page uint64 // the next one to check
	base uint64 // the page at the beginning of buf
	rest []byte // rows of the page before page
}

const scanBytes = 64 * pageSize

func newScan(r *run) *scan { return &scan{run: r} }

// next returns the next row, nil after the last. It is valid until the call after.
func (s *scan) next() ([]byte, error) {
	if len(s.rest) == 0 {
		if err := s.fill(); err != nil || len(s.rest) == 0 {
			return nil, err
		}
	}
	row := s.rest[:s.run.kind.width]
	s.rest = s.rest[s.run.kind.width:]
	return row, nil
}

func (s *scan) fill() (err error) {
	pages := s.run.pages()
	if s.page == pages {
		return nil
	}
	if end := s.base + uint64(len(s.buf)/pageSize); s.page == end {
		n := min(pages-s.page, scanBytes/pageSize)
		if s.buf == nil {
			s.buf = make([]byte, n*pageSize)
		}
		s.buf = s.buf[:n*pageSize]
		if _, err := s.run.file.ReadAt(s.buf, int64(s.page*pageSize)); err != nil {
			return fmt.Errorf("reading %s: %w", s.run.path, err)
		}
		s.base = s.page
	}
	at := (s.page - s.base) * pageSize
	s.rest, err = s.run.check(s.page, s.buf[at:at+pageSize])
	s.page++
	return err
}

// runWriter writes a run.
type runWriter struct {
	run  *run
	fs   vfs.FS
	buf  []byte // pages that are complete, and one that is not
	page uint64 // the one that is not
	used int    // bytes of it
	// blocks is the filter, all of it until the end: a fifteenth of the rows.
	blocks []byte
}

// newRun begins a run of at most so many rows.
func newRun(fs vfs.FS, dir string, k *kind, number, rows uint64) (*runWriter, error) {
	path := fs.PathJoin(dir, k.fileName(number))
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("making a run of the index: %w", err)
	}
	// Handed to the disk in pieces, so that the sync at its end holds up nobody else's.
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{NoSyncOnClose: true, BytesPerSync: 1 << 20})
	r := &run{kind: k, number: number, blocks: blocksFor(rows), path: path, file: f}
	return &runWriter{run: r, fs: fs, buf: make([]byte, 0, scanBytes), blocks: make([]byte, r.blocks*blockSize)}, nil
}

func (k *kind) fileName(number uint64) string { return fmt.Sprintf("%s-%016x", k.name, number) }

// add appends a row, not below the one before, and returns where to write it.
func (w *runWriter) add() (row []byte, err error) {
	if w.used == 0 {
		if len(w.buf)+pageSize > cap(w.buf) {
			if err := w.flush(); err != nil {
				return nil, err
			}
		}
		w.buf = w.buf[:len(w.buf)+pageSize]
		clear(w.buf[len(w.buf)-pageSize:])
		w.used = pageHeader
	}
	begin := len(w.buf) - pageSize + w.used
	w.used += w.run.kind.width
	w.run.rows++
	row = w.buf[begin : begin+w.run.kind.width]
	if w.used+w.run.kind.width > pageSize {
		w.used = 0
	}
	return row, nil
}

// flush writes the pages in the buffer, each of which is complete.
func (w *runWriter) flush() error {
	for at := 0; at < len(w.buf); at += pageSize {
		b := w.buf[at : at+pageSize]
		binary.BigEndian.PutUint32(b, pageSum(w.run.number, w.page, b[pageHeader:]))
		enter(w.blocks, w.run.rowsOf(w.page, b), w.run.kind.width)
		w.page++
	}
	if _, err := w.run.file.Write(w.buf); err != nil {
		return fmt.Errorf("writing %s: %w", w.run.path, err)
	}
	w.buf = w.buf[:0]
	return nil
}

// finish makes the run durable, but for its name, and opens it for reading.
func (w *runWriter) finish() (*run, error) {
	err := w.flush()
	if err == nil {
		sealBlocks(w.blocks, w.run.number)
		_, err = w.run.file.Write(w.blocks)
	}
	if err == nil {
		err = w.run.file.Sync()
	}
	if err := errors.Join(err, w.run.file.Close()); err != nil {
		return nil, fmt.Errorf("writing a run of the index: %w", err)
	}
	return w.run, openRun(w.fs, w.run)
}

// abort gives up a run that is not finished.
func (w *runWriter) abort() {
	_ = w.run.file.Close()
	_ = w.fs.Remove(w.run.path) // The next start removes it otherwise.
}

// openRun opens the file of a run of which all else is known.
func openRun(fs vfs.FS, r *run) error {
	f, err := fs.Open(r.path, vfs.RandomReadsOption)
	if err != nil {
		return fmt.Errorf("opening a run of the index: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() != r.bytes() {
		err = fmt.Errorf("%s has %d bytes instead of %d", r.path, info.Size(), r.bytes())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("opening a run of the index: %w", err), f.Close())
	}
	r.file = f
	return nil
}
