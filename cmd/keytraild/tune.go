package main

import "runtime/debug"

// gcPercent makes garbage collection more frequent than Go's default (GOGC): nearly all that
// lives are Pebble's memtables and cache and the filter of ids, which hold no pointers and cost a
// collection little, but would be allowed once more in garbage.
const gcPercent = 50

// tune sets when garbage is collected, unless the environment (GOGC) does.
func tune(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
