package main

import (
	"runtime/debug"
	"testing"
)

func TestTune(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for environment, want := range map[string]int{"": gcPercent, "100": 100, "off": 100} {
		debug.SetGCPercent(100)
		tune(func(string) string { return environment })
		if got := debug.SetGCPercent(100); got != want {
			t.Errorf("GOGC=%q: collects at %d %%, want %d", environment, got, want)
		}
	}
}
