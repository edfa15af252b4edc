package unwind

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/testutil"
)

const goCallbacks = `package main

/*
extern void callback(int);

__attribute__((noinline)) void stop(void) { __asm__ volatile("" ::: "memory"); }

// gcc -O2 uses rbp for other things here.
__attribute__((noinline)) int middle(int n, int *v) {
	int a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5];
	callback(n);
	callback(a + b);
	return a * b + c * d + e * f + v[a & 3];
}
*/
import "C"

import "runtime"

func init() { runtime.LockOSThread() }

//go:noinline
func outer(n int) int {
	var v [8]C.int
	return int(C.middle(C.int(n), &v[0]))
}

//export callback
func callback(n C.int) {
	if n > 0 {
		outer(int(n) - 1)
		return
	}
	C.stop()
}

func main() {
	outer(1)
}
`

// TestGoRowsAcrossCgo walks from C through Go that C called, and so on twice, to
// the bottom of the goroutine.
func TestGoRowsAcrossCgo(t *testing.T) {
	testutil.NeedTool(t, "gcc")
	dir := t.TempDir()
	// With an export the preamble may have no definitions.
	head, tail, _ := strings.Cut(goCallbacks, "__attribute__((noinline)) void stop")
	body, tail, _ := strings.Cut(tail, "*/")
	files := map[string]string{
		"main.go": head + "void stop(void);\nint middle(int n, int *v);\n*/" + tail,
		"go.mod":  "module x\n",
		"c.c":     "extern void callback(int);\n__attribute__((noinline)) void stop" + body,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "program")
	build := exec.Command(testutil.NeedTool(t, "go"), "build", "-o", path, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	table, names := goTable(t, path), newGoNames(t, path)
	f := openGo(t, path)
	c, err := Build(f.r, f.size)
	if err != nil {
		t.Fatal(err)
	}
	symbols := cSymbols(t, path)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := startTracee(t, exec.Command(path))
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == "stop" })
	p.runTo(t, symbols[i].Value)

	state := p.regs(t)
	regs := Regs{IP: state.Rip, SP: state.Rsp, FP: state.Rbp, Leaf: true}
	var got []string
	result := StepOK
	for result == StepOK && len(got) < 100 {
		at := regs.IP
		if !regs.Leaf {
			at--
		}
		rule, name := c.Lookup(at), ""
		if i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return at-s.Value < s.Size }); i >= 0 {
			name = symbols[i].Name
		}
		if table.inGo(at) {
			rule, name = table.Lookup(at), names.name(at)
		}
		if !strings.HasPrefix(name, "_cgo") { // the names of wrappers have a hash
			got = append(got, name)
		}
		result = stepAny(AMD64, rule, &regs, p.mem)
	}
	got = slices.Compact(got) // some functions have wrappers of their name
	callback := []string{"runtime.cgocallbackg1", "runtime.cgocallbackg", "runtime.cgocallback", "crosscall2", "callback", "middle",
		"runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_middle", "main.outer"}
	want := slices.Concat([]string{"stop", "runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_stop", "main.callback"}, callback,
		[]string{"main.callback"}, callback, []string{"main.main", "runtime.main", "runtime.goexit"})
	if result != StepEnd || !slices.Equal(got, want) {
		t.Errorf("%q\nresult %d\n%q", want, result, got)
	}
}

func cSymbols(t *testing.T, path string) []elf.Symbol {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(s elf.Symbol) bool { return elf.ST_TYPE(s.Info) != elf.STT_FUNC })
}
