// Package keychain checks what the records of a log say of each other, one after the
// other: that each says its own index, that the log's clock does not go back, and that the
// records of a key are numbered without a gap and each names the one before it. It also
// folds the life of each key and counts what is odd about it.
//
// What it must remember of each key is kept in a Pebble database in a directory of its own,
// which Open locks: a log has more keys than fit into memory, the place up to which all is
// checked has to move in one step with them, and a store that keeps both through a power
// loss is not written twice. A Checker is for one goroutine at a time. Commit makes
// everything before it durable. The directory is trusted with nothing but to be what was
// written: without it everything is checked again from the first record.
package keychain

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/lifecycle"
	"github.com/keytrail/keytrail/proto/record"
)

// Fault is a record that contradicts the records before it. The log wrote it: records are
// checked after their commitment.
type Fault string

// The faults.
const (
	// FaultSequence is a record with another number in its key's history than the next, or
	// with another record before it than the last.
	FaultSequence Fault = "chain"
	// FaultOrder is a record that was taken at an earlier time than the one before it.
	FaultOrder Fault = "order"
)

// Counts are over all records that were checked.
type Counts struct {
	// Records were read and checked. Erased have no payload any more, and Unknown are of a
	// kind that this version cannot read: of both only the commitment is known.
	Records, Erased, Unknown uint64
	// Faults is how many records have one, and First says what the first one is.
	Faults map[Fault]uint64
	First  map[Fault]string
	// Findings are those of package lifecycle, by kind, as "use_after_destroy".
	Findings map[string]uint64
}

// The rows of the database: the state in one, and one for each key and for each record
// that could not be read.
const (
	stateRow  = 's'
	keyRow    = 'k'
	unreadRow = 'u'
)

// Checker checks a log's records in order.
type Checker struct {
	db    *pebble.DB
	state state
	// links holds the keys that were touched since the last commit; unread the indexes.
	links  map[[sha256.Size]byte]*link
	unread map[uint64]bool
}

// link is the end of a key's chain.
type link struct {
	sequence, index uint64
	fold            *lifecycle.Fold
}

