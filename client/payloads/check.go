package payloads

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/record"
)

// DefaultMaxKeys is how many keys a Checker follows when nothing else is said: about
// 500 MB when there are as many.
const DefaultMaxKeys = 4 << 20

// Problem is one thing about an entry that is not as it must be.
type Problem struct {
	Index uint64
	// What says what is wrong, as the end of a sentence that begins with the entry.
	What string
}

// Entry is what Examine found about one entry alone.
type Entry struct {
	Index uint64
	// Problems are those of the entry alone.
	Problems []Problem
	// Erased means that the leaf commits to a payload that is not there.
	Erased bool

	readable bool
	key      [16]byte // beginning of event.KeyID; a collision costs a false alarm
	sequence uint64
	previous uint64
	logged   time.Time
}

// Examine checks a payload, nil when it was erased, against its leaf, which has been
// verified, and reads its record. A leaf that is nil is not known, and nothing is said.
func Examine(index uint64, leaf, payload []byte) Entry {
	e := Entry{Index: index}
	if leaf == nil {
		return e
	}
	if _, err := record.ParseLeaf(leaf); err != nil {
		// A leaf that is public itself, or none of keytrail's: nothing stands behind it.
		if payload != nil {
			e.problem("has a payload but no leaf that commits to one: %v", err)
		}
		return e
	}
	if payload == nil {
		e.Erased = true
		return e
	}
	if want := record.Leaf(payload); !bytes.Equal(want[:], leaf) {
		e.problem("record does not open its leaf: leaf is %x, record gives %x", leaf, want)
		return e
	}
	_, b, err := record.Open(payload)
	if err != nil {
		e.problem("%v", err)
		return e
	}
	r, err := record.Parse(b)
	if err != nil {
		e.problem("%v", err)
		return e
	}
	if r.Index != index {
		e.problem("record says that it is entry %d", r.Index)
	}
	ev, err := event.Parse(r.KeyEvent)
	if err != nil {
		e.problem("%v", err)
		return e
	}
	ref := ev.GetKey().GetRef()
	if (ref != "") != (r.KeySequence > 0) {
		e.problem("record has key sequence %d for an event with key %q", r.KeySequence, ref)
	}
	e.readable = true
	e.sequence, e.previous, e.logged = r.KeySequence, r.PreviousIndex, r.LoggedAt
	if ref != "" {
		id := event.KeyID(ev.GetTenant(), ref)
		copy(e.key[:], id[:])
	}
	return e
}

func (e *Entry) problem(format string, args ...any) {
	e.Problems = append(e.Problems, Problem{e.Index, fmt.Sprintf(format, args...)})
}

// Item is an entry to examine.
type Item struct {
	Index uint64
	// Leaf has been verified. Payload is nil where it was erased.
	Leaf, Payload []byte
}

// ExamineAll examines entries in parallel and returns what Examine does of each, in the
// same order.
func ExamineAll(items []Item) []Entry {
	out := make([]Entry, len(items))
	workers := runtime.GOMAXPROCS(0)
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := w * len(items) / workers; i < (w+1)*len(items)/workers; i++ {
				out[i] = Examine(items[i].Index, items[i].Leaf, items[i].Payload)
			}
		})
	}
	running.Wait()
	return out
}

// A Checker holds entries against those before them: the log's clock never goes back, and
// each record is the next of its key's history. It is given all entries from 0 in order.
// The zero value is ready.
type Checker struct {
	// MaxKeys bounds the memory: the histories of so many keys are followed, those that
	// come first, at about 120 bytes each; 0 for DefaultMaxKeys.
	MaxKeys int

	// Erased and Keys count what was seen. Unfollowed counts the records of keys beyond
	// MaxKeys, whose chains were not checked.
	Erased, Keys, Unfollowed uint64

	keys map[[16]byte]chain
	last time.Time
	gaps bool // a record before this one was erased or cannot be read
}

// chain is the last record of a key.
type chain struct{ sequence, index uint64 }

// Add takes the next entry and returns all of its problems. Links over entries that were
// erased or cannot be read cannot be checked and are taken as they are.
func (c *Checker) Add(e Entry) []Problem {
	if e.Erased {
		c.Erased++
	}
	if !e.readable {
		c.gaps = true
		return e.Problems
	}
	if e.logged.Before(c.last) {
		e.problem("was logged at %v, the entry before it at %v", e.logged, c.last)
	}
	c.last = e.logged
	if e.sequence > 0 {
		c.follow(&e)
	}
	return e.Problems
}

func (c *Checker) follow(e *Entry) {
	last, known := c.keys[e.key]
	if !known {
		limit := c.MaxKeys
		if limit <= 0 {
			limit = DefaultMaxKeys
		}
		if len(c.keys) >= limit {
			c.Unfollowed++
			return
		}
		c.Keys++
	}
	unknowable := c.gaps && (!known || last.sequence+1 < e.sequence)
	if (last.sequence+1 != e.sequence || last.index != e.previous) && !unknowable {
		e.problem("is number %d of its key after entry %d; the entries before it make it number %d after entry %d",
			e.sequence, e.previous, last.sequence+1, last.index)
	}
	if c.keys == nil {
		c.keys = make(map[[16]byte]chain)
	}
	c.keys[e.key] = chain{e.sequence, e.Index}
}
