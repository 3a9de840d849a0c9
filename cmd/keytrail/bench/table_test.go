package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// turns makes a cell that answers with the next of its values; 0 is a failure.
func turns(system string, a ask, values ...float64) *cell {
	i := 0
	return &cell{system: system, ask: a, run: func(context.Context) (outcome, error) {
		v := values[i]
		i++
		if v == 0 {
			return outcome{}, errors.New("broken | down")
		}
		return outcome{Value: v, P50: v / 10}, nil
	}}
}

// TestTable holds that ratios are of one round each, that a cell which fails in a round says
// so and spoils nothing else, and that what is asked is judged by the right figure.
func TestTable(t *testing.T) {
	g := &group{title: "T", rows: []*row{
		{name: "rate", unit: "events/s", cells: []*cell{
			turns("keytrail", ask{least: 500, scales: true}, 100, 300, 900),
			turns("peer", ask{ratio: true, least: 2}, 50, 100, 450),
			turns("weak", ask{ratio: true, least: 2}, 0, 10, 0),
		}},
		{name: "time", unit: "ms", lowWins: true, cells: []*cell{
			turns("keytrail", ask{most: 1, scales: true}, 4, 4, 8),
			turns("peer", ask{ratio: true, least: 3}, 8, 4, 8),
		}},
	}}
	b := &bench{config: config{Rounds: 3}, stderr: new(strings.Builder)}
	if err := b.measure(t.Context(), []*group{g}); err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	g.write(&s, 0.5)
	for _, want := range []string{
		"| rate, events/s | keytrail | 300 [100–900] | 30.0 [10.0–90.0] |  | ≥ 500 **no**, here ≥ 250 yes |  |",
		"|  | peer | 100 [50.0–450] | 10.0 [5.00–45.0] | 2.00 [2.00–3.00]× | ≥ 2× yes |  |",
		"|  | weak | 10.0 | 1.00 | 30.0× | ≥ 2× yes | broken / down |",
		"| time, ms | keytrail | 4.00 [4.00–8.00] | 0.40 [0.40–0.80] |  | ≤ 1.00 **no**, here ≤ 2.00 **no** |  |",
		"|  | peer | 8.00 [4.00–8.00] | 0.80 [0.40–0.80] | 1.00 [1.00–2.00]× | ≥ 3× **no** |  |",
	} {
		if !strings.Contains(s.String(), want+"\n") {
			t.Errorf("no line %s in\n%s", want, s.String())
		}
	}
}

func TestInsert(t *testing.T) {
	const old = "a\n<!-- bench -->\nold\n<!-- end bench -->\nb\n"
	got, err := insert(old, "bench", "new\n")
	if want := "a\n<!-- bench -->\n\nnew\n<!-- end bench -->\nb\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, broken := range []string{"", "<!-- bench -->\n", "<!-- end bench -->\n<!-- bench -->\n"} {
		if _, err := insert(broken, "bench", "new"); err == nil {
			t.Errorf("%q: no error", broken)
		}
	}
}

// TestNowhereForResults asks for results in a file that has no place for them: it is said
// before anything is measured.
func TestNowhereForResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.md")
	for _, want := range []string{"no such file", "there are no lines"} {
		if _, err := newBench(config{Into: file, Mark: "bench"}, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err := os.WriteFile(file, []byte("# Results\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
