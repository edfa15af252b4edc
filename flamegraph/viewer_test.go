package flamegraph

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Spots of frames in goldenProfile, in samples of its 1,000.
var (
	mainSpot = spot{30, 620, 2}
	readSpot = spot{50, 170, 3}
)

// moveTime is the longest that a picture moves, as in viewer.js.
const moveTime = 160 * time.Millisecond

const (
	wholeStatus = "all: 1,000 samples, 10.10 s of cpu, 100.00%"
	mainStatus  = "Zoomed to main: 590 samples, 5.96 s of cpu, 59.00%"
)

func TestViewerZoom(t *testing.T) {
	b := newBrowser(t)
	b.open(svgOf(t, goldenProfile(), Options{Title: "Zoom"}))
	b.untilText(".status", wholeStatus)
	if got := eval[string](b, `document.querySelector('g.hotframe-static').getAttribute('display')`); got != "none" {
		t.Errorf("the static layer is still shown: display %q", got)
	}
	b.screenshot("whole")

	x, y := b.at(mainSpot, 1000)
	b.do(chromedp.MouseClickXY(x, y))
	b.untilText(".status", mainStatus)
	b.untilText("nav", "all›app›main")
	focus := eval[string](b, `location.hash`)
	if !regexp.MustCompile(`^#focus=[0-9a-f]{16}$`).MatchString(focus) {
		t.Errorf("fragment %q after a click", focus)
	}
	b.screenshot("zoomed")

	eval[bool](b, `history.back() ?? true`)
	b.untilText("nav", "all")
	eval[bool](b, `history.forward() ?? true`)
	b.untilText("nav", "all›app›main")

	b.do(chromedp.Reload())
	b.until(live)
	b.untilText("nav", "all›app›main")

	b.do(chromedp.Click(chromedp.CSS(`.hf button[aria-label^="Reset"]`)))
	b.untilText(".status", wholeStatus)
	if got := eval[string](b, `location.hash`); got != "" {
		t.Errorf("fragment %q after a reset", got)
	}

	// Links lead to the same path in another rendering of the profile.
	other := goldenProfile()
	other.Sample[0].Value[0]++
	b.open(svgOf(t, other, Options{Width: 800}))
	eval[bool](b, fmt.Sprintf(`(location.hash = %q) !== ''`, focus))
	b.untilText("nav", "all›app›main")
	eval[bool](b, `(location.hash = '#focus=0123456789abcdef') !== ''`)
	b.untilText(".status", "The linked frame is not in this profile")
}

func TestViewerSearch(t *testing.T) {
	b := newBrowser(t)
	p := goldenProfile()
	b.open(svgOf(t, p, Options{}))
	tr := mustTree(t, p)
	matched := func(pattern string) string {
		return fmt.Sprintf("%.2f%% matched", 100*float64(tr.matched(regexp.MustCompile(pattern)))/float64(tr.metrics[tr.shown].total))
	}
	for _, pattern := range []string{"work", "read", "^m", "never_drawn", "(?:Parser|JS:)", `\[lib`, "all", "nothing"} {
		b.search(pattern)
		b.untilText("output", matched(pattern))
	}
	b.search("WORK")
	b.untilText("output", matched("work"))
	b.screenshot("search")
	b.do(chromedp.Click(chromedp.CSS(`.hf button[aria-label="Match case"]`)))
	b.untilText("output", "0.00% matched")
	if got := eval[string](b, `location.hash`); got != "#search=WORK&case=1" {
		t.Errorf("fragment %q", got)
	}
	b.search("(")
	b.until(`document.querySelector('.hf input').getAttribute('aria-invalid') === 'true'`)
	if got := b.text("output"); !strings.Contains(got, "nvalid regular expression") {
		t.Errorf("result of an invalid expression %q", got)
	}

	// As a user does: slash, text, Enter, then n and N in the graph.
	b.press("Escape")
	eval[bool](b, `document.querySelector('.scroll').focus() ?? true`)
	b.search("")
	b.press("/")
	for _, key := range strings.Split("work", "") {
		b.press(key)
	}
	b.untilText("output", "45.00% matched")
	b.press("Enter")
	b.untilText(".status", "Match 1 of 2: work: 390 samples, 3.94 s of cpu, 39.00%")
	eval[bool](b, `document.querySelector('.scroll').focus() ?? true`)
	b.press("n")
	b.untilText(".status", "Match 2 of 2: work.cold: 60 samples, 606.06 ms of cpu, 6.00%")
	b.press("n")
	b.untilText(".status", "Match 1 of 2: work: 390 samples, 3.94 s of cpu, 39.00%")
	b.press("N")
	b.untilText(".status", "Match 2 of 2: work.cold: 60 samples, 606.06 ms of cpu, 6.00%")

	// The share of what is zoomed, and matches that are too narrow to be seen.
	x, y := b.at(mainSpot, 1000)
	b.do(chromedp.MouseClickXY(x, y))
	b.untilText("output", "45.00% matched, 76.27% of zoomed")
	b.search("never_drawn")
	b.untilText("output", "0.10% matched, 0.00% of zoomed")
	b.press("n")
	b.untilText("nav", "all›tiny")
}

