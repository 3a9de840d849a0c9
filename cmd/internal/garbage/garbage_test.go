package garbage

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: maxPercent, 1 << 20: maxPercent, 32 << 20: 200, 64 << 20: 100, 128 << 20: 50, 1 << 40: minPercent,
	} {
		if got := percent(live); got != want {
			t.Errorf("%d bytes live: %d, want %d", live, got, want)
		}
	}
}

// TestTune: GOGC follows what lives.
func TestTune(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	Tune(func(string) string { return "" })
	gogc := func() int {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return int(s[0].Value.Uint64())
	}
	if got := gogc(); got != maxPercent {
		t.Errorf("GOGC is %d at the start, want %d", got, maxPercent)
	}
	much := make([]byte, 4*allowed)
	deadline := time.Now().Add(20 * time.Second)
	for gogc() > 25 && time.Now().Before(deadline) {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if got := gogc(); got > 25 {
		t.Errorf("GOGC is %d with %d MB alive", got, len(much)>>20)
	}
	runtime.KeepAlive(much)
}

// TestTuneLeavesTheEnvironment: who sets GOGC gets it.
func TestTuneLeavesTheEnvironment(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(123))
	Tune(func(string) string { return "123" })
	if got := debug.SetGCPercent(123); got != 123 {
		t.Errorf("GOGC is %d", got)
	}
}
