package flamegraph

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// browserPath returns a Chromium. Without one it skips the test; with
// REQUIRE_BROWSER=1 it fails instead.
func browserPath(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("REQUIRE_BROWSER") == "1" {
		t.Fatal("no Chromium found (REQUIRE_BROWSER=1)")
	}
	t.Skip("no Chromium found")
	return ""
}

// A browser is one tab of a Chromium with a profile of its own.
type browser struct {
	t   testing.TB
	ctx context.Context
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browserPath(t)),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // needed as root
		chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true),
		chromedp.WindowSize(1280, 900),
	)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
	b.do(chromedp.EmulateViewport(1280, 900)) // starts the browser; its time is not limited
	b.ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// eval returns the value of an expression of JavaScript in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for an expression to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	for range 200 {
		if eval[bool](b, expression) {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	b.t.Fatalf("never true: %s\nstatus: %q, location: %q", expression,
		eval[string](b, `document.querySelector('.hf .status')?.textContent ?? 'no live layer'`), eval[string](b, `location.href`))
}

// media emulates a CSS media feature.
func (b *browser) media(features ...*emulation.MediaFeature) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// screenshot returns a PNG. With SCREENSHOTS=DIR it is also left there.
func (b *browser) screenshot(name string) []byte {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o666); err != nil {
			b.t.Fatal(err)
		}
	}
	return png
}

// open shows an SVG as a file, with its live layer.
func (b *browser) open(svg []byte) {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "graph.svg")
	if err := os.WriteFile(path, svg, 0o666); err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Navigate("file://" + path))
	b.until(live)
}

const live = `document.readyState === 'complete' && !!document.querySelector('.hf')`

// A spot is where a frame is: in the middle of the values from and to of all,
// at a depth below the root.
type spot struct {
	from, to float64
	depth    int
}

// at returns the spot's place in the window while nothing is zoomed.
func (b *browser) at(s spot, all float64) (x, y float64) {
	b.t.Helper()
	type rect struct{ Left, Bottom, Width float64 }
	r := eval[rect](b, `(e => { const r = e.getBoundingClientRect();
		return {Left: r.left, Bottom: r.bottom, Width: e.clientWidth}})(document.querySelector('.hf .scroll'))`)
	return r.Left + (s.from+s.to)/2/all*r.Width, r.Bottom - (float64(s.depth)+.5)*rowHeight
}

// press sends a key as a keyboard does.
func (b *browser) press(key string) {
	b.t.Helper()
	down := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: key}
	switch key {
	case "Enter":
		down.WindowsVirtualKeyCode, down.Text = 13, "\r"
	default:
		if len(key) == 1 {
			down.Text = key
		}
	}
	up := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyUp, Key: key}
	for _, p := range []input.DispatchKeyEventParams{down, up} {
		if _, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, p); err != nil {
			b.t.Fatal(err)
		}
	}
}

// search replaces what is searched for, as if typed.
func (b *browser) search(text string) {
	b.t.Helper()
	eval[bool](b, fmt.Sprintf(`(i => { i.value = %q; return i.dispatchEvent(new Event('input')) })(document.querySelector('.hf input'))`, text))
}

func (b *browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf(`document.querySelector(%q).textContent`, selector))
}

// untilText waits for an element's text.
func (b *browser) untilText(selector, want string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`document.querySelector(%q).textContent === %q`, selector, want))
}
