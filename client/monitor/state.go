package monitor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// What a state directory holds: the log's origin, the last checkpoint as a note that other
// tools read too, evidence, the key chains, and a lock.
const (
	originFile     = "origin"
	checkpointFile = "checkpoint"
	evidenceFolder = "evidence"
	chainsFolder   = "chains"
	lockFile       = "lock"
)

// maxEvidence is how many files of one kind are kept. One is enough to convict a log; one
// that goes on shall not fill the disk.
const maxEvidence = 16

// state is a monitor's directory.
type state struct {
	dir  string
	lock *os.File
}

// openState makes or opens a directory for a log, and locks it.
func openState(dir, origin string) (*state, error) {
	if err := os.MkdirAll(filepath.Join(dir, evidenceFolder), 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("opening the state directory: %w", err)
	} else if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("opening the state directory: %s has mode %o; others must not read or write it (chmod 700)", dir, info.Mode().Perm())
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: another monitor uses it: %w", dir, err), lock.Close())
	}
	s := &state{dir: dir, lock: lock}
	if err := s.claim(origin); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// claim makes the directory one of this log, or sees that it is.
func (s *state) claim(origin string) error {
	b, err := s.read(originFile, checkpoint.MaxNameLength+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.write(originFile, []byte(origin+"\n"))
	case err != nil:
		return err
	case string(b) != origin+"\n":
		return fmt.Errorf("opening the state directory: %s is of the log %q, not of %q", s.dir, strings.TrimSuffix(string(b), "\n"), origin)
	}
	return nil
}

func (s *state) close() error { return s.lock.Close() }

// read reads a file of at most max bytes.
func (s *state) read(name string, max int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("reading the state: %s is larger than %d bytes", f.Name(), max)
	}
	return b, nil
}

// write replaces a file, whole or not at all, and durably.
func (s *state) write(name string, b []byte) (err error) {
	path := filepath.Join(s.dir, name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the state: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// last returns the last checkpoint, nil when none was seen, verified again.
func (s *state) last(p *policy.Policy) (*verify.Signed, error) {
	note, err := s.read(checkpointFile, checkpoint.MaxNoteSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	last, err := verify.Signatures(note, p)
	if err != nil {
		return nil, fmt.Errorf("reading the state: the checkpoint in %s does not verify under the policy: %w", s.dir, err)
	}
	return last, nil
}

// keep writes evidence and returns its path; the same evidence is one file. The path is
// empty when enough of the kind is there.
func (s *state) keep(kind Kind, size uint64, e *verify.TamperError) (string, error) {
	sum := sha256.Sum256(slices.Concat(e.Old, e.New, e.File))
	name := fmt.Sprintf("%s-%d-%x.json", kind, size, sum[:6])
	names, err := s.evidence()
	if err != nil {
		return "", err
	}
	if !slices.Contains(names, name) {
		of := 0
		for _, n := range names {
			if strings.HasPrefix(n, string(kind)+"-") {
				of++
			}
		}
		if of >= maxEvidence {
			return "", nil
		}
		if err := s.write(filepath.Join(evidenceFolder, name), e.Evidence()); err != nil {
			return "", err
		}
	}
	return s.path(name), nil
}

// path is where a file of evidence is.
func (s *state) path(name string) string { return filepath.Join(s.dir, evidenceFolder, name) }

// evidence returns the names of the files of evidence, in order.
func (s *state) evidence() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, evidenceFolder))
	if err != nil {
		return nil, fmt.Errorf("reading the evidence: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// convictions verifies all evidence and returns an alarm for each file that convicts
// somebody. A file that is named as one that does and does not is an error: it was damaged
// or belongs to another policy, and must not be passed over.
func (s *state) convictions(p *policy.Policy) ([]Alarm, error) {
	names, err := s.evidence()
	if err != nil {
		return nil, err
	}
	var out []Alarm
	for _, name := range names {
		data, err := s.read(filepath.Join(evidenceFolder, name), verify.MaxEvidenceSize)
		if err != nil {
			return nil, err
		}
		c, err := verify.Evidence(data, p)
		if err == nil {
			out = append(out, s.convicted(name, c))
			continue
		}
		for _, k := range []Kind{KindFork, KindSplitView} {
			if strings.HasPrefix(name, string(k)+"-") {
				return nil, fmt.Errorf("reading the evidence: %s is named as proof of a fork and is none; move it away to go on without it: %w", s.path(name), err)
			}
		}
	}
	return out, nil
}

// convicted is the alarm of a file that convicts somebody.
func (s *state) convicted(name string, c *verify.Conviction) Alarm {
	kind := KindFork
	switch {
	case c.Kind != verify.KindFork:
		kind = KindCommitment
	case strings.HasPrefix(name, string(KindSplitView)+"-"):
		kind = KindSplitView
	}
	return Alarm{Kind: kind, Severity: SeverityCritical, Subject: name, Detail: strings.Join(c.Convicted(), " "), Evidence: s.path(name)}
}
