package index

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// files is what of the index is on the disk. Two goroutines change it: one that writes a
// round, if there is one, and one that merges; each change is a new manifest and then a
// new version.
type files struct {
	versions
	next atomic.Uint64 // number of the next run

	change  sync.Mutex // held while manifest and version change
	cursor  Cursor     // what the manifest says; under change
	merges  sync.Mutex // held while runs are merged
	failed  atomic.Pointer[error]
	wake    chan struct{}
	quit    chan struct{}
	stopped chan struct{} // closed when nothing is merged any more
}

// openFiles opens what the manifest names, makes an empty one in an empty directory, and
// removes what a crash has left half done.
func (x *Index) openFiles() (Cursor, error) {
	names, err := x.fs.List(x.dir)
	if err != nil {
		return Cursor{}, fmt.Errorf("opening the index: %w", err)
	}
	m, err := readManifest(x.fs, x.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if len(names) > 1 { // The lock is there.
			return Cursor{}, fmt.Errorf("opening the index: %d files and no manifest", len(names))
		}
		m = &manifest{}
		if err = m.write(x.fs, x.dir); err == nil {
			err = syncDir(x.fs, x.fs.PathDir(x.dir)) // the directory's own name
		}
	}
	if err != nil {
		return Cursor{}, fmt.Errorf("opening the index: %w", err)
	}
	v := &version{}
	for _, k := range []*kind{&eventKind, &keyKind} {
		for _, info := range m.runs(k) {
			path := x.fs.PathJoin(x.dir, k.fileName(info.number))
			r := &run{kind: k, number: info.number, rows: info.rows, blocks: info.blocks, path: path}
			if err := openRun(x.fs, r); err != nil {
				return Cursor{}, errors.Join(err, v.close())
			}
			v = v.with(k, nil, r)
			if err := x.keepFilter(r); err != nil {
				return Cursor{}, errors.Join(err, v.close())
			}
		}
	}
	f := &x.files
	f.fs, f.cursor, f.wake, f.quit, f.stopped = x.fs, m.cursor, make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	f.next.Store(m.next)
	x.warn("opening the index", f.install(v))
	x.removeOthers(names, v)
	go x.mergeAll()
	f.wake <- struct{}{}
	return m.cursor, nil
}

// removeOthers removes runs that no manifest names. One that stays does no harm.
func (x *Index) removeOthers(names []string, v *version) {
	for _, name := range names {
		known := slices.ContainsFunc(v.all(), func(r *run) bool { return name == r.kind.fileName(r.number) })
		ours := name == manifestNext || strings.HasPrefix(name, eventKind.name+"-") || strings.HasPrefix(name, keyKind.name+"-") ||
			strings.HasPrefix(name, sieveName)
		if ours && !known {
			x.warn("removing a file that the index does not need", x.fs.Remove(x.fs.PathJoin(x.dir, name)))
		}
	}
}

func (x *Index) warn(msg string, err error) {
	if err != nil && x.logger != nil {
		x.logger.Warn(msg, slog.Any("error", err))
	}
}

func (x *Index) release(v *version) {
	x.warn("removing files that the index does not need", x.files.release(v))
}

// makeRoom has a full round written, in the background, when n records more do not fit it.
func (x *Index) makeRoom(n int) error {
	if x.young.records == 0 || x.young.records+n <= x.size {
		return x.files.failure()
	}
	<-x.written
	if err := x.files.failure(); err != nil {
		return err
	}
	next := x.spare
	if next == nil {
		next = newRound(x.size)
	}
	full := x.young
	x.mu.Lock()
	x.young, x.frozen, x.spare = next, full, nil
	x.mu.Unlock()
	written := make(chan struct{})
	x.written = written
	go func() {
		defer close(written)
		if err := x.writeRound(full); err != nil {
			x.files.fail(err) // full stays where it is found
			return
		}
		x.mu.Lock()
		x.frozen = nil
		x.mu.Unlock()
		full.reset()
		x.spare = full
	}()
	return nil
}

// writeRound makes the rows of a round durable, with their cursor.
func (x *Index) writeRound(r *round) error {
	events, keys, err := r.write(x.fs, x.dir, x.nextNumber)
	if err != nil {
		return err
	}
	f := &x.files
	f.change.Lock()
	defer f.change.Unlock()
	v := f.current
	if events != nil {
		v = v.with(&eventKind, nil, events)
		err = x.keepFilter(events)
	}
	if keys != nil {
		v = v.with(&keyKind, nil, keys)
		err = errors.Join(err, x.keepFilter(keys))
	}
	if err != nil {
		return x.judge(err)
	}
	if err := x.setFiles(v, r.cursor); err != nil {
		return err
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// keepFilter keeps the filter of a run in memory until it is merged into one of the last
// level: 6 MB in all. The filters of the last level grow with the log and stay in the files.
func (x *Index) keepFilter(r *run) error {
	if level(r.rows, uint64(x.size)) == lastLevel {
		return nil
	}
	return r.readFilter()
}

// setFiles makes v, with rows up to cursor, what the index consists of. The caller holds
// change.
func (x *Index) setFiles(v *version, cursor Cursor) error {
	f := &x.files
	m := &manifest{cursor: cursor, next: f.next.Load(), events: infos(v.events), keys: infos(v.keys)}
	if err := m.write(x.fs, x.dir); err != nil {
		return err
	}
	f.cursor = cursor
	x.warn("removing files that the index does not need", f.install(v))
	return nil
}

func infos(runs []*run) []runInfo {
	infos := make([]runInfo, len(runs))
	for i, r := range runs {
		infos[i] = runInfo{r.number, r.rows, r.blocks}
	}
	return infos
}

func (x *Index) emptyFiles() error {
	f := &x.files
	f.merges.Lock()
	defer f.merges.Unlock()
	f.change.Lock()
	defer f.change.Unlock()
	return x.setFiles(&version{}, Cursor{})
}

func (x *Index) nextNumber() uint64 { return x.files.next.Add(1) - 1 }

// mergeAll merges runs whenever some were added, until quit.
func (x *Index) mergeAll() {
	f := &x.files
	defer close(f.stopped)
	for {
		select {
		case <-f.quit:
			return
		case <-f.wake:
		}
		for _, k := range []*kind{&eventKind, &keyKind} {
			for more := true; more; {
				var err error
				if more, err = x.mergeSome(k); err != nil && !errors.Is(err, errQuit) {
					f.fail(fmt.Errorf("merging runs of the index: %w", x.judge(err)))
				}
			}
		}
		if err := x.sift(); err != nil && !errors.Is(err, errQuit) {
			x.warn(withoutSieve, x.judge(err))
		}
	}
}

// mergeSome merges runs of a kind, if there are enough.
func (x *Index) mergeSome(k *kind) (merged bool, err error) {
	f := &x.files
	f.merges.Lock()
	defer f.merges.Unlock()
	v := f.acquire()
	defer x.release(v)
	old := mergeable(v.runs(k), uint64(x.size))
	if old == nil {
		return false, nil
	}
	by, err := x.merge(old)
	if err != nil {
		return false, err
	}
	if err := x.keepFilter(by); err != nil {
		return false, err
	}
	f.change.Lock()
	defer f.change.Unlock()
	return true, x.setFiles(f.current.with(k, old, by), f.cursor)
}

// fail notes that the files cannot be kept up to date.
func (f *files) fail(err error) { f.failed.CompareAndSwap(nil, &err) }

func (f *files) failure() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// stop ends merging.
func (f *files) stop() {
	close(f.quit)
	<-f.stopped
}
