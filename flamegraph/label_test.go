package flamegraph

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

type labelTest struct {
	Why   string
	Name  string
	Cells int
	Want  string
}

// labelTests are those that viewer.js is held to as well.
func labelTests(t *testing.T) []labelTest {
	t.Helper()
	text, err := os.ReadFile("testdata/labels.json")
	if err != nil {
		t.Fatal(err)
	}
	var tests []labelTest
	if err := json.Unmarshal(text, &tests); err != nil {
		t.Fatal(err)
	}
	return tests
}

func TestFitLabel(t *testing.T) {
	for _, tt := range labelTests(t) {
		t.Run(tt.Why, func(t *testing.T) {
			if got := fitLabel(tt.Name, tt.Cells); got != tt.Want {
				t.Errorf("fitLabel(%q, %d) = %q, want %q", tt.Name, tt.Cells, got, tt.Want)
			}
		})
	}
}

func FuzzFitLabel(f *testing.F) {
	for _, name := range hostile {
		f.Add(name, uint8(7))
	}
	f.Add("ns::T<int>::f(int) const", uint8(3))
	f.Add(strings.Repeat("(<[", 1000), uint8(200))
	f.Fuzz(func(t *testing.T, name string, cells uint8) {
		name = valid(name)
		label := fitLabel(name, int(cells))
		if width := cellWidth(label); width > int(cells) {
			t.Errorf("fitLabel(%q, %d) = %q of %d cells", name, cells, label, width)
		}
		if !utf8.ValidString(label) {
			t.Errorf("fitLabel(%q, %d) = %q, invalid UTF-8", name, cells, label)
		}
		if cellWidth(name) <= int(cells) && cells >= 3 && len(name) <= maxLabel && label != name {
			t.Errorf("fitLabel(%q, %d) = %q although the name fits", name, cells, label)
		}
		if name != "" && cells >= 3 && label == "" {
			t.Errorf("fitLabel(%q, %d) is empty", name, cells)
		}
	})
}
