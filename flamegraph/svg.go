package flamegraph

import (
	"bufio"
	_ "embed"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
)

//go:embed viewer.js
var viewerSource string

// Geometry of the static layer, in pixels. The character cell is that of the
// widest common monospaced fonts.
const (
	margin         = 10
	titleHeight    = 38
	subtitleHeight = 20
	footHeight     = 30
	rowHeight      = 17
	boxHeight      = 16
	fontSize       = 11
	cellSize       = 6.65
	textInset      = 3
	gap            = 4  // tenths, between neighbours
	minStatic      = 10 // tenths; narrower frames are only in the payload
)

const (
	monoFonts = "ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,Liberation Mono,monospace"
	sansFonts = "system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"
)

func writeSVG(w io.Writer, t *tree, o Options) error {
	width := o.Width
	if width == 0 {
		width = fluidWidth
	}
	boxes := layout(t, int32(10*(width-2*margin)), minStatic)
	s := &static{
		out:   &document{w: bufio.NewWriterSize(w, 64<<10)},
		tree:  t,
		width: width,
		top:   titleHeight,
		boxes: boxes,
	}
	if o.Subtitle != "" {
		s.top += subtitleHeight
	}
	for _, b := range boxes {
		s.rows = max(s.rows, int(b.depth)+1)
	}
	s.open(o)
	s.head(o)
	s.paths()
	s.labels()
	s.foot()
	s.out.raw("</g>\n")
	if err := s.out.payload(t, o); err != nil {
		return err
	}
	s.out.raw("<script><![CDATA[\n")
	s.out.raw(viewer())
	s.out.raw("]]></script>\n</svg>\n")
	return s.out.w.Flush() // the first error of any write
}

