package index

import (
	"errors"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// version is a set of runs, oldest first. Whoever reads runs holds a version, so that
// their files stay open and in the directory.
type version struct {
	events, keys []*run
	// sieves are of runs of events, in their order, sieveRuns each but for the last.
	sieves []*sieve
	refs   int
}

func (v *version) runs(k *kind) []*run {
	if k == &eventKind {
		return v.events
	}
	return v.keys
}

// sieved is how many runs of events have a sieve.
func (v *version) sieved() (n int) {
	for _, s := range v.sieves {
		n += len(s.runs)
	}
	return n
}

func (v *version) withSieves(sieves []*sieve) *version {
	return &version{events: v.events, keys: v.keys, sieves: sieves}
}

func (v *version) all() []*run { return slices.Concat(v.events, v.keys) }

// with returns a version in which those runs of kind k that are in old are replaced by
// one, which is added at the end when old is empty and left out when it is nil.
func (v *version) with(k *kind, old []*run, by *run) *version {
	runs := slices.Clone(v.runs(k))
	at := len(runs)
	if len(old) > 0 {
		at = slices.Index(runs, old[0])
		runs = slices.Delete(runs, at, at+len(old))
	}
	if by != nil {
		runs = slices.Insert(runs, at, by)
	}
	if k == &eventKind {
		return &version{events: runs, keys: v.keys, sieves: v.sieves}
	}
	return &version{events: v.events, keys: runs, sieves: v.sieves}
}

// versions counts who uses which runs, and removes the files of those that no version
// has any more.
type versions struct {
	mu      sync.Mutex
	fs      vfs.FS
	current *version
}

// acquire returns the current version, to be given back with release.
func (vs *versions) acquire() *version {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.current.refs++
	return vs.current
}

// install makes v the current version.
func (vs *versions) install(v *version) error {
	vs.mu.Lock()
	v.refs = 1
	for _, r := range v.all() {
		r.refs++
	}
	for _, s := range v.sieves {
		s.refs++
	}
	old := vs.current
	vs.current = v
	vs.mu.Unlock()
	if old == nil {
		return nil
	}
	return vs.release(old)
}

// release gives a version back.
func (vs *versions) release(v *version) error {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v.refs--; v.refs > 0 {
		return nil
	}
	var err error
	for _, r := range v.all() {
		if r.refs--; r.refs == 0 {
			err = errors.Join(err, r.file.Close(), vs.fs.Remove(r.path))
		}
	}
	for _, s := range v.sieves {
		if s.refs--; s.refs == 0 {
			err = errors.Join(err, s.file.Close(), vs.fs.Remove(s.path))
		}
	}
	return err
}

// close closes the files, which nobody else has.
func (v *version) close() (err error) {
	for _, r := range v.all() {
		err = errors.Join(err, r.file.Close())
	}
	for _, s := range v.sieves { // The next start removes the file.
		err = errors.Join(err, s.file.Close())
	}
	return err
}