func TestViewerKeys(t *testing.T) {
	b := newBrowser(t)
	b.open(svgOf(t, goldenProfile(), Options{}))
	b.untilText(".status", wholeStatus)
	b.press("ArrowUp")
	b.untilText(".status", wholeStatus)
	for _, step := range []struct{ key, status string }{
		{"ArrowUp", "app: 620 samples"}, // the widest child
		{"ArrowRight", "node: 70 samples"},
		{"ArrowLeft", "app: 620 samples"},
		{"ArrowUp", "main: 590 samples"},
		{"ArrowDown", "app: 620 samples"},
		{"ArrowUp", "main: 590 samples"},
		{"Enter", "Zoomed to main: 590 samples"},
		{"Escape", "all: 1,000 samples"},
	} {
		b.press(step.key)
		b.until(fmt.Sprintf(`document.querySelector('.status').textContent.startsWith(%q)`, step.status))
	}
	b.press("i")
	b.until(`location.hash === '#layout=icicle'`)
	b.screenshot("icicle")
	b.press("ArrowDown") // now away from the root
	b.until(`document.querySelector('.status').textContent.startsWith('work: ')`)
	b.press("c")
	b.until(`/^(Copied work|The browser did not allow to copy: work)$/.test(document.querySelector('.status').textContent)`)

	// Every control is reached by Tab and shows that it has the focus.
	controls := eval[int](b, `[...document.querySelectorAll('.hf button, .hf input, .hf .scroll')].filter(e => !e.disabled && e.tabIndex === 0).length`)
	if want := eval[int](b, `document.querySelectorAll('.hf button:not(:disabled), .hf input, .hf .scroll').length`); controls != want || want < 4 {
		t.Errorf("%d of %d controls can have the focus", controls, want)
	}
}

func TestViewerTooltip(t *testing.T) {
	b := newBrowser(t)
	b.open(svgOf(t, goldenProfile(), Options{}))
	b.untilText(".status", wholeStatus)
	x, y := b.at(readSpot, 1000)
	b.do(chromedp.MouseEvent("mouseMoved", x, y))
	b.untilText(".tip b", "read")
	got := b.text(".tip")
	for _, want := range []string{"native", "120 samples", "1.21 s of cpu", "12.00% of all", "self 0 samples", "self 0.00%"} {
		if !strings.Contains(got, want) {
			t.Errorf("tooltip %q does not say %q", got, want)
		}
	}
	b.screenshot("tooltip")
	x, y = b.at(mainSpot, 1000)
	b.do(chromedp.MouseClickXY(x, y))
	b.untilText(".status", mainStatus)
	b.do(chromedp.Sleep(2*moveTime), chromedp.MouseEvent("mouseMoved", x, y))
	b.until(`document.querySelector('.tip').textContent.includes('100.00% of the zoomed frame')`)
}

// TestViewerHostileNames opens a file full of names that want to be markup.
func TestViewerHostileNames(t *testing.T) {
	b := newBrowser(t)
	m := newMaker()
	for i, name := range hostile {
		m.addNames(name, 10, name, hostile[(i+1)%len(hostile)])
	}
	m.addNames(strings.Repeat("x", 1<<20), 1, strings.Repeat("<script>", 1<<17))
	b.open(svgOf(t, &m.p, Options{Title: hostile[0], Subtitle: hostile[1]}))
	if got, want := b.text(".hf h1"), hostile[0]; got != want {
		t.Errorf("heading %q, want %q", got, want)
	}
	all := float64(10*len(hostile) + 1)
	tr := mustTree(t, &m.p)
	totals, ends := tr.totals(tr.shown), tr.ends()
	at := 0.
	for n := int32(1); n < int32(len(tr.frame)); n = ends[n] {
		width := float64(totals[n]) / period
		if width > 1 {
			x, y := b.at(spot{at, at + width, 1}, all)
			b.do(chromedp.MouseEvent("mouseMoved", x, y))
			quoted, err := json.Marshal(tr.frames[tr.frame[n]].name)
			if err != nil {
				t.Fatal(err)
			}
			b.until(fmt.Sprintf(`document.querySelector('.tip b').textContent === %s`, quoted))
			b.do(chromedp.MouseClickXY(x, y))
			b.until(fmt.Sprintf(`document.querySelector('nav [aria-current]').title.endsWith(%s)`, quoted))
			b.press("0")
			b.untilText("nav", "all")
			b.do(chromedp.Sleep(2 * moveTime))
		}
		at += width
	}
	b.search(`</script>`)
	b.until(`document.querySelector('output').textContent.endsWith('% matched')`)
	b.screenshot("hostile")
	if eval[bool](b, `'pwned' in window`) {
		t.Error("a name ran as a script")
	}
	if got := eval[int](b, `document.querySelectorAll('script').length + document.images.length`); got != 1 {
		t.Errorf("%d scripts and images, want the viewer alone", got)
	}
}

