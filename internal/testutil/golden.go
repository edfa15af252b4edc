package testutil

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

// Golden compares got with testdata/NAME of the package under test. With
// -update it writes the file instead.
func Golden(t *testing.T, got []byte, name string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update to write it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-want +got; run the test with -update if got is right):\n%s",
			path, diff(string(want), string(got)))
	}
}

const (
	maxDiffLines = 80      // printed; who needs more has git diff after -update
	maxDiffCells = 4 << 20 // of the table below
)

// diff lists the lines that only a (-) or only b (+) has, under the line
// numbers where they stand.
func diff(a, b string) string {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	skip := 0
	for skip < min(len(x), len(y)) && x[skip] == y[skip] {
		skip++
	}
	x, y = x[skip:], y[skip:]
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}

	var out []string
	line := func(mark string, n int, s string) {
		out = append(out, fmt.Sprintf("%s %5d %q\n", mark, skip+n+1, s))
	}
	i, j := 0, 0
	if same := commonLines(x, y); same != nil {
		for i < len(x) && j < len(y) {
			switch {
			case x[i] == y[j]:
				i, j = i+1, j+1
			case same[i+1][j] >= same[i][j+1]:
				line("-", i, x[i])
				i++
			default:
				line("+", j, y[j])
				j++
			}
		}
	}
	for ; i < len(x); i++ {
		line("-", i, x[i])
	}
	for ; j < len(y); j++ {
		line("+", j, y[j])
	}
	if more := len(out) - maxDiffLines; more > 0 {
		out = append(slices.Clip(out[:maxDiffLines]), fmt.Sprintf("... %d more\n", more))
	}
	return strings.Join(out, "")
}

// commonLines is the table of the longest common subsequence: [i][j] is its
// length for x[i:] and y[j:]. It is nil where the table would be too large.
func commonLines(x, y []string) [][]int32 {
	if (len(x)+1)*(len(y)+1) > maxDiffCells {
		return nil
	}
	n := make([][]int32, len(x)+1)
	for i := range n {
		n[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	return n
}