// Open opens the directory, or makes it, and goes on where the last Commit was.
func Open(dir string, logger *slog.Logger) (*Checker, error) {
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	var opened atomic.Bool
	db, err := pebble.Open(dir, &pebble.Options{
		Cache: cache, MemTableSize: 4 << 20, MaxOpenFiles: 64,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             pebbleLogger{logger},
		// No merge while it is being opened: an opening that fails takes away what a merge reads,
		// and Pebble panics where nobody can recover.
		CompactionConcurrencyRange: func() (lower, upper int) {
			if !opened.Load() {
				return 0, 1
			}
			return 1, 1
		},
		// Pebble's own reaction to damage is to end the process; reading the rows again
		// fails too, and says so to the caller.
		EventListener: &pebble.EventListener{DataCorruption: func(info pebble.DataCorruptionInfo) {
			logger.Warn("damage in the state of the key chains", slog.String("path", info.Path), slog.Any("error", info.Details))
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	opened.Store(true)
	c := &Checker{db: db}
	c.forget()
	if err := c.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", dir, err), db.Close())
	}
	return c, nil
}

// Close releases the directory. What was not committed is checked again next time.
func (c *Checker) Close() error { return c.db.Close() }

// Next is the index of the record that is to be checked next.
func (c *Checker) Next() uint64 { return c.state.Next }

// Counts returns what was found so far. It shares nothing with the Checker.
func (c *Checker) Counts() Counts { return c.state.counts() }

// Skip goes past a record that cannot be read, because it was erased or is of a later kind.
// Its key is not known, so any key may have a gap there.
func (c *Checker) Skip(erased bool) {
	c.unread[c.state.Next] = true
	if erased {
		c.state.Erased++
	} else {
		c.state.Unknown++
	}
	c.state.Next++
}

// Check takes the next record, whose index must be Next, and its event.
func (c *Checker) Check(r *record.Record, ev *keytrailv1.KeyEvent) error {
	if r.Index != c.state.Next {
		return fmt.Errorf("checking record %d after record %d", r.Index, c.state.Next)
	}
	at := r.LoggedAt.UnixNano()
	if at < c.state.LoggedAt {
		c.fault(FaultOrder, "entry %d was taken at %s, before the entry before it (%s)",
			r.Index, r.LoggedAt.Format(time.RFC3339Nano), time.Unix(0, c.state.LoggedAt).UTC().Format(time.RFC3339Nano))
	}
	c.state.LoggedAt = at
	if r.KeySequence > 0 {
		if err := c.checkKey(r, ev); err != nil {
			return err
		}
	} else if ev.GetKey().GetRef() != "" {
		c.fault(FaultSequence, "entry %d concerns the key %q and has no number in its history", r.Index, ev.GetKey().GetRef())
	}
	c.state.Records++
	c.state.Next++
	return nil
}

func (c *Checker) checkKey(r *record.Record, ev *keytrailv1.KeyEvent) error {
	l, err := c.link(event.KeyID(ev.GetTenant(), ev.GetKey().GetRef()))
	if err != nil {
		return err
	}
	ok, err := c.follows(r, l)
	if err != nil {
		return err
	}
	if !ok {
		c.fault(FaultSequence, "entry %d is number %d of the key %q, after entry %d; %s",
			r.Index, r.KeySequence, ev.GetKey().GetRef(), r.PreviousIndex, l.expected())
	}
	l.sequence, l.index = r.KeySequence, r.Index
	for _, f := range l.fold.Apply(ev) {
		c.state.Findings[findingName(f.GetKind().String())]++
	}
	return nil
}

// findingName turns KIND_NO_BIRTH into no_birth.
func findingName(kind string) string { return strings.ToLower(strings.TrimPrefix(kind, "KIND_")) }

// expected says what number would have followed.
func (l *link) expected() string {
	if l.sequence == 0 {
		return "it is the first of this key"
	}
	return fmt.Sprintf("the last one of this key was number %d, entry %d", l.sequence, l.index)
}

// follows reports whether a record continues its key's chain. Where numbers are missing,
// the records that bore them may be among those that could not be read: there must be room
// for as many, and the one before r must be one of them.
func (c *Checker) follows(r *record.Record, l *link) (bool, error) {
	switch {
	case r.KeySequence <= l.sequence:
		return false, nil
	case r.KeySequence == l.sequence+1:
		return l.sequence == 0 || r.PreviousIndex == l.index, nil
	}
	from := uint64(0)
	if l.sequence > 0 {
		from = l.index + 1
	}
	missing := r.KeySequence - l.sequence - 1
	if r.PreviousIndex < from || r.PreviousIndex >= r.Index || r.PreviousIndex-from+1 < missing {
		return false, nil
	}
	if c.unread[r.PreviousIndex] {
		return true, nil
	}
	return c.has(indexRow(r.PreviousIndex))
}

func (c *Checker) fault(f Fault, format string, args ...any) {
	c.state.Faults[f]++
	if c.state.Faults[f] == 1 {
		c.state.First[f] = fmt.Sprintf(format, args...)
	}
}

// link returns the end of a key's chain.
func (c *Checker) link(id [sha256.Size]byte) (*link, error) {
	if l, ok := c.links[id]; ok {
		return l, nil
	}
	l := &link{fold: new(lifecycle.Fold)}
	b, closer, err := c.db.Get(append([]byte{keyRow}, id[:]...))
	switch {
	case err == nil:
		err = errors.Join(l.decode(b), closer.Close())
	case errors.Is(err, pebble.ErrNotFound):
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state of a key: %w", err)
	}
	c.links[id] = l
	return l, nil
}

func (c *Checker) has(row []byte) (bool, error) {
	_, closer, err := c.db.Get(row)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the state of an entry: %w", err)
	}
	return true, closer.Close()
}

// Commit makes durable what was checked since the last one, all or nothing. Memory grows
// with what is not committed.
func (c *Checker) Commit() (err error) {
	b := c.db.NewBatch()
	defer func() { err = errors.Join(err, b.Close()) }()
	for id, l := range c.links {
		v, err := l.encode()
		if err != nil {
			return fmt.Errorf("keeping the state of a key: %w", err)
		}
		if err := b.Set(append([]byte{keyRow}, id[:]...), v, nil); err != nil {
			return fmt.Errorf("keeping the state of a key: %w", err)
		}
	}
	for i := range c.unread {
		if err := b.Set(indexRow(i), nil, nil); err != nil {
			return fmt.Errorf("keeping the state of an entry: %w", err)
		}
	}
	v, err := c.state.encode()
	if err != nil {
		return err
	}
	if err := b.Set([]byte{stateRow}, v, nil); err != nil {
		return fmt.Errorf("keeping the place: %w", err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("keeping what was checked: %w", err)
	}
	c.forget()
	return nil
}

// forget drops what is in the database.
func (c *Checker) forget() {
	c.links = make(map[[sha256.Size]byte]*link)
	c.unread = make(map[uint64]bool)
}

func indexRow(i uint64) []byte { return binary.BigEndian.AppendUint64([]byte{unreadRow}, i) }

// pebbleLogger hands Pebble's log on: its news at debug level.
type pebbleLogger struct{ *slog.Logger }

func (l pebbleLogger) Infof(format string, args ...any)  { l.Debug(fmt.Sprintf(format, args...)) }
func (l pebbleLogger) Errorf(format string, args ...any) { l.Warn(fmt.Sprintf(format, args...)) }

// Fatalf is called when Pebble cannot go on; it must not return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	panic("keychain: " + fmt.Sprintf(format, args...))
}
