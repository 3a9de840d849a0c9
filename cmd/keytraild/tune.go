package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// garbageBytes is how much memory may be garbage, about, before it is collected. Go's own rule
// (GOGC) lets garbage grow with what lives, and nearly all that lives are Pebble's memtables and
// cache, which hold no pointers: it would collect often when little lives, where a collection buys
// least, and let a large log take much more memory than it needs.
const garbageBytes = 64 << 20

// The least and the most that GOGC is set to.
const (
	minGCPercent = 20
	maxGCPercent = 400
)

// tune keeps the garbage at garbageBytes, unless the environment (GOGC) says otherwise.
func tune(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(maxGCPercent)
	afterCollections(gcPercentKeeper(maxGCPercent))
}

// afterCollections calls fn after each garbage collection.
func afterCollections(fn func()) {
	type sentinel struct{ _ *byte } // with a pointer, else many would share one piece of memory
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) {
		fn()
		afterCollections(fn)
	})
}

// gcPercentKeeper returns a function that sets GOGC, which is set now, to what is right for the
// memory that was alive at the last collection.
func gcPercentKeeper(set int) func() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	return func() {
		metrics.Read(live)
		// To set it stops the world for a moment.
		if right := gcPercent(live[0].Value.Uint64()); right < set*9/10 || right > set*11/10 {
			debug.SetGCPercent(right)
			set = right
		}
	}
}

// gcPercent is the GOGC by which live bytes get garbageBytes of garbage.
func gcPercent(live uint64) int {
	return int(max(minGCPercent, min(maxGCPercent, 100*garbageBytes/max(live, 1))))
}
