// Package garbage says when the garbage of a program that holds a log is collected.
package garbage

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// allowed is how much memory may be garbage, about, before it is collected. Go's own rule (GOGC)
// lets garbage grow with what lives, and nearly all that lives are Pebble's memtables and cache,
// which hold no pointers: it would collect often when little lives, where a collection buys least,
// and let a large log take much more memory than it needs.
const allowed = 64 << 20

// The least and the most that GOGC is set to.
const (
	minPercent = 20
	maxPercent = 400
)

// Tune keeps the garbage at 64 MB from now on, unless the environment (GOGC) says otherwise.
func Tune(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(maxPercent)
	afterCollections(keeper(maxPercent))
}

// afterCollections calls fn after each garbage collection.
func afterCollections(fn func()) {
	type sentinel struct{ _ *byte } // with a pointer, else many would share one piece of memory
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) {
		fn()
		afterCollections(fn)
	})
}

// keeper returns a function that sets GOGC, which is set now, to what is right for the memory
// that was alive at the last collection.
func keeper(set int) func() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	return func() {
		metrics.Read(live)
		// To set it stops the world for a moment.
		if right := percent(live[0].Value.Uint64()); right < set*9/10 || right > set*11/10 {
			debug.SetGCPercent(right)
			set = right
		}
	}
}

// percent is the GOGC by which live bytes get the allowed garbage.
func percent(live uint64) int {
	return int(max(minPercent, min(maxPercent, 100*allowed/max(live, 1))))
}
