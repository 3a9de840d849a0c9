// Package ledger is the signer's own memory of the largest tree it ever signed, kept in
// one file apart from the log's data.
//
// It is what keeps the log at one tree (promise 2) when the data under it is replaced: by
// a restored backup, a copied directory, a second process, a flipped bit. The rule is that
// Advance has returned before a signature is given to anyone, and that nothing smaller, and
// nothing else of the same size, is ever signed after. It is trusted for exactly that: whoever can
// set the ledger back together with the store can make the log sign a second history,
// which then only witnesses notice.
//
// The file holds two slots that are written in turn and synced, so that a torn write
// costs the newer state, of which nobody has a signature yet, and never the older one. A
// ledger can be sealed when its log ends: nothing is signed over it ever again.
// A Ledger is for one goroutine at a time and is locked against other processes.
package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// State is the largest tree signed, or about to be signed. Size 0 with the empty tree's
// root stands for a log that signed no entry yet.
type State struct {
	Size uint64
	Root [32]byte
}

// Errors, to be matched with errors.Is.
var (
	// ErrRegression means that the ledger holds a larger tree, or another root of the size.
	ErrRegression = errors.New("ledger: a larger or different tree has been signed")
	// ErrCorrupt means that neither slot of the file can be read.
	ErrCorrupt = errors.New("ledger: file is damaged")
	// ErrOrigin means that the file belongs to another log.
	ErrOrigin = errors.New("ledger: belongs to another log")
	// ErrSealed means that the log has ended and signs nothing more.
	ErrSealed = errors.New("ledger: sealed, the log has ended")
	// ErrLocked means that another process holds the file.
	ErrLocked = errors.New("ledger: in use by another process")
)

// A slot is 512 bytes, the sector size below which disks do not tear a write:
//
//	magic[16] | be64 counter | be64 size | root[32] | SHA-256(origin)[32] | length of successor[1] | successor |
//	zeros | SHA-256 of all before[32]
//
// The successor is that of a sealed log, and empty before.
const (
	slotSize     = 512
	magic        = "keytrail/ledger1"
	successorAt  = 96
	maxSuccessor = 255
	sumAt        = slotSize - sha256.Size
)

// recovery is what an operator without a ledger can do.
const recovery = "bring back the file; if it is lost, adopt the newest checkpoint that anyone holds (keytrail ledger adopt)"

// EmptyState is the state of a log that has no entry.
func EmptyState() State { return State{Root: sha256.Sum256(nil)} }

// Ledger is an open ledger.
type Ledger struct {
	f         *os.File
	origin    [sha256.Size]byte
	state     State
	successor string
	counter   uint64
	broken    error
}

// Create makes the ledger of a new log, 0600, and syncs it and its directory. It refuses
// a file that exists: fs.ErrExist.
func Create(path, origin string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the signer's ledger: %w", err)
	}
	defer f.Close()
	l := &Ledger{f: f, origin: sha256.Sum256([]byte(origin)), state: EmptyState()}
	for range 2 {
		if err := l.write(l.state, ""); err != nil {
			return fmt.Errorf("creating the signer's ledger: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("creating the signer's ledger: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("syncing the signer's directory: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("syncing the signer's directory: %w", err)
	}
	return nil
}

// Open opens the ledger of a log. A missing file is fs.ErrNotExist: it is never made anew
// here, because a signer without memory could sign a second tree.
func Open(path, origin string) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the signer's ledger: %w: without it the log could sign a second history; %s", err, recovery)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the signer's ledger: %w", err)
	}
	l := &Ledger{f: f, origin: sha256.Sum256([]byte(origin))}
	if err := l.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the signer's ledger %s: %w", path, err)
	}
	return l, nil
}

