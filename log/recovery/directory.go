package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/statement"
)

// Names of the final statement: in the directory of the log that ended, and in that of its
// successor. Both files hold the same bytes, for anyone to read.
const (
	FinalStatement       = "final.statement"
	PredecessorStatement = "predecessor.statement"
)

// Predecessor returns the final statement of the log that the log in a directory continues;
// nil when it continues none. Its form is checked, and nothing is verified.
func Predecessor(dir string) ([]byte, error) {
	path := filepath.Join(dir, PredecessorStatement)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the predecessor's statement: %w", err)
	}
	defer f.Close()
	note, err := io.ReadAll(io.LimitReader(f, statement.MaxSize+1))
	if err == nil {
		_, err = statement.Parse(note)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return note, nil
}

// building is where the successor is made before it is in its place.
func (s *Succession) building() string { return filepath.Clean(s.Dir) + ".new" }

// checkPlace sees that the successor's place is free.
func (s *Succession) checkPlace() error {
	_, err := os.Lstat(s.Dir)
	if err == nil {
		err = fs.ErrExist
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("making the successor in %s: %w", s.Dir, err)
	}
	return nil
}

// begun returns the statement that an earlier run has signed and left beside the place, nil
// when there is none. A statement about other trees is refused: somebody may have it. What
// an earlier run left without a statement is cleared away: keys that nobody has heard of.
func (s *Succession) begun(signed, kept statement.Tree) (*statement.Note, error) {
	dir := s.building()
	note, err := Predecessor(dir)
	if err != nil {
		return nil, err
	}
	if note == nil {
		return nil, clearAway(dir)
	}
	n, err := statement.Parse(note)
	if err != nil {
		return nil, err
	}
	if keys, err := n.Verify(s.Old.Keys()); err != nil || len(keys) == 0 || n.Signed != signed || n.Kept != kept {
		return nil, fmt.Errorf("%s holds a statement of an earlier attempt that says something else: %w", dir, fs.ErrExist)
	}
	return n, nil
}

// clearAway removes a directory in which a log was begun, if that is all it is.
func clearAway(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isLogFile(e.Name()) {
			return fmt.Errorf("making the successor: %s is in the way: %w", dir, fs.ErrExist)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing what an earlier attempt left: %w", err)
	}
	return nil
}

// isLogFile says whether a name is one that making a log's directory gives.
func isLogFile(name string) bool {
	switch strings.TrimSuffix(name, ".new") {
	case "config.yaml", "policy", "keys", "signer", "store", PredecessorStatement:
		return true
	}
	return false
}

// makeSuccessor makes the directory of a new log with the configuration and the witnesses of
// the old one, and with keys and a ledger of its own.
func makeSuccessor(old *logdir.Dir, dir, origin string, onFatal func(error)) (*logdir.Dir, error) {
	d, err := logdir.Make(dir, origin, onFatal)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse([]byte(old.Policy))
	if err != nil {
		return nil, fmt.Errorf("reading the log's policy: %w", err)
	}
	p.Logs = nil
	for _, k := range d.Keys() {
		p.Logs = append(p.Logs, policy.Log{Key: k})
	}
	text := fmt.Appendf(nil, "# Public keys of the log %s, which continues %s, as a tlog-policy (c2sp.org/tlog-policy).\n", origin, old.Config.Origin)
	text = append(text, "# Whoever verifies its receipts needs this file, and should get it on a trusted way.\n"...)
	if err := replaceFile(filepath.Join(dir, "policy"), p.Append(text), 0o644); err != nil {
		return nil, err
	}
	c := old.Config
	c.Origin, c.Ledger = origin, d.Config.Ledger
	if c.TLS, err = absolute(old.TLS()); err != nil {
		return nil, err
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	b = append([]byte("# Configuration of a keytrail log. The origin is the log's name for ever: do not change it.\n"), b...)
	if err := replaceFile(filepath.Join(dir, "config.yaml"), b, 0o600); err != nil {
		return nil, err
	}
	return logdir.Load(dir)
}

// absolute makes the names of files good from any directory.
func absolute(t logdir.TLS) (logdir.TLS, error) {
	for _, name := range []*string{&t.Cert, &t.Key, &t.ClientCA} {
		if *name == "" {
			continue
		}
		abs, err := filepath.Abs(*name)
		if err != nil {
			return t, fmt.Errorf("finding %s: %w", *name, err)
		}
		*name = abs
	}
	return t, nil
}

// complete does what follows the seal, as far as it is not done: the statement into the old
// directory, the successor into its place.
func (s *Succession) complete(sealed string) (*Ended, error) {
	dir := s.Dir
	note, err := Predecessor(dir)
	if err == nil && note == nil {
		dir = s.building()
		note, err = Predecessor(dir)
	}
	if err != nil {
		return nil, err
	}
	if note == nil {
		return nil, fmt.Errorf("%w: its successor is %s, which is not in %s", ErrEnded, sealed, s.Dir)
	}
	n, err := statement.Parse(note)
	if err != nil {
		return nil, err
	}
	if signed, err := n.Verify(s.Old.Keys()); err != nil || len(signed) == 0 || n.Successor != sealed {
		return nil, fmt.Errorf("%w: its successor is %s; the statement in %s is not about that one, or not signed by this log", ErrEnded, sealed, dir)
	}
	if err := writeFile(s.Old.Path, FinalStatement, note); err != nil {
		return nil, err
	}
	if dir != s.Dir {
		if err := putInPlace(dir, s.Dir); err != nil {
			return nil, fmt.Errorf("putting the successor into its place: %w", err)
		}
	}
	return &Ended{Statement: n.Statement}, nil
}

// writeFile puts a public file into a directory, durably; the same content there already
// is no error, another one is fs.ErrExist.
func writeFile(dir, name string, b []byte) error {
	path := filepath.Join(dir, name)
	if there, err := os.ReadFile(path); err == nil {
		if !bytes.Equal(there, b) {
			return fmt.Errorf("writing %s: it holds something else: %w", path, fs.ErrExist)
		}
		return nil
	}
	return replaceFile(path, b, 0o644)
}

// replaceFile puts content into a file, all or nothing, durably.
func replaceFile(path string, b []byte, perm fs.FileMode) error {
	temp := path + ".new"
	err := os.WriteFile(temp, b, perm)
	if err == nil {
		err = syncFile(temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// putInPlace renames a directory, durably. When it cannot be made durable it gets its old name
// back, so that whoever fails has put nothing in the place and can begin again.
func putInPlace(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := syncDirectory(filepath.Dir(filepath.Clean(to))); err != nil {
		return errors.Join(err, os.Rename(to, from))
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
