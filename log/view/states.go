package view

import (
	"sync"

	"github.com/keytrail/keytrail/proto/lifecycle"
)

// Limits of the cache of key states.
const (
	maxStates = 1024
	// maxVersions bounds the key versions in all states together, of about 100 bytes each.
	maxVersions = 200_000
)

// stateCache keeps states of keys at places in the log where pages of their histories
// began, the most recently used of them. The zero value is empty.
type stateCache struct {
	mu     sync.Mutex
	states map[[32]byte][]keyState
	count  int
	// versions is their number in all states.
	versions int
	clock    uint64
	// generation counts clear.
	generation uint64
}

// keyState is the state of a key after all its events before the entry next.
type keyState struct {
	next     uint64
	snapshot lifecycle.Snapshot
	used     uint64
}

func (k *keyState) versions() int { return len(k.snapshot.State.GetVersions()) }

// before returns the last known state at or before an entry, and the entry from which it
// goes on: at least the first entry, where nothing has happened yet. The snapshot is
// shared and must not be changed. put takes the generation.
func (c *stateCache) before(key [32]byte, index uint64) (next uint64, s lifecycle.Snapshot, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var best *keyState
	states := c.states[key]
	for i := range states {
		if k := &states[i]; k.next <= index && (best == nil || k.next > best.next) {
			best = k
		}
	}
	if best == nil {
		return 0, lifecycle.Snapshot{}, c.generation
	}
	c.clock++
	best.used = c.clock
	return best.next, best.snapshot, c.generation
}

// put keeps a state, unless the cache was cleared since generation.
func (c *stateCache) put(key [32]byte, next uint64, s lifecycle.Snapshot, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	for _, k := range c.states[key] {
		if k.next == next {
			return
		}
	}
	if c.states == nil {
		c.states = make(map[[32]byte][]keyState)
	}
	c.clock++
	k := keyState{next: next, snapshot: s, used: c.clock}
	c.states[key] = append(c.states[key], k)
	c.count++
	c.versions += k.versions()
	for c.count > maxStates || c.versions > maxVersions && c.count > 1 {
		c.evict()
	}
}

// evict drops the state that was not used for the longest time.
func (c *stateCache) evict() {
	var key [32]byte
	at := -1
	oldest := c.clock + 1
	for id, states := range c.states {
		for i := range states {
			if states[i].used < oldest {
				key, at, oldest = id, i, states[i].used
			}
		}
	}
	states := c.states[key]
	c.count--
	c.versions -= states[at].versions()
	states[at] = states[len(states)-1]
	if states = states[:len(states)-1]; len(states) == 0 {
		delete(c.states, key)
		return
	}
	c.states[key] = states
}

func (c *stateCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states, c.count, c.versions = nil, 0, 0
	c.generation++
}
