package main

import (
	"runtime"
	"runtime/debug"
)

// gcPercent makes garbage collection less frequent (GOGC): what lives is a few MiB, so that
// the default would collect after every forty requests.
const gcPercent = 400

// tune sets how much of the machine Go's runtime takes, unless the environment does
// (GOMAXPROCS, GOGC). Half of the processors run Go code: a request is some 0.3 ms of work on
// either side of a sync, a log sends one at a time, and with more processors than that needs,
// their threads wake each other for nothing, on a machine that may belong to the log as well.
// Signatures and writes of the same request still overlap: what waits for the disk takes
// no processor.
func tune(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
