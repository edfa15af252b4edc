package flamegraph

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"hotframe/internal/testutil"
)

func svgOf(t testing.TB, p *profile.Profile, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSVG(&b, p, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// goldenProfile has a frame of each kind, and one that is too narrow to be drawn.
func goldenProfile() *profile.Profile {
	m := newMaker()
	main := m.user("main")
	m.add("app", 300, main, m.user("work"))
	m.add("app", 90, main, m.user("work"), m.user("ns::Parser<char>::parse(std::string const&)"))
	m.add("app", 60, main, m.user("work.cold"))
	m.add("app", 120, main, m.in("/lib/libc.so.6", "read"), m.kernel("ksys_read"), m.kernel("vfs_read"))
	m.add("app", 30, m.kernel("[unknown: kernel max depth]"))
	m.add("app", 20, main, m.in("[vdso]", "__vdso_clock_gettime"))
	m.add("server", 200, m.user("runtime.main"), m.user("main.main"), m.user("example.org/pkg.(*T).Serve"))
	m.add("node", 70, m.in("/tmp/perf-7.map", "JS:*parse /srv/parser.js:10:4"))
	m.add("py", 50, m.in("/tmp/perf-8.map", "py::handle:/srv/app.py"))
	m.add("rusty", 59, m.user("<alloc::vec::Vec<T> as core::iter::Extend<T>>::extend"), m.in("/lib/libx.so", "[libx.so]"))
	m.add("tiny", 1, main, m.user("never_drawn"))
	return &m.p
}

var (
	scriptText  = regexp.MustCompile(`(?s)<script>.*</script>`)
	payloadText = regexp.MustCompile(`(?s)<metadata class="hotframe-payload">.*</metadata>`)
)

// readable replaces the viewer by nothing and the payload by its content.
func readable(t *testing.T, svg []byte) []byte {
	t.Helper()
	p, err := payloadOf(svg)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("title %q, subtitle %q\n%s", p.title, p.subtitle, dump(p.tree))
	svg = scriptText.ReplaceAllLiteral(svg, []byte("(viewer)"))
	return payloadText.ReplaceAllLiteral(svg, []byte("(payload)\n"+text))
}

func TestWriteSVGGolden(t *testing.T) {
	svg := svgOf(t, goldenProfile(), Options{Title: "Golden", Subtitle: "a frame of each kind", Width: 900})
	testutil.Golden(t, readable(t, svg), "kinds.svg.txt")
}

func TestWriteSVGOfNothing(t *testing.T) {
	for _, p := range []*profile.Profile{{}, &newMaker().p} {
		svg := svgOf(t, p, Options{})
		checkSVG(t, svg)
		if !bytes.Contains(svg, []byte(">all</text>")) {
			t.Error("the root has no label")
		}
	}
}

func TestWriteSVGIsReproducible(t *testing.T) {
	if !bytes.Equal(svgOf(t, manyStacks(300), Options{}), svgOf(t, manyStacks(300), Options{})) {
		t.Error("two runs over the same profile differ")
	}
}

func TestWriteSVGErrors(t *testing.T) {
	m := newMaker()
	m.addNames("", -1, "f")
	if err := WriteSVG(io.Discard, &m.p, Options{}); !errors.Is(err, ErrNegative) {
		t.Errorf("negative value: error %v, want ErrNegative", err)
	}
	for _, width := range []int{-1, 1, minWidth - 1, maxWidth + 1} {
		if err := WriteSVG(io.Discard, &newMaker().p, Options{Width: width}); err == nil {
			t.Errorf("width %d: no error", width)
		}
	}
	for room := range 4 { // the header, the payload and the viewer fail
		w := &fullWriter{room: room * 5_000}
		if err := WriteSVG(w, goldenProfile(), Options{}); !errors.Is(err, errFull) {
			t.Errorf("disk full after %d bytes: error %v, want that of the writer", room*5_000, err)
		}
	}
}

var errFull = errors.New("no space left on device")

type fullWriter struct{ room int }

func (w *fullWriter) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return 0, errFull
	}
	w.room -= len(p)
	return len(p), nil
}

func TestPayloadElementsStaySmall(t *testing.T) {
	m := newMaker()
	rng := uint32(1)
	var name [1 << 20]byte // does not compress
	for range 8 {
		for i := range name {
			rng = rng*1664525 + 1013904223
			name[i] = '!' + byte(rng>>24)%90
		}
		m.addNames("", 1, string(name[:]))
	}
	svg := svgOf(t, &m.p, Options{})
	checkSVG(t, svg)
	if n := bytes.Count(svg, []byte("</metadata>")); n < 2 {
		t.Errorf("%d bytes in %d elements, want several", len(svg), n)
	}
}

