package testutil

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPrograms: each program compiles, ends by itself and without a word, and
// has the functions that tests look for.
func TestPrograms(t *testing.T) {
	frames := []string{"-fno-omit-frame-pointer"}
	tests := []struct {
		source      string
		flags, args []string
		functions   []string // as the linker names them
		output      string
	}{
		{"shares.c", frames, []string{"0.1"}, []string{"hot", "warm", "cool", "spin"}, ""},
		{"deep.c", frames, []string{"1000", "0.05"}, []string{"bottom", "recurse"}, ""},
		{"threads.c", frames, []string{"0.05"}, []string{"alpha_work", "beta_work", "gamma_work"}, ""},
		{"hostile.c", frames, []string{"0.05", "a\xff\n"}, []string{"jit_caller"}, ""},
		{"syscalls.c", frames, []string{"0.05"}, []string{"read_zeros", "write_nothing"}, ""},
		{"exec.c", frames, []string{"0.1"}, []string{"before_exec", "after_exec"}, ""},
		{"churn.c", frames, []string{"1000", "0.001"}, []string{"churn_child"}, "1\n"},
		{"cppwork.cc", frames, []string{"0.05"}, []string{
			"_ZNK4shop4CartINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEELj3EE5totalEm",
			"_ZN4shop12_GLOBAL__N_17unnamedEm",
		}, ""},
		{"gowork.go", nil, []string{"0.05"}, []string{
			"main.inner", "main.outer", "main.(*ledger).settle", "main.reduce[go.shape.string]",
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.source, func(t *testing.T) {
			t.Parallel()
			path := Program(t, tt.source, tt.flags...)
			output, err := exec.Command(path, tt.args...).CombinedOutput()
			if err != nil || string(output) != tt.output {
				t.Errorf("%q %v: prints %q, want %q; %v", tt.source, tt.args, output, tt.output, err)
			}
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			symbols, err := f.Symbols()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range tt.functions {
				if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == name && elf.ST_TYPE(s.Info) == elf.STT_FUNC }) {
					t.Errorf("%s has no function %s", tt.source, name)
				}
			}
		})
	}
}

// TestHostileProgram looks at the program while it runs.
func TestHostileProgram(t *testing.T) {
	const comm = "</s>\xff\n;\x1b[31m"
	cmd := exec.Command(Program(t, "hostile.c"), "60", comm)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	perfMap := fmt.Sprintf("/tmp/perf-%d.map", cmd.Process.Pid)
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove(perfMap)
	}()

	var content string
	for !strings.HasSuffix(content, " no newline at the end") {
		time.Sleep(time.Millisecond)
		b, _ := os.ReadFile(perfMap) // it comes soon; go test's timeout is the limit
		content = string(b)
	}
	for _, name := range []string{"</script><script>alert('jit')</script>\n", "\xff\xfe \x1b[31m\ttab\n"} {
		if !strings.Contains(content, name) {
			t.Errorf("the perf map has no name %q", name)
		}
	}
	if got, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "comm")); string(got) != comm+"\n" {
		t.Errorf("comm is %q, want %q; %v", got, comm, err)
	}
}

// TestChurnProgram: the number of children is what was asked for, as far as
// the machine is fast enough.
func TestChurnProgram(t *testing.T) {
	output, err := exec.Command(Program(t, "churn.c"), "100", "0.2").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(output)))
	if err != nil || n < 1 || n > 20 {
		t.Errorf("started %q children, want 1 to 20", output)
	}
}