// TestStaticLayer embeds the file as an image, where scripts never run.
func TestStaticLayer(t *testing.T) {
	b := newBrowser(t)
	dir := t.TempDir()
	m := newMaker()
	for _, name := range hostile {
		m.addNames(name, 10, name)
	}
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("golden.svg", svgOf(t, goldenProfile(), Options{Title: "As an image"}))
	write("hostile.svg", svgOf(t, &m.p, Options{Title: hostile[0], Width: 640}))
	write("page.html", []byte(`<body style="margin:0"><img src="golden.svg"><img src="hostile.svg">`))
	b.do(chromedp.Navigate("file://" + filepath.Join(dir, "page.html")))
	b.until(`[...document.images].every(i => i.complete)`)
	if got, want := eval[[]int](b, `[...document.images].map(i => i.naturalWidth)`), []int{1200, 640}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("widths %v, want %v", got, want)
	}
	picture, err := png.Decode(bytes.NewReader(b.screenshot("image")))
	if err != nil {
		t.Fatal(err)
	}
	colours := make(map[string]int)
	for y := range 400 {
		for x := range 1200 {
			r, g, bl, _ := picture.At(x, y).RGBA()
			colours[fmt.Sprintf("%02x%02x%02x", r>>8, g>>8, bl>>8)]++
		}
	}
	for _, k := range []kind{kindProcess, kindKernel, kindNative, kindGo} {
		most := 0
		for tone := range uint8(tones) {
			most = max(most, colours[shade(palette[k].light, tone)])
		}
		if most < 1000 {
			t.Errorf("%d pixels of a shade of %s", most, kindWord[k])
		}
	}
	if eval[bool](b, `'pwned' in window`) {
		t.Error("a name ran as a script")
	}
}

func TestViewerFallsBackToStaticLayer(t *testing.T) {
	b := newBrowser(t)
	svg := svgOf(t, goldenProfile(), Options{})
	broken := bytes.Replace(svg, []byte(`class="hotframe-payload">`), []byte(`class="hotframe-payload">AAAA`), 1)
	path := filepath.Join(t.TempDir(), "broken.svg")
	if err := os.WriteFile(path, broken, 0o666); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate("file://"+path), chromedp.Sleep(10*moveTime))
	if !eval[bool](b, `!document.querySelector('foreignObject') && !document.querySelector('g.hotframe-static').hasAttribute('display') &&
		document.documentElement.getAttribute('viewBox') !== null`) {
		t.Error("a damaged payload left no static picture")
	}
}

// TestViewerInsidePage has two files pasted into one page, which keeps its own
// fragment.
func TestViewerInsidePage(t *testing.T) {
	b := newBrowser(t)
	_, svg, _ := bytes.Cut(svgOf(t, goldenProfile(), Options{}), []byte("\n")) // HTML has no XML declaration
	path := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(path, bytes.Join([][]byte{[]byte("<!doctype html>"), svg, svg}, nil), 0o666); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate("file://" + path + "#focus=0123456789abcdef"))
	b.until(`[...document.querySelectorAll('.hf .status')].map(e => e.textContent).join('|') === ` + fmt.Sprintf("%q", wholeStatus+"|"+wholeStatus))
	x, y := b.at(mainSpot, 1000)
	b.do(chromedp.MouseClickXY(x, y))
	b.untilText(".status", mainStatus)
	if got := eval[string](b, `location.hash`); got != "#focus=0123456789abcdef" {
		t.Errorf("the page's fragment became %q", got)
	}
}

