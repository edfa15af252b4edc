// Package flamegraph renders a pprof profile as one self-contained SVG.
//
// The file has three layers. The static one is a plain picture, right without
// scripts. The payload is the whole profile, compressed. The viewer is a script
// that draws the payload on a canvas and answers clicks, keys and searches.
//
// Upstream: symbolize, or any pprof file. Downstream: a browser.
package flamegraph

import (
	"fmt"
	"io"

	"github.com/google/pprof/profile"
)

// Options of a flame graph; the zero value is ready to use.
type Options struct {
	Title    string // "Flame Graph" if empty
	Subtitle string
	// Width in pixels. With 0 the static layer is 1200 wide and scales, and
	// the live layer fills the window.
	Width int
}

const (
	fluidWidth = 1200
	minWidth   = 300 // room for the title and the legend
	maxWidth   = 1 << 16
)

// WriteSVG writes p as an SVG flame graph. The widths stand for cpu/nanoseconds
// where p has it, else for the profile's default sample type, else for its
// last. Equal profiles and options give equal bytes.
func WriteSVG(w io.Writer, p *profile.Profile, o Options) error {
	if o.Width != 0 && (o.Width < minWidth || o.Width > maxWidth) {
		return fmt.Errorf("flame graph: width %d is not within %d and %d", o.Width, minWidth, maxWidth)
	}
	t, err := newTree(p)
	if err != nil {
		return fmt.Errorf("flame graph: %w", err)
	}
	o.Title, o.Subtitle = valid(o.Title), valid(o.Subtitle)
	if o.Title == "" {
		o.Title = "Flame Graph"
	}
	if err := writeSVG(w, t, o); err != nil {
		return fmt.Errorf("flame graph: %w", err)
	}
	return nil
}