// viewer is viewer.js without its comments and indentation.
func viewer() string {
	var b strings.Builder
	for line := range strings.Lines(viewerSource) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "//") {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// A document is XML under way. Whatever is not constant goes through text.
type document struct {
	w *bufio.Writer
}

func (d *document) raw(s string) { d.w.WriteString(s) }

func (d *document) rawf(format string, args ...any) { fmt.Fprintf(d.w, format, args...) }

// text escapes s, with U+FFFD for what XML forbids.
func (d *document) text(s string) {
	_ = xml.EscapeText(d.w, []byte(s)) // d.w keeps its first error
}

// payloadElement bounds the text of one element: parsers built on libxml2
// refuse more than 10 MB.
const payloadElement = 4 << 20

func (d *document) payload(t *tree, o Options) error {
	const open, shut = `<metadata class="hotframe-payload">`, "</metadata>\n"
	d.raw(open)
	cut := &chunks{d: d, left: payloadElement, between: shut + open}
	enc := base64.NewEncoder(base64.StdEncoding, cut)
	if err := writePayload(enc, t, o); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	d.raw(shut)
	return nil
}

// chunks writes to d, with a text between every payloadElement bytes.
type chunks struct {
	d       *document
	left    int
	between string
}

func (c *chunks) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if c.left == 0 {
			c.d.raw(c.between)
			c.left = payloadElement
		}
		n, err := c.d.w.Write(p[:min(len(p), c.left)])
		written += n
		c.left -= n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// static writes the layer that needs no script: presentation attributes only,
// because code hosts forbid styles.
type static struct {
	out   *document
	tree  *tree
	width int
	top   int // of the uppermost row
	rows  int
	boxes []box
}

func (s *static) height() int { return s.top + s.rows*rowHeight + footHeight }

// y is the top of the row at a depth; the root is at the bottom.
func (s *static) y(depth int32) int { return s.top + (s.rows-1-int(depth))*rowHeight }

func (s *static) open(o Options) {
	width := strconv.Itoa(s.width)
	if o.Width == 0 {
		width = "100%"
	}
	s.out.raw(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	s.out.rawf(`<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%d" viewBox="0 0 %d %d" role="img">`+"\n",
		width, s.height(), s.width, s.height())
	s.out.raw("<title>")
	s.out.text(o.Title)
	s.out.raw("</title>\n<desc>")
	s.out.text(s.description())
	s.out.raw("</desc>\n")
	s.out.rawf(`<g class="hotframe-static" font-family="%s" font-size="12" fill="#%s">`+"\n", sansFonts, textOnLight)
	s.out.raw(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
}

// description lists the ten hottest functions for those who cannot see.
func (s *static) description() string {
	const limit, longest = 10, 200 // functions, cells of a name
	m := s.tree.metrics[s.tree.shown]
	text := "Flame graph of " + formatTotal(m) + "."
	for i, h := range s.tree.hottest(limit) {
		if i == 0 {
			text += " Most in the function itself:"
		}
		name := fitLabel(s.tree.frames[h.frame].name, longest)
		if name == "" {
			name = s.tree.frames[h.frame].name
		}
		text += fmt.Sprintf("\n%.2f%% %s", 100*float64(h.self)/float64(m.total), name)
	}
	return text
}

func (s *static) head(o Options) {
	cells := int(float64(s.width-2*margin) / 9) // of the title's font, roughly
	s.out.rawf(`<text x="%d" y="25" font-size="17" font-weight="600">`, margin)
	s.out.text(cutLabel(o.Title, cells))
	s.out.raw("</text>\n")
	if o.Subtitle != "" {
		s.out.rawf(`<text x="%d" y="45" fill="#%s">`, margin, mutedOnLight)
		s.out.text(cutLabel(o.Subtitle, cells*9/7))
		s.out.raw("</text>\n")
	}
}

// paths draws all boxes of a colour as one path of thick strokes, which takes
// half the bytes of rectangles.
func (s *static) paths() {
	var byColour [kindCount][tones][]box
	for _, b := range s.boxes {
		f := s.tree.frames[s.tree.frame[b.node]]
		of := &byColour[f.kind][toneOf(f.name)]
		*of = append(*of, b)
	}
	var d []byte
	for k := range kindCount {
		for tone := range uint8(tones) {
			if len(byColour[k][tone]) == 0 {
				continue
			}
			d = d[:0]
			for _, b := range byColour[k][tone] {
				w := b.w - min(max(b.w-2*minStatic, 0), gap) // grows with b.w
				d = appendTenths(append(d, 'M'), 10*margin+b.x)
				d = strconv.AppendInt(append(d, ' '), int64(s.y(b.depth)+boxHeight/2), 10)
				d = appendTenths(append(d, 'h'), w)
			}
			s.out.rawf(`<path stroke="#%s" stroke-width="%d" d="%s"/>`+"\n", shade(palette[k].light, tone), boxHeight, d)
		}
	}
}

func appendTenths(dst []byte, v int32) []byte {
	dst = strconv.AppendInt(dst, int64(v/10), 10)
	if v%10 != 0 {
		dst = append(dst, '.', byte('0'+v%10))
	}
	return dst
}

func (s *static) labels() {
	s.out.rawf(`<g font-family="%s" font-size="%d">`+"\n", monoFonts, fontSize)
	for _, b := range s.boxes {
		cells := int((float64(b.w)/10 - 2*textInset) / cellSize)
		label := fitLabel(s.tree.frames[s.tree.frame[b.node]].name, cells)
		if label == "" {
			continue
		}
		x := appendTenths(nil, 10*(margin+textInset)+b.x)
		s.out.rawf(`<text x="%s" y="%d">`, x, s.y(b.depth)+12)
		s.out.text(label)
		s.out.raw("</text>\n")
	}
	s.out.raw("</g>\n")
}

// foot writes the total, and which colours stand for what.
func (s *static) foot() {
	y := s.top + s.rows*rowHeight + 19
	s.out.rawf(`<text x="%d" y="%d" fill="#%s">`, margin, y, mutedOnLight)
	s.out.text(formatTotal(s.tree.metrics[s.tree.shown]))
	s.out.raw("</text>\n")

	var shown [kindCount]bool
	for _, b := range s.boxes {
		shown[s.tree.frames[s.tree.frame[b.node]].kind] = true
	}
	x := s.width - margin
	for k := kindCount; k > 0; k-- {
		if !shown[k-1] {
			continue
		}
		x -= 7*len(kindWord[k-1]) + 12
		s.out.rawf(`<rect x="%d" y="%d" width="11" height="11" fill="#%s"/><text x="%d" y="%d" fill="#%s">%s</text>`+"\n",
			x-15, y-10, shade(palette[k-1].light, 1), x, y, mutedOnLight, kindWord[k-1])
		x -= 15
	}
}