func TestViewerOfNothing(t *testing.T) {
	b := newBrowser(t)
	b.open(svgOf(t, &newMaker().p, Options{}))
	b.untilText(".status", "all: 0 samples, 0 ns of cpu, 0.00%")
}

// TestViewerShowsWhatIsNarrow has 20,000 processes of 0.06 pixels each, and one
// match among them.
func TestViewerShowsWhatIsNarrow(t *testing.T) {
	b := newBrowser(t)
	m := newMaker()
	for i := range 20_000 {
		m.addNames(fmt.Sprintf("process %05d", i), 1, "main")
	}
	b.open(svgOf(t, &m.p, Options{}))
	const row = `(() => { const c = document.querySelector('.hf canvas'), r = devicePixelRatio;
		const y = Math.round(c.height - (1.5 * 17) * r);
		return c.getContext('2d').getImageData(0, y, c.width, 1).data })()`
	white := `[...` + row + `].filter((v, i) => i % 4 < 3 && v === 255).length / 3 / document.querySelector('.hf canvas').width`
	if got := eval[float64](b, white); got > .01 {
		t.Errorf("%.0f%% of the row of processes is blank", 100*got)
	}
	b.search("process 12345")
	b.untilText("output", "0.01% matched")
	b.until(`[...` + row + `].some((v, i, a) => i % 4 === 0 && v === 0x7a && a[i + 1] === 0x1f && a[i + 2] === 0xa2)`)
	b.press("Escape")
	b.search("process 12345")
	eval[bool](b, `document.querySelector('.scroll').focus() ?? true`)
	b.untilText("output", "0.01% matched")
	b.press("n")
	b.until(`document.querySelector('nav').textContent.startsWith('all›process 12345')`)
}

func TestViewerGivesUpSlowPatterns(t *testing.T) {
	b := newBrowser(t)
	m := newMaker()
	for i := range 60 {
		m.addNames("", 1, strings.Repeat("a", i+1)+"!")
	}
	b.open(svgOf(t, &m.p, Options{}))
	b.search("^(a+)+$")
	b.untilText("output", "this pattern takes too long")
	b.search("aaa!")
	b.untilText("output", "96.67% matched")
}

func TestViewerLabels(t *testing.T) {
	b := newBrowser(t)
	b.do(chromedp.Navigate("about:blank"))
	_, rest, ok := strings.Cut(viewerSource, "// ---- labels")
	section, _, ok2 := strings.Cut(rest, "// ---- numbers")
	if !ok || !ok2 {
		t.Fatal("viewer.js has no section of labels")
	}
	for _, tt := range labelTests(t) {
		name, err := json.Marshal(tt.Name)
		if err != nil {
			t.Fatal(err)
		}
		got := eval[string](b, fmt.Sprintf("(() => { //%s\nreturn fit(shortForms(%s), %d) })()", section, name, tt.Cells))
		if got != tt.Want {
			t.Errorf("%s: %q in %d cells is %q, want %q", tt.Why, tt.Name, tt.Cells, got, tt.Want)
		}
	}
}

func TestViewerFillsWindow(t *testing.T) {
	b := newBrowser(t)
	const width = `document.querySelector('.hf canvas').getBoundingClientRect().width`
	b.open(svgOf(t, goldenProfile(), Options{}))
	b.until(width + ` === 1260`)
	b.do(chromedp.EmulateViewport(700, 500, chromedp.EmulateScale(2)))
	b.until(width + ` === 680`)
	b.until(`document.querySelector('.hf canvas').width === 1360`)
	b.screenshot("narrow")
	b.open(svgOf(t, goldenProfile(), Options{Width: 400}))
	b.until(width + ` === 380`)
}

func TestViewerDark(t *testing.T) {
	b := newBrowser(t)
	b.open(svgOf(t, goldenProfile(), Options{Title: "Dark", Subtitle: "as the system prefers"}))
	b.media(&emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"})
	b.until(`getComputedStyle(document.querySelector('.hf')).backgroundColor === 'rgb(22, 24, 28)'`)
	const root = `(c => [...c.getContext('2d').getImageData(c.width - 9, c.height - 9, 1, 1).data].slice(0, 3).join())(document.querySelector('.hf canvas'))`
	want := shade(palette[kindProcess].dark, toneOf(rootName))
	var r, g, bl int
	if _, err := fmt.Sscanf(want, "%2x%2x%2x", &r, &g, &bl); err != nil {
		t.Fatal(err)
	}
	b.until(root + fmt.Sprintf(` === '%d,%d,%d'`, r, g, bl))
	b.screenshot("dark")
}
