package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of a picture: two plots side by side.
const (
	pictureWidth  = 24 * vg.Centimeter
	pictureHeight = 10 * vg.Centimeter
	dpi           = 120
)

// look is how a system is drawn in every picture: distinct also without colour.
type look struct {
	color color.RGBA
	shape draw.GlyphDrawer
}

func lookOf(system string) look {
	switch {
	case strings.HasPrefix(system, "keytrail"):
		return look{color.RGBA{R: 0, G: 90, B: 181, A: 255}, draw.CircleGlyph{}}
	case strings.HasPrefix(system, "Tessera"):
		return look{color.RGBA{R: 220, G: 80, B: 0, A: 255}, draw.BoxGlyph{}}
	case strings.HasPrefix(system, "PostgreSQL"):
		return look{color.RGBA{R: 0, G: 130, B: 90, A: 255}, draw.PyramidGlyph{}}
	}
	return look{color.RGBA{R: 110, G: 110, B: 110, A: 255}, draw.CrossGlyph{}}
}

// draw writes the curve's picture as SVG and PNG: events a second, and beside it latency or,
// of a curve without any, memory.
func (c *curve) draw(dir string) error {
	several := len(c.systems()) > 1 // they lie far apart
	rate, err := c.plot("events/s", func(o outcome) float64 { return o.Value }, several)
	if err != nil {
		return err
	}
	name, part, logarithmic := "p50 of a message, ms", func(o outcome) float64 { return o.P50 }, true
	if !c.has(part) {
		name, part, logarithmic = "resident memory, MB", func(o outcome) float64 { return o.PeakMB }, false
	}
	other, err := c.plot(name, part, logarithmic)
	if err != nil {
		return err
	}
	other.Legend = plot.NewLegend() // one is enough
	img := vgimg.NewWith(vgimg.UseWH(pictureWidth, pictureHeight), vgimg.UseDPI(dpi))
	svg := vgsvg.New(pictureWidth, pictureHeight)
	for ext, to := range map[string]struct {
		canvas vg.CanvasSizer
		writer io.WriterTo
	}{".png": {img, vgimg.PngCanvas{Canvas: img}}, ".svg": {svg, svg}} {
		tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Millimeter * 6, PadTop: vg.Millimeter * 2, PadBottom: vg.Millimeter * 2, PadLeft: vg.Millimeter * 2, PadRight: vg.Millimeter * 5}
		canvas := draw.New(to.canvas)
		rate.Draw(tiles.At(canvas, 0, 0))
		other.Draw(tiles.At(canvas, 1, 0))
		if err := writePicture(filepath.Join(dir, c.file+ext), to.writer); err != nil {
			return err
		}
	}
	return nil
}

func writePicture(name string, w io.WriterTo) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("making a picture: %w", err)
	}
	_, err = w.WriteTo(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing the picture %s: %w", name, err)
	}
	return nil
}

// plot draws one figure of every system, with the bounds of its rounds.
func (c *curve) plot(name string, part func(outcome) float64, logarithmic bool) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = c.title
	p.Title.TextStyle.Font.Size = 11
	p.X.Label.Text, p.Y.Label.Text = c.axis, name
	p.X.Tick.Marker = valueTicks{c.values, c.linear}
	if !c.linear {
		p.X.Scale = plot.LogScale{}
	}
	p.Y.Tick.Marker = numberTicks{plot.DefaultTicks{}}
	p.Legend.Top, p.Legend.Left = !logarithmic, !logarithmic
	p.Legend.TextStyle.Font.Size = 9
	p.Add(plotter.NewGrid())
	if logarithmic {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, numberTicks{plot.LogTicks{Prec: 2}}
	}
	most := 0.0
	for _, system := range c.systems() {
		points := c.points(system, part)
		if len(points.XYs) == 0 {
			continue
		}
		look := lookOf(system)
		line, marks, err := plotter.NewLinePoints(points.XYs)
		if err != nil {
			return nil, fmt.Errorf("drawing %s: %w", c.title, err)
		}
		line.Color, line.Width = look.color, vg.Points(1.5)
		marks.Color, marks.Shape, marks.Radius = look.color, look.shape, vg.Points(3)
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return nil, fmt.Errorf("drawing %s: %w", c.title, err)
		}
		bars.Color = look.color
		p.Add(line, marks, bars)
		p.Legend.Add(system, line, marks)
		for i := range points.XYs {
			most = math.Max(most, points.XYs[i].Y+points.YErrors[i].High)
		}
	}
	if !logarithmic {
		p.Y.Min, p.Y.Max = 0, most*1.25 // room for the legend
	}
	return p, nil
}

// systems are those of any row, in the order in which they come.
func (c *curve) systems() []string {
	var all []string
	seen := make(map[string]bool)
	for _, r := range c.rows {
		for _, x := range r.cells {
			if !seen[x.system] {
				seen[x.system] = true
				all = append(all, x.system)
			}
		}
	}
	return all
}

// series is a line with the bounds of its points.
type series struct {
	plotter.XYs
	plotter.YErrors
}

func (c *curve) points(system string, part func(outcome) float64) series {
	var s series
	for i, r := range c.rows {
		for _, x := range r.cells {
			if v := x.of(part); x.system == system && !math.IsNaN(v.median) {
				s.XYs = append(s.XYs, plotter.XY{X: c.values[i], Y: v.median})
				s.YErrors = append(s.YErrors, struct{ Low, High float64 }{v.median - v.least, v.most - v.median})
			}
		}
	}
	return s
}

// valueTicks marks the values that were measured, and labels as many as are legible.
type valueTicks struct {
	values []float64
	linear bool
}

// Ticks implements plot.Ticker.
func (v valueTicks) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	last := 0.0
	for _, x := range v.values {
		t := plot.Tick{Value: x}
		if last == 0 || v.linear || x >= 1.6*last {
			t.Label, last = shortNumber(x), x
		}
		ticks = append(ticks, t)
	}
	return ticks
}

// numberTicks labels another's marks with short numbers.
type numberTicks struct{ plot.Ticker }

// Ticks implements plot.Ticker.
func (n numberTicks) Ticks(least, most float64) []plot.Tick {
	ticks := n.Ticker.Ticks(least, most)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = shortNumber(ticks[i].Value)
		}
	}
	return ticks
}

func shortNumber(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case v >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/1e2)/10)
	}
	return fmt.Sprintf("%g", math.Round(v*1000)/1000)
}
