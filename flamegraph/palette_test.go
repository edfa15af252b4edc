package flamegraph

import (
	"encoding/hex"
	"math"
	"strings"
	"testing"
)

// WCAG 2.1, relative luminance and contrast ratio.
func luminance(t *testing.T, rgb string) float64 {
	t.Helper()
	b, err := hex.DecodeString(rgb)
	if err != nil || len(b) != 3 {
		t.Fatalf("colour %q", rgb)
	}
	linear := func(c byte) float64 {
		v := float64(c) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(b[0]) + 0.7152*linear(b[1]) + 0.0722*linear(b[2])
}

func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// TestPaletteContrast holds the AA level for normal text, 4.5 to 1.
func TestPaletteContrast(t *testing.T) {
	const aa = 4.5
	for k := range kindCount {
		for tone := range uint8(tones) {
			if c := contrast(t, shade(palette[k].light, tone), textOnLight); c < aa {
				t.Errorf("%s, light, shade %d: contrast %.2f", kindWord[k], tone, c)
			}
			if c := contrast(t, shade(palette[k].dark, tone), textOnDark); c < aa {
				t.Errorf("%s, dark, shade %d: contrast %.2f", kindWord[k], tone, c)
			}
		}
	}
	for _, pair := range [][2]string{
		{mutedOnLight, "ffffff"},
		{"1b1b1b", "ffffff"}, {"5a6068", "ffffff"}, {"7a1fa2", "ffffff"}, {"b3261e", "ffffff"}, // the viewer's page
		{"e8eaed", "16181c"}, {"a3a9b2", "16181c"}, {"e0a3ff", "1b1b1b"}, {"ff8a80", "16181c"}, // the same, dark
	} {
		if c := contrast(t, pair[0], pair[1]); c < aa {
			t.Errorf("%s on %s: contrast %.2f", pair[0], pair[1], c)
		}
		if !strings.Contains(viewerSource, "#"+pair[0]) {
			t.Errorf("viewer.js does not use %s: this test is out of date", pair[0])
		}
	}
}

func TestPaletteRows(t *testing.T) {
	for k := range kindCount {
		for _, row := range []string{palette[k].light, palette[k].dark} {
			if got, want := len(row), 7*tones-1; got != want {
				t.Errorf("%s: row of %d bytes, want %d", kindWord[k], got, want)
			}
		}
	}
}