func TestViewerSource(t *testing.T) {
	if n := len(viewerSource); n > 40<<10 {
		t.Errorf("viewer.js has %d bytes, more than 40 KiB", n)
	}
	for _, bad := range []string{
		"]]>", "</script", // would end the element that holds it
		"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", // parse what could be a name
		"fetch(", "XMLHttpRequest", "import(", "http://", // the file is self-contained; the one http URL is a namespace
		"`", // indentation is removed, so no text may span lines
	} {
		text := strings.ReplaceAll(viewerSource, "http://www.w3.org/1999/xhtml", "")
		if strings.Contains(text, bad) {
			t.Errorf("viewer.js contains %q", bad)
		}
	}
}

var strokes = regexp.MustCompile(`M([0-9.]+) ([0-9]+)h([0-9.]+)`)

// checkSVG holds that an SVG is well-formed, has only what code hosts show and
// no script but the viewer, that drawn frames lie upon a wider one, and that
// no sample is missing in the payload. It returns the payload.
func checkSVG(t *testing.T, svg []byte) *payload {
	t.Helper()
	type stroke struct{ x, w float64 }
	rows := make(map[int][]stroke)
	var stack []string
	for x := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := x.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 && stack[len(stack)-1] == "script" && string(token) != "\n"+viewer() {
				t.Fatalf("a script that is not the viewer: %.200q", token)
			}
		case xml.StartElement:
			stack = append(stack, token.Name.Local)
			if !strings.Contains(" svg title desc g rect text path metadata script ", " "+token.Name.Local+" ") {
				t.Fatalf("element %q", token.Name.Local)
			}
			for _, a := range token.Attr {
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "style" || a.Name.Local == "href" {
					t.Fatalf("attribute %s=%q", a.Name.Local, a.Value)
				}
				if a.Name.Local != "d" {
					continue
				}
				for _, m := range strokes.FindAllStringSubmatch(a.Value, -1) {
					var s stroke
					var y int
					if _, err := fmt.Sscan(m[1], &s.x); err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Sscan(m[2]+" "+m[3], &y, &s.w); err != nil {
						t.Fatal(err)
					}
					rows[y] = append(rows[y], s)
				}
			}
		}
	}
	bottom := 0
	for y := range rows {
		bottom = max(bottom, y)
	}
	const slack = gap/10. + 1e-6 // a parent ends before the gap, a narrow child may not
	for y, row := range rows {
		for _, s := range row {
			held := y == bottom
			for _, below := range rows[y+rowHeight] {
				held = held || s.w <= below.w && s.x >= below.x && s.x+s.w <= below.x+below.w+slack
			}
			if !held {
				t.Fatalf("frame at y=%d, x=%v, width %v lies on no parent", y, s.x, s.w)
			}
		}
	}
	p, err := payloadOf(svg)
	if err != nil {
		t.Fatalf("payload: %v", err)
	}
	return p
}

// FuzzWriteSVG makes stacks of hostile names and titles. Whatever they are,
// the file is well-formed, holds only the viewer's script, draws children
// within their parents, and loses no sample.
func FuzzWriteSVG(f *testing.F) {
	f.Add("title", "subtitle", "comm", "main\x1ework\x1fcold\x1fleaf", int64(3), uint16(0))
	f.Add(hostile[0], hostile[1], hostile[2], strings.Join(hostile, "\x1f"), int64(1), uint16(300))
	f.Add("", "", "", "a\x1ea\x1fb\x1ea\x1fb\x1fc\x1ed", int64(1<<40), uint16(4000))
	f.Fuzz(func(t *testing.T, title, subtitle, comm, text string, value int64, width uint16) {
		value &= 1<<48 - 1
		m := newMaker()
		files := []string{"/bin/app", "[kernel.kallsyms]", "/tmp/perf-1.map", title}
		var total int64
		for i, stack := range strings.Split(text, "\x1e") {
			var locations []*profile.Location
			for j, name := range strings.Split(stack, "\x1f") {
				locations = append(locations, m.in(files[(i+j)%len(files)], name))
			}
			m.add(comm, value+int64(i), locations...)
			m.p.Sample[i].Value[1] = value / int64(i+1) // no fixed period
			total += value / int64(i+1)
		}
		o := Options{Title: title, Subtitle: subtitle, Width: int(width)}
		var b bytes.Buffer
		if err := WriteSVG(&b, &m.p, o); err != nil {
			if width == 0 || width >= minWidth {
				t.Fatal(err)
			}
			return
		}
		p := checkSVG(t, b.Bytes())
		if got := p.tree.metrics[1].total; got != total {
			t.Fatalf("total %d, want %d", got, total)
		}
		if totals := p.tree.totals(1); totals[0] != total {
			t.Fatalf("root %d, want %d", totals[0], total)
		}
	})
}

func BenchmarkWriteSVG(b *testing.B) {
	for _, size := range []struct {
		frames string
		stacks int
	}{{"1k", 56}, {"100k", 5_300}} {
		b.Run("frames="+size.frames, func(b *testing.B) {
			p := manyStacks(size.stacks)
			b.ReportAllocs()
			for b.Loop() {
				if err := WriteSVG(io.Discard, p, Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(mustTree(b, p).frame)), "frames")
			b.ReportMetric(float64(len(svgOf(b, p, Options{}))), "file-bytes")
		})
	}
}
