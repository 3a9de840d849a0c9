package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/pebblestore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

// syncFS calls before and after around every sync of a file or directory.
type syncFS struct {
	vfs.FS
	around func()
}

func (f *syncFS) Unwrap() vfs.FS { return f.FS }

func (f *syncFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &syncFile{File: file, around: f.around}, nil
}

func (f *syncFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, c))
}

func (f *syncFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(f.FS.OpenReadWrite(name, c, opts...))
}

func (f *syncFS) OpenDir(name string) (vfs.File, error) { return f.wrap(f.FS.OpenDir(name)) }

func (f *syncFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	// Not MemFS's own: it takes a lock twice, and a snapshot between would wait for ever.
	if err := f.Rename(from, to); err != nil {
		return nil, err
	}
	return f.OpenReadWrite(to, c)
}

type syncFile struct {
	vfs.File
	around func()
}

func (f *syncFile) Sync() error {
	f.around()
	defer f.around()
	return f.File.Sync()
}

func (f *syncFile) SyncData() error {
	f.around()
	defer f.around()
	return f.File.SyncData()
}

func (f *syncFile) SyncTo(n int64) (bool, error) {
	f.around()
	defer f.around()
	return f.File.SyncTo(n)
}

// progress is how far the workload had come when the power went.
type progress struct {
	created bool
	// done batches were acknowledged; one more may have been under way.
	done int
	// cell is the content of the cell that was acknowledged; one more may be written.
	cell int
	// erased entries were acknowledged, all below this index; more may be gone, below
	// erasing.
	erased, erasing uint64
}

// crash is the disk as a power loss left it.
type crash struct {
	fs *vfs.MemFS
	at progress
}

// powerTest runs a workload and keeps the disks that power losses could have left.
type powerTest struct {
	t   *testing.T
	rng *rand.Rand
	mem *vfs.MemFS
	b   *storagetest.Builder
	// Of the power losses one in every is looked at; seen counts them.
	every, seen int
	// pick chooses them; rng, used under mu, what a power loss leaves.
	pick *rand.Rand

	mu      sync.Mutex
	at      progress
	crashes []crash
}

// snapshot keeps the disk with none, some or all of what was not synced.
func (p *powerTest) snapshot() {
	p.mu.Lock()
	defer p.mu.Unlock()
	percent := []int{0, 20, 60, 95}[p.rng.IntN(4)]
	clone := p.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: p.rng})
	p.crashes = append(p.crashes, crash{clone, p.at})
}

func (p *powerTest) note(change func(at *progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.at)
}

// work does everything that writes.
func (p *powerTest) work(commits int) {
	t, ctx := p.t, context.Background()
	opts := small(&syncFS{FS: p.mem, around: p.snapshot})
	opts.MemTableBytes = 64 << 10
	s := create(t, "a/store", opts)
	p.note(func(at *progress) { at.created = true })
	for i := range commits {
		n := []int{1, 3, 64, 1, 200, 7}[i%6]
		if err := s.Commit(ctx, p.b.Batch(t, n)); err != nil {
			t.Fatal(err)
		}
		p.note(func(at *progress) { at.done++ })
		if i%3 == 0 {
			p.swap(s)
		}
		if i%10 == 9 {
			p.erase(s)
		}
		if i%15 == 14 {
			closeStore(t, s)
			s = open(t, "a/store", opts)
			p.look()
		}
	}
	closeStore(t, s)
	p.snapshot()
	p.look()
}

// look opens the disks kept since it was called last, and lets go of them: all of them
// together would take gigabytes.
func (p *powerTest) look() {
	p.mu.Lock()
	crashes := p.crashes
	p.crashes = nil
	p.mu.Unlock()
	for i := p.pick.IntN(p.every); i < len(crashes); i += p.every {
		if p.pick.IntN(12) == 0 {
			p.checkTwice(crashes[i])
		}
		p.check(crashes[i], crashes[i].fs)
	}
	p.seen += len(crashes)
}

