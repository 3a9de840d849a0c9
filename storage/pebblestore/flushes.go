package pebblestore

import (
	"fmt"
	"maps"
	"sync"
)

// maxFlushes is how often a table is written while a call waits for it, before the call
// gives up: within five seconds, at the pace of storeFS.
const maxFlushes = 5

// flushes knows how Pebble's flushes end. Pebble tries a failed one again for ever, which
// is right while the log runs: its data is safe in the write-ahead log, and a disk that is
// full may have room again. But opening, closing and erasing wait for the end of a flush,
// and would wait for ever without a word.
type flushes struct {
	mu sync.Mutex
	// waiting are the calls that wait, by their channel.
	waiting map[chan error]struct{}
	// failed counts the failed flushes since a good one, or since nobody waited.
	failed int
}

// await calls fn, which waits for flushes, and turns a panic in it into an error, as guard
// does. When tables cannot be written it gives up; fn then goes on in the background.
func (f *flushes) await(fn func() error) error {
	gaveUp, done := make(chan error, 1), make(chan error, 1)
	f.mu.Lock()
	if f.waiting == nil {
		f.waiting = make(map[chan error]struct{})
	}
	if len(f.waiting) == 0 {
		f.failed = 0
	}
	f.waiting[gaveUp] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.waiting, gaveUp)
		f.mu.Unlock()
	}()
	go func() { done <- guard(fn) }()
	select {
	case err := <-done:
		return err
	case err := <-gaveUp:
		return err
	}
}

// done takes the good end of a flush.
func (f *flushes) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = 0
}

// interrupted takes an error of Pebble's background work. When calls have waited for long
// enough they get it, and failed is told: whether what they wait for will be done is unknown.
func (f *flushes) interrupted(err error, failed func(error)) {
	f.mu.Lock()
	if f.failed++; len(f.waiting) == 0 || f.failed < maxFlushes {
		f.mu.Unlock()
		return
	}
	err = fmt.Errorf("writing a table, %d times: %w", f.failed, err)
	waiting := maps.Clone(f.waiting)
	clear(f.waiting)
	f.mu.Unlock()
	failed(err)
	for c := range waiting {
		c <- err
	}
}
