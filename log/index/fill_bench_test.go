package index_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/log/index"
)

// BenchmarkFill does for b.N records what a server does, a lookup of a new event and its row,
// and logs on the way what a record costs, since the line before, in time of all processors,
// what memory there is, and what a lookup of a new event and of a known one takes:
//
//	go test -run '^$' -bench Fill -benchtime 50000000x ./log/index
func BenchmarkFill(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as in keytraild
	x := open(b, b.TempDir(), index.Options{})
	defer closeIndex(b, x)
	ids := rand.NewChaCha8([32]byte{1})
	keys := make([][32]byte, 10_000)
	for i := range keys {
		fillID(ids, &keys[i])
	}
	rows := make([]index.Row, 256)
	var known [32]byte
	size, from, cpu := uint64(0), uint64(0), processTime(b)
	for step := 0; size < uint64(b.N); {
		rows = rows[:min(uint64(cap(rows)), uint64(b.N)-size)]
		for i := range rows {
			rows[i] = index.Row{Index: size, Key: keys[size*7919%10_000], KeySequence: size/10_000 + 1}
			fillID(ids, &rows[i].Event)
			if _, ok, err := x.Event(&rows[i].Event, nil); ok || err != nil {
				b.Fatal(ok, err)
			}
			size++
		}
		if err := x.Apply(rows, index.Cursor{Size: size}); err != nil {
			b.Fatal(err)
		}
		if size < 512 {
			known = rows[0].Event
		}
		if steps := []uint64{1, 2, 5, 10, 20, 30, 40, 50, 100}; size >= steps[min(step, len(steps)-1)]*1_000_000 || size == uint64(b.N) {
			step++
			each := float64(processTime(b)-cpu) / float64(size-from)
			resident, peak := residentMB(b)
			time.Sleep(time.Second) // merges end, mostly
			fresh := timeLookups(b, x, 200_000, func(id *[32]byte) { fillID(ids, id) })
			old := timeLookups(b, x, 2_000, func(id *[32]byte) { *id = known })
			b.Logf("%9d records: %4.0f ns a record, %3.0f MB, peak %3.0f MB; lookup of a new event %4.0f ns, of the first %5.0f ns",
				size, each, resident, peak, fresh, old)
			from, cpu = size, processTime(b)
		}
	}
}

func fillID(from *rand.ChaCha8, id *[32]byte) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], from.Uint64())
	}
}

// timeLookups returns what one of n lookups takes, ns.
func timeLookups(b *testing.B, x *index.Index, n int, next func(id *[32]byte)) float64 {
	begin := time.Now()
	for range n {
		var id [32]byte
		next(&id)
		if _, _, err := x.Event(&id, unknown{}); err != nil {
			b.Fatal(err)
		}
	}
	return float64(time.Since(begin)) / float64(n)
}

// unknown is a log whose events were erased.
type unknown struct{}

func (unknown) EventID(uint64) (id [32]byte, known bool, err error) { return id, false, nil }

// residentMB is the memory of this process, and what it was at most; 0 where there is no /proc.
func residentMB(b *testing.B) (now, peak float64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(status)) {
		for name, into := range map[string]*float64{"VmRSS:": &now, "VmHWM:": &peak} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				if _, err := fmt.Sscan(rest, into); err != nil {
					b.Fatal(err)
				}
				*into *= 1024 / 1e6
			}
		}
	}
	return now, peak
}