func (p *powerTest) swap(s storage.Store) {
	n := p.at.cell
	var old []byte
	if n > 0 {
		old = fmt.Append(nil, n)
	}
	if err := s.SwapCell(context.Background(), "cell", old, fmt.Append(nil, n+1)); err != nil {
		p.t.Fatal(err)
	}
	p.note(func(at *progress) { at.cell++ })
}

// erase erases every third payload below an index.
func (p *powerTest) erase(s storage.Store) {
	to := p.b.Head.Size * 2 / 3
	p.note(func(at *progress) { at.erasing = to })
	var indexes []uint64
	for i := uint64(0); i < to; i += 3 {
		indexes = append(indexes, i)
	}
	if err := s.ErasePayloads(context.Background(), indexes); err != nil {
		p.t.Fatal(err)
	}
	p.note(func(at *progress) { at.erased = to })
}

// check opens what a power loss left.
func (p *powerTest) check(c crash, fsys vfs.FS) {
	t := p.t
	t.Helper()
	s, err := pebblestore.Open("a/store", small(fsys))
	if !c.at.created && errors.Is(err, fs.ErrNotExist) {
		s, err = pebblestore.Create("a/store", small(fsys))
	}
	if err != nil {
		t.Fatalf("opening after a power loss at %+v: %v", c.at, err)
	}
	defer closeStore(t, s)
	ctx := context.Background()
	head, err := s.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := c.at.done
	if heads := p.b.Heads(); !head.Equal(heads[n]) && n+1 < len(heads) {
		n++ // Written, and not acknowledged yet.
	}
	gone := func(i uint64) bool { return i < c.at.erased && i%3 == 0 }
	if c.at.erasing > c.at.erased && p.erasedInFlight(s, c.at) {
		gone = func(i uint64) bool { return i < c.at.erasing && i%3 == 0 }
	}
	storagetest.Check(t, s, p.b.At(n), gone)
	cell, err := s.Cell(ctx, "cell")
	if errors.Is(err, fs.ErrNotExist) {
		cell, err = []byte("0"), nil
	}
	if got := string(cell); err != nil || got != fmt.Sprint(c.at.cell) && got != fmt.Sprint(c.at.cell+1) {
		t.Errorf("after a power loss at %+v the cell holds %q, %v", c.at, cell, err)
	}
	// The store goes on.
	if err := s.SwapCell(ctx, "after", nil, []byte("x")); err != nil {
		t.Error(err)
	}
}

// erasedInFlight says whether an erasure that was not acknowledged has happened.
func (p *powerTest) erasedInFlight(s storage.Store, at progress) bool {
	gone := false
	last := (at.erasing - 1) / 3 * 3
	err := s.Payloads(context.Background(), last, last+1, func(_ uint64, payload []byte) error {
		gone = payload == nil
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return gone
}

// TestPowerLoss cuts the power before and after every sync of a workload, with some of
// what was not synced on the disk, and finds everything that was acknowledged.
func TestPowerLoss(t *testing.T) {
	seeds, commits, every := 2, 45, 9
	if os.Getenv("KEYTRAIL_LONG") != "" {
		seeds, commits, every = 2, 100, 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			p := &powerTest{
				t:     t,
				rng:   rng(int64(seed)),
				pick:  rng(int64(seed)),
				mem:   vfs.NewCrashableMem(),
				b:     storagetest.NewBuilder(),
				every: every,
			}
			p.work(commits)
			t.Logf("%d power losses", p.seen)
		})
	}
}

// checkTwice loses power again while the store is being opened.
func (p *powerTest) checkTwice(c crash) {
	first := c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: p.pick})
	var mu sync.Mutex
	var again []*vfs.MemFS
	fsys := &syncFS{FS: first, around: func() {
		mu.Lock()
		defer mu.Unlock()
		again = append(again, first.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: p.pick}))
	}}
	s, err := pebblestore.Open("a/store", small(fsys))
	if err == nil {
		closeStore(p.t, s)
	} else if !errors.Is(err, fs.ErrNotExist) {
		p.t.Fatalf("opening after a power loss at %+v: %v", c.at, err)
	}
	for i := p.pick.IntN(p.every); i < len(again); i += p.every {
		p.check(c, again[i])
	}
}

// rng returns random numbers that are the same each time.
func rng(seed int64) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }
