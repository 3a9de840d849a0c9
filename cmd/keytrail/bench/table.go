package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// outcome is what one cell measured in one round. A field that is 0 was not measured.
type outcome struct {
	Value float64
	// P50 and P99 are in milliseconds.
	P50, P99 float64
	// ServerCPU and ClientCPU are in seconds a million.
	ServerCPU, ClientCPU float64
	// PeakMB is the largest resident memory of the process that did the work.
	PeakMB float64
	Note   string
}

// ask is what the project demands of a figure.
type ask struct {
	// ratio says that keytrail is compared with the cell's system; else the figure itself is.
	ratio bool
	// scales says that a figure depends on how fast the machine is; see machine.
	scales bool
	// least and most bound it; 0 is no bound.
	least, most float64
}

func (a ask) String() string {
	switch {
	case a.ratio:
		return fmt.Sprintf("≥ %g×", a.least)
	case a.least > 0:
		return "≥ " + number(a.least)
	case a.most > 0:
		return "≤ " + number(a.most)
	}
	return ""
}

func (a ask) met(v float64) string {
	switch {
	case math.IsNaN(v) || a.least == 0 && a.most == 0:
		return ""
	case a.least > 0 && v < a.least, a.most > 0 && v > a.most:
		return " **no**"
	}
	return " yes"
}

// at returns what is asked of a machine of a speed: rates in proportion to it, times against it.
func (a ask) at(speed float64) ask {
	a.least *= speed
	a.most /= speed
	return a
}

// judge is what is asked, and whether it is so; for a machine that is slower than the one for
// which it was asked also what is asked at its speed. A speed of 0 is not known.
func (a ask) judge(v, speed float64) string {
	out := a.String()
	if out == "" {
		return ""
	}
	out += a.met(v)
	if a.scales && speed > 0 && speed < 1 && a.met(v) == " **no**" {
		here := a.at(speed)
		out += ", here " + here.String() + here.met(v)
	}
	return out
}

// cell is one system in one row.
type cell struct {
	system string
	ask    ask
	// onP99 bounds the 99th percentile as well, when not 0.
	onP99 float64
	run   func(ctx context.Context) (outcome, error)

	outcomes []outcome // of the rounds in which it worked
	rounds   []int
	err      error // of the last round in which it did not
}

// row is one figure of several systems; keytrail's cell, when there is one, is the first.
type row struct {
	name, unit string
	// lowWins says that a smaller figure is the better one.
	lowWins bool
	cells   []*cell
}

// group is a table.
type group struct {
	title, note string
	rows        []*row
}

// spread is a median and its bounds.
type spread struct{ median, least, most float64 }

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	v = slices.Sorted(slices.Values(v))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + m) / 2
	}
	return spread{m, v[0], v[len(v)-1]}
}

func (s spread) String() string {
	switch {
	case math.IsNaN(s.median):
		return ""
	case s.least == s.most:
		return number(s.median)
	}
	return fmt.Sprintf("%s [%s–%s]", number(s.median), number(s.least), number(s.most))
}

// number writes a figure with three or more digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// of returns the spread of one part of a cell's outcomes, without those that are 0.
func (c *cell) of(part func(outcome) float64) spread {
	var v []float64
	for _, o := range c.outcomes {
		if x := part(o); x != 0 {
			v = append(v, x)
		}
	}
	return spreadOf(v)
}

// ratio returns how many times better the first cell is than c, from rounds that both have.
func (r *row) ratio(c *cell) spread {
	first := r.cells[0]
	var v []float64
	for i, round := range c.rounds {
		j := slices.Index(first.rounds, round)
		if j < 0 {
			continue
		}
		q := first.outcomes[j].Value / c.outcomes[i].Value
		if r.lowWins {
			q = 1 / q
		}
		v = append(v, q)
	}
	return spreadOf(v)
}

// write prints the group as a Markdown table. keytrail's ratio stands in the rows of its peers.
// speed is the machine's, 0 when it is not known.
func (g *group) write(w io.Writer, speed float64) {
	fmt.Fprintf(w, "### %s\n\n", g.title)
	if g.note != "" {
		fmt.Fprintf(w, "%s\n\n", g.note)
	}
	type column struct {
		name string
		part func(outcome) float64
	}
	columns := slices.DeleteFunc([]column{
		{"p50 ms", func(o outcome) float64 { return o.P50 }},
		{"p99 ms", func(o outcome) float64 { return o.P99 }},
		{"CPU s/M", func(o outcome) float64 { return o.ServerCPU }},
		{"client CPU s/M", func(o outcome) float64 { return o.ClientCPU }},
		{"memory MB", func(o outcome) float64 { return o.PeakMB }},
	}, func(c column) bool { return !g.has(c.part) })
	head := []string{"shape", "system", "figure"}
	for _, c := range columns {
		head = append(head, c.name)
	}
	head = append(head, "keytrail is", "ask", "")
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range g.rows {
		name := r.name
		if r.unit != "" {
			name += ", " + r.unit
		}
		for i, c := range r.cells {
			line := []string{name, c.system, c.figure()}
			for _, col := range columns {
				line = append(line, c.of(col.part).String())
			}
			compared := ""
			if i > 0 && !strings.HasPrefix(c.system, "keytrail") {
				if q := r.ratio(c); !math.IsNaN(q.median) {
					compared = q.String() + "×"
				}
			}
			line = append(line, compared, r.verdict(c, speed), c.note())
			fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | "))
			name = ""
		}
	}
	fmt.Fprintln(w)
}

func (g *group) has(part func(outcome) float64) bool {
	for _, r := range g.rows {
		for _, c := range r.cells {
			if !math.IsNaN(c.of(part).median) {
				return true
			}
		}
	}
	return false
}

func (c *cell) figure() string {
	if len(c.outcomes) == 0 && c.err != nil {
		return "failed"
	}
	return c.of(func(o outcome) float64 { return o.Value }).String()
}

// note is what the last round said of itself.
func (c *cell) note() string {
	if c.err != nil {
		return strings.NewReplacer("|", "/", "\n", " ").Replace(c.err.Error())
	}
	if len(c.outcomes) > 0 {
		return c.outcomes[len(c.outcomes)-1].Note
	}
	return ""
}

// verdict is what is asked, and whether it is so.
func (r *row) verdict(c *cell, speed float64) string {
	v := c.of(func(o outcome) float64 { return o.Value }).median
	if c.ask.ratio {
		v = r.ratio(c).median
	}
	out := c.ask.judge(v, speed)
	if c.onP99 > 0 {
		p99 := ask{most: c.onP99, scales: c.ask.scales}
		out += "; p99 " + p99.judge(c.of(func(o outcome) float64 { return o.P99 }).median, speed)
	}
	return out
}
