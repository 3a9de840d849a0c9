package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// TestTune has the environment decide what it says, and nothing else.
func TestTune(t *testing.T) {
	procs := runtime.GOMAXPROCS(4)
	percent := debug.SetGCPercent(100)
	defer func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(percent)
	}()
	for _, c := range []struct {
		environment    map[string]string
		before         int
		procs, percent int
	}{
		{nil, 4, 2, gcPercent},
		{nil, 1, 1, gcPercent},
		{nil, 3, 1, gcPercent},
		{map[string]string{"GOMAXPROCS": "4"}, 4, 4, gcPercent},
		{map[string]string{"GOGC": "100"}, 4, 2, 100},
	} {
		runtime.GOMAXPROCS(c.before)
		debug.SetGCPercent(100)
		tune(func(name string) string { return c.environment[name] })
		if got := runtime.GOMAXPROCS(0); got != c.procs {
			t.Errorf("%v: %d of %d processors, want %d", c.environment, got, c.before, c.procs)
		}
		if got := debug.SetGCPercent(100); got != c.percent {
			t.Errorf("%v: collects at %d %%, want %d", c.environment, got, c.percent)
		}
	}
}
