package arch_test

import (
	"strings"
	"testing"
)

// layer says what the packages below a directory may import of ours. The longest
// directory that fits a package decides.
type layer struct {
	dir string
	// imports are directories; what lies below them is allowed too.
	imports []string
	// inTests may be imported by test files besides.
	inTests []string
}

// layers point one way: a change in cmd can break nothing below it, and whoever reads
// proto need not know of anything else.
var layers = []layer{
	{dir: "proto", imports: []string{"proto"}},
	{dir: "storage", imports: []string{"proto", "storage"}},
	{dir: "witness", imports: []string{"proto", "storage", "witness"}, inTests: []string{"client", "log"}},
	// Asking for cosignatures needs the formats alone: the log links no witness's store.
	{dir: "witness/feed", imports: []string{"proto", "witness/feed"}, inTests: []string{"storage", "witness"}},
	// A client is tried against a real log.
	{dir: "client", imports: []string{"proto", "client"}, inTests: []string{"log", "storage", "witness"}},
	// The offline verifier stands on the formats alone.
	{dir: "client/verify", imports: []string{"proto", "client/verify"}, inTests: []string{"log", "storage", "witness"}},
	// Of the witness the log needs only the side that asks for cosignatures.
	{dir: "log", imports: []string{"proto", "storage", "witness", "log"}, inTests: []string{"client"}},
	{dir: "cmd", imports: []string{"proto", "storage", "witness", "client", "log", "cmd"}},
	// A witness operator runs no log.
	{dir: "cmd/keytrail-witness", imports: []string{"proto", "storage", "witness", "client", "cmd"}, inTests: []string{"log"}},
}

// layerOf returns the layer that decides about a package.
func layerOf(dir string) (layer, bool) {
	var best layer
	for _, l := range layers {
		if under(dir, l.dir) && len(l.dir) > len(best.dir) {
			best = l
		}
	}
	return best, best.dir != ""
}

// allows says whether a package of the layer may import one of ours.
func (l layer) allows(dir string, test bool) bool {
	allowed := l.imports
	if test {
		allowed = append(append([]string(nil), l.imports...), l.inTests...)
	}
	for _, a := range allowed {
		if under(dir, a) {
			return true
		}
	}
	return false
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range load(t) {
		l, ok := layerOf(p.dir)
		if !ok {
			t.Errorf("%s: belongs to no layer; packages stand below proto, storage, log, witness, client or cmd", p.dir)
			continue
		}
		for _, f := range p.files {
			for _, imp := range f.imports() {
				ours, ok := strings.CutPrefix(imp, module+"/")
				if ok && !l.allows(ours, f.test) {
					t.Errorf("%s: imports %s; %s may import of ours only %s", f.path, ours, l.dir, strings.Join(l.imports, ", "))
				}
			}
		}
	}
}

func TestLayerOf(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		want     bool
	}{
		{from: "proto/event", to: "storage", want: false},
		{from: "proto/receipt", to: "proto/event", want: true},
		{from: "storage/pebblestore", to: "storage", want: true},
		{from: "storage", to: "log", want: false},
		{from: "log/view", to: "client", want: false},
		{from: "log/view", to: "client", test: true, want: true},
		{from: "client", to: "log", want: false},
		{from: "client/verify", to: "client/ingest", want: false},
		{from: "client/verifyx", to: "client/ingest", want: true},
		{from: "cmd/keytrail", to: "log/server", want: true},
		{from: "cmd/keytrail-witness", to: "log", want: false},
	} {
		l, ok := layerOf(c.from)
		if !ok {
			t.Errorf("%s has no layer", c.from)
		}
		if got := l.allows(c.to, c.test); got != c.want {
			t.Errorf("%s imports %s (test %v): allowed %v, want %v", c.from, c.to, c.test, got, c.want)
		}
	}
	if l, ok := layerOf("util"); ok {
		t.Errorf("util belongs to layer %s, want none", l.dir)
	}
}

// impure are packages that the formats may not import: whatever they do must depend on
// their arguments alone, so that two parties, or one at two times, agree.
var impure = map[string]string{
	"os":           "no I/O",
	"os/exec":      "no I/O",
	"io/ioutil":    "no I/O",
	"net":          "no I/O",
	"net/http":     "no I/O",
	"syscall":      "no I/O",
	"log":          "no I/O: return an error",
	"log/slog":     "no I/O: return an error",
	"crypto/rand":  "no chance: take random bytes as an argument",
	"math/rand":    "no chance",
	"math/rand/v2": "no chance",
}

// clock are the names of package time that read a clock or wait for one.
var clock = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true,
	"After": true, "AfterFunc": true, "Tick": true, "NewTimer": true, "NewTicker": true,
}

func TestProtoHasNoIOAndNoClock(t *testing.T) {
	for _, p := range load(t) {
		// The service's generated code is gRPC's.
		if !under(p.dir, "proto") || under(p.dir, "proto/keytrail/v1/rpc") {
			continue
		}
		for _, f := range p.files {
			if f.test || f.generated() {
				continue
			}
			for _, imp := range f.imports() {
				if why, ok := impure[imp]; ok {
					t.Errorf("%s: imports %s; proto has %s", f.path, imp, why)
				}
			}
			for _, name := range selectors(f, "time") {
				if clock[name] {
					t.Errorf("%s: calls time.%s; proto has no clock: take the time as an argument", f.path, name)
				}
			}
		}
	}
}