func (l *Ledger) load() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%w: mode is %04o, must be 0600", fs.ErrPermission, perm)
	}
	err = syscall.Flock(int(l.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	found := false
	for i := range 2 {
		var b [slotSize]byte
		if _, err := l.f.ReadAt(b[:], int64(i)*slotSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		s, ok := parseSlot(b[:])
		if !ok || (found && s.counter <= l.counter) {
			continue
		}
		if s.origin != l.origin {
			return ErrOrigin
		}
		l.counter, l.state, l.successor, found = s.counter, s.state, s.successor, true
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrCorrupt, recovery)
	}
	return nil
}

// slot is the content of one of the two slots.
type slot struct {
	counter   uint64
	state     State
	origin    [sha256.Size]byte
	successor string
}

func (s *slot) encode() [slotSize]byte {
	var b [slotSize]byte
	copy(b[:], magic)
	binary.BigEndian.PutUint64(b[16:], s.counter)
	binary.BigEndian.PutUint64(b[24:], s.state.Size)
	copy(b[32:], s.state.Root[:])
	copy(b[64:], s.origin[:])
	b[successorAt] = byte(len(s.successor))
	copy(b[successorAt+1:], s.successor)
	sum := sha256.Sum256(b[:sumAt])
	copy(b[sumAt:], sum[:])
	return b
}

// parseSlot reads what encode wrote and nothing else.
func parseSlot(b []byte) (slot, bool) {
	if len(b) != slotSize {
		return slot{}, false
	}
	s := slot{counter: binary.BigEndian.Uint64(b[16:])}
	s.state.Size = binary.BigEndian.Uint64(b[24:])
	copy(s.state.Root[:], b[32:])
	copy(s.origin[:], b[64:])
	s.successor = string(b[successorAt+1:][:b[successorAt]])
	return s, s.encode() == [slotSize]byte(b)
}

// State returns the largest tree that was signed or was about to be.
func (l *Ledger) State() State { return l.state }

// Successor names the log that continues a sealed one; empty while the log signs.
func (l *Ledger) Successor() string { return l.successor }

// Seal ends the log for good, durably: Advance refuses from then on, in this process and
// in every later one. The successor's name has 1 to 255 bytes. Sealing again for the same
// successor is no error, for another one it is ErrSealed.
func (l *Ledger) Seal(successor string) error {
	switch {
	case l.broken != nil:
		return fmt.Errorf("sealing the signer's ledger after an earlier failure: %w", l.broken)
	case successor == "" || len(successor) > maxSuccessor:
		return fmt.Errorf("sealing the signer's ledger: the successor's name has %d bytes, want 1 to %d", len(successor), maxSuccessor)
	case l.successor != "" && l.successor != successor:
		return fmt.Errorf("%w: its successor is %s, not %s", ErrSealed, l.successor, successor)
	}
	// Both slots, so that no damage to one of them opens the ledger again.
	for range 2 {
		if err := l.write(l.state, successor); err != nil {
			l.broken = err
			return fmt.Errorf("sealing the signer's ledger: %w", err)
		}
	}
	return nil
}

// Advance makes st the largest tree, durably, before it returns. The same state again
// needs no write. A smaller size, or another root of the same size, is ErrRegression, and
// any state in a sealed ledger ErrSealed. After any other error the file's content is
// unknown and the ledger refuses for good.
func (l *Ledger) Advance(st State) error {
	if l.broken != nil {
		return fmt.Errorf("advancing the signer's ledger after an earlier failure: %w", l.broken)
	}
	if l.successor != "" {
		return fmt.Errorf("%w: its successor is %s", ErrSealed, l.successor)
	}
	if st == l.state {
		return nil
	}
	if st.Size <= l.state.Size {
		return fmt.Errorf("%w: ledger has size %d root %x, asked to sign size %d root %x",
			ErrRegression, l.state.Size, l.state.Root, st.Size, st.Root)
	}
	if err := l.write(st, ""); err != nil {
		l.broken = err
		return fmt.Errorf("advancing the signer's ledger to size %d: %w", st.Size, err)
	}
	return nil
}

func (l *Ledger) write(st State, successor string) error {
	next := slot{counter: l.counter + 1, state: st, origin: l.origin, successor: successor}
	b := next.encode()
	if _, err := l.f.WriteAt(b[:], int64(next.counter%2)*slotSize); err != nil {
		return err
	}
	if err := syncData(l.f); err != nil {
		return err
	}
	l.counter, l.state, l.successor = next.counter, st, successor
	return nil
}

// Close releases the ledger.
func (l *Ledger) Close() error { return l.f.Close() }
