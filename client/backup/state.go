package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// format names the format of backup.json. Another one is refused.
const format = "keytrail backup 1"

// MaxContent is the largest of the files in Contents, in bytes.
const MaxContent = 1 << 20

// maxState is the largest backup.json in bytes: JSON may need six for one.
const maxState = 6*(3*MaxContent+checkpoint.MaxNoteSize) + 4096

// Contents are files of a log's directory that a backup holds. All are text; empty stands
// for none. None of them is signed: whoever can write to the backup can change them, and the
// checksum beside them too.
type Contents struct {
	// Config is config.yaml.
	Config string `json:"config"`
	// Policy is the policy file.
	Policy string `json:"policy"`
	// Predecessor is the final statement of the log that this one continues.
	Predecessor string `json:"predecessor,omitempty"`
}

// state is the last finished backup.
type state struct {
	Format    string    `json:"format"`
	Completed time.Time `json:"completed"`
	// Checkpoint is the signed note that all of the backup was held against.
	Checkpoint string `json:"checkpoint"`
	Contents

	checkpoint checkpoint.Checkpoint
}

// sealed is backup.json: the state with a checksum over its bytes, which tells a flipped
// bit, and not an attack.
type sealed struct {
	Backup json.RawMessage `json:"backup"`
	SHA256 string          `json:"sha256"`
}

func statePath(dir string) string { return filepath.Join(dir, "private", "backup.json") }

// appendState makes the bytes of backup.json.
func appendState(s *state) ([]byte, error) {
	s.Format = format
	for _, c := range []string{s.Config, s.Policy, s.Predecessor} {
		if len(c) > MaxContent || !utf8.ValidString(c) {
			return nil, fmt.Errorf("a file of the log's directory is larger than %d bytes, or no text", MaxContent)
		}
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	b, err := json.Marshal(sealed{Backup: body, SHA256: hex.EncodeToString(sum[:])})
	return append(b, '\n'), err
}

// parseState reads what appendState made, and nothing else.
func parseState(b []byte) (*state, error) {
	if len(b) > maxState {
		return nil, fmt.Errorf("it is larger than %d bytes", maxState)
	}
	var out sealed
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(out.Backup); hex.EncodeToString(sum[:]) != out.SHA256 {
		return nil, errors.New("its checksum is wrong")
	}
	s := new(state)
	if err := json.Unmarshal(out.Backup, s); err != nil {
		return nil, err
	}
	if s.Format != format {
		return nil, fmt.Errorf("its format is %q, not %q", s.Format, format)
	}
	again, err := appendState(s)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("it is not in the form in which it was written")
	}
	if s.checkpoint, _, err = checkpoint.ParseNote([]byte(s.Checkpoint)); err != nil {
		return nil, fmt.Errorf("its checkpoint: %w", err)
	}
	return s, nil
}

// readState reads backup.json. None is fs.ErrNotExist: no backup was ever finished here.
func readState(dir string) (*state, error) {
	path := statePath(dir)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	s, err := parseState(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", mirror.ErrDamaged, path, err)
	}
	return s, nil
}

// writeState replaces backup.json, all or nothing, durably.
func writeState(dir string, s *state) error {
	b, err := appendState(s)
	if err != nil {
		return fmt.Errorf("writing backup.json: %w", err)
	}
	path := statePath(dir)
	beside := path + ".new"
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("finishing the backup: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("finishing the backup: %w", errors.Join(err, os.Remove(beside)))
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("finishing the backup: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("finishing the backup: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("finishing the backup: %w", err)
	}
	return nil
}
