// Package testutil holds what the tests of all packages share: golden files,
// test programs compiled from testdata/programs, and checks of what the
// machine allows. A test whose needs are not met is skipped, or fails where
// the environment says that they must be met.
package testutil

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Capability numbers from include/uapi/linux/capability.h; the last two are
// since Linux 5.8.
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

// NeedPrivileges skips the test unless it may load BPF programs and open perf
// events on all CPUs. With REQUIRE_PRIVILEGED=1 it fails instead.
func NeedPrivileges(t *testing.T) {
	t.Helper()
	caps := effectiveCaps()
	has := func(c uint) bool { return caps>>c&1 == 1 }
	if has(capSysAdmin) || has(capPerfmon) && has(capBPF) {
		return
	}
	missing(t, "REQUIRE_PRIVILEGED", "needs CAP_BPF and CAP_PERFMON: run as root")
}

// effectiveCaps is the CapEff set of this process, 0 where there is none.
func effectiveCaps() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return 0
			}
			return caps
		}
	}
	return 0
}

// NeedTool returns the path of a program that the test runs. Where there is
// none it skips the test; with REQUIRE_TOOLS=1 it fails instead.
func NeedTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "REQUIRE_TOOLS", "needs the program "+name)
	}
	return path
}

func missing(t *testing.T, env, why string) {
	t.Helper()
	if os.Getenv(env) == "1" {
		t.Fatalf("%s (%s=1)", why, env)
	}
	t.Skip(why)
}

// Program compiles testdata/programs/SOURCE of the repository and returns the
// path of the executable, which lives as long as the test. The extension of
// source chooses the compiler; args are added to its optimizing flags.
func Program(t *testing.T, source string, args ...string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(root, "testdata", "programs", source)
	ext := filepath.Ext(source)
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), ext))

	var cmd *exec.Cmd
	switch ext {
	case ".c": // libraries among args must follow the source
		cmd = exec.Command(NeedTool(t, "gcc"), append([]string{"-O2", "-o", out, src}, args...)...)
	case ".cc":
		cmd = exec.Command(NeedTool(t, "g++"), append([]string{"-O2", "-o", out, src}, args...)...)
	case ".go":
		cmd = exec.Command(NeedTool(t, "go"), append(append([]string{"build", "-o", out}, args...), src)...)
	case ".rs":
		cmd = exec.Command(NeedTool(t, "rustc"), append([]string{"-O", "-o", out, src}, args...)...)
	default:
		t.Fatalf("program %q: no compiler for %q", source, ext)
	}
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, msg)
	}
	return out
}

// moduleRoot is the nearest directory with a go.mod, upwards from the
// directory of the package under test, where go test runs it.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}
