package testutil

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	tests := []struct {
		name, a, b, want string
	}{
		{"equal", "a\nb\n", "a\nb\n", ""},
		{"changed in the middle", "a\nb\nc\n", "a\nx\nc\n", "-     2 \"b\\n\"\n+     2 \"x\\n\"\n"},
		{"two places, what is between them is not shown", "a\nb\nc\nd\ne\n", "a\nx\nc\ny\ne\n",
			"-     2 \"b\\n\"\n+     2 \"x\\n\"\n-     4 \"d\\n\"\n+     4 \"y\\n\"\n"},
		{"only got", "", "a\n", "+     1 \"a\\n\"\n"},
		{"no newline at the end", "a\n", "a", "-     1 \"a\\n\"\n-     2 \"\"\n+     1 \"a\"\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := diff(tt.a, tt.b); got != tt.want {
				t.Errorf("diff(%q, %q) =\n%swant\n%s", tt.a, tt.b, got, tt.want)
			}
		})
	}
}

func TestDiffIsBounded(t *testing.T) {
	a, b := strings.Repeat("a\n", 5000), strings.Repeat("b\n", 5000)
	got := strings.Split(strings.TrimSpace(diff(a, b)), "\n")
	if len(got) != maxDiffLines+1 || got[maxDiffLines] != "... 9920 more" {
		t.Errorf("diff has %d lines, the last is %q", len(got), got[len(got)-1])
	}
}

func TestGolden(t *testing.T) {
	t.Chdir(t.TempDir())
	*update = true
	t.Cleanup(func() { *update = false })
	Golden(t, []byte("content\n"), "sub/name")
	got, err := os.ReadFile("testdata/sub/name")
	if err != nil || string(got) != "content\n" {
		t.Fatalf("after -update the file holds %q, %v", got, err)
	}
	*update = false
	Golden(t, []byte("content\n"), "sub/name")
}

// TestRequired runs itself with an environment that has neither the tool nor
// leave to skip.
func TestRequired(t *testing.T) {
	if os.Getenv("TESTUTIL_CHILD") == "1" {
		NeedTool(t, "no-such-program")
		return
	}
	tests := []struct {
		require string
		want    string
	}{
		{"0", "--- SKIP"},
		{"1", "--- FAIL"},
	}
	for _, tt := range tests {
		t.Run("REQUIRE_TOOLS="+tt.require, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestRequired$", "-test.v")
			cmd.Env = append(os.Environ(), "TESTUTIL_CHILD=1", "REQUIRE_TOOLS="+tt.require)
			out, _ := cmd.CombinedOutput() // its status is in the output as well
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("no %q in:\n%s", tt.want, out)
			}
		})
	}
}
