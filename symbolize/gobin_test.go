package symbolize

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/testutil"
)

// buildGo builds the Go program testdata/cgo, with or without its C function.
func buildGo(t *testing.T, env []string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "program")
	src := "testdata/cgo/main.go"
	if slices.Contains(env, "CGO_ENABLED=0") {
		b, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		s := strings.ReplaceAll(string(b), "import \"C\"\n", "")
		s = strings.ReplaceAll(s, "C.from_c(C.int(len(os.Args)))", "len(os.Args)")
		src = filepath.Join(dir, "main.go")
		if err := os.WriteFile(src, []byte(s), 0o666); err != nil {
			t.Fatal(err)
		}
	} else {
		testutil.NeedTool(t, "gcc")
	}
	run(t, env, goTool(t), slices.Concat([]string{"build", "-o", out}, args, []string{src})...)
	return out
}

// withoutSections is a copy of a program whose ELF header has no section headers.
func withoutSections(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[40:48]) // e_shoff
	clear(b[60:64]) // e_shnum, e_shstrndx
	out := filepath.Join(t.TempDir(), "sectionless")
	if err := os.WriteFile(out, b, 0o777); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPclntabOfBuilds finds the table and the address of the code in programs
// of each kind and compares all with debug/gosym.
func TestPclntabOfBuilds(t *testing.T) {
	strip := "-ldflags=-s -w"
	tests := []struct {
		name string
		slow bool // the standard library is compiled once more
		env  []string
		args []string
	}{
		{"static", false, []string{"CGO_ENABLED=0"}, nil},
		{"static, stripped", false, []string{"CGO_ENABLED=0"}, []string{strip}},
		{"cgo", false, []string{"CGO_ENABLED=1"}, nil},
		{"cgo, stripped", false, []string{"CGO_ENABLED=1"}, []string{strip}},
		{"PIE, stripped", true, []string{"CGO_ENABLED=0"}, []string{strip, "-buildmode=pie"}},
		{"cgo, PIE, stripped", true, []string{"CGO_ENABLED=1"}, []string{strip, "-buildmode=pie"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.slow && testing.Short() {
				t.Skip("compiles the standard library")
			}
			path := buildGo(t, tt.env, tt.args...)
			q := randomCode(open(t, path).headers, 1000)
			compareWithGosym(t, path, path, slices.Clone(q))
			if tt.env[0] == "CGO_ENABLED=0" {
				t.Run("no section headers", func(t *testing.T) {
					compareWithGosym(t, path, withoutSections(t, path), q)
				})
			}
		})
	}
}

func compareWithGosym(t *testing.T, original, path string, q []query) {
	t.Helper()
	if err := (goFunctions{open(t, path)}).resolve(q); err != nil {
		t.Fatal(err)
	}
	table := gosymTable(t, original)
	for _, q := range q {
		want := ""
		file, line, fn := table.PCToLine(uint64(q.addr))
		if fn != nil {
			want = fn.Name
		}
		if nameOf(q) != want {
			t.Errorf("%#x: %q, want %q", q.addr, nameOf(q), want)
			continue
		}
		if want == "" || line < 0 { // between functions
			continue
		}
		if f := q.frames[0]; f.file == "" || f.line != 0 && (f.file != file || f.line != int64(line)) {
			t.Errorf("%#x: %s:%d, want %s:%d", q.addr, f.file, f.line, file, line)
		}
	}
}

// TestCgoNamesBothLanguages has C functions named by .symtab and Go functions
// by pclntab.
func TestCgoNamesBothLanguages(t *testing.T) {
	path := buildGo(t, []string{"CGO_ENABLED=1"})
	oracle := newELFOracle(t, path)
	want := map[string]bool{"from_c": true, "main.main": false, "main.sum[go.shape.int]": false}
	var addrs []elfAddr
	for _, s := range oracle.symbols {
		if s.Name == "from_c" || s.Name == "main.main" || strings.HasPrefix(s.Name, "main.sum[go.shape.int]") {
			addrs = append(addrs, elfAddr(s.Value)+1)
		}
	}
	q := queries(addrs...)
	j := job{queries: q}
	f := open(t, path)
	j.resolve(goFunctions{f}, symbols{f})
	if len(q) != len(want) {
		t.Fatalf("%d addresses, want %d", len(q), len(want))
	}
	for _, q := range q {
		mangled, ok := want[nameOf(q)]
		if !ok || q.frames[0].mangled != mangled {
			t.Errorf("%#x: %+v", q.addr, q.frames)
		}
		if !mangled && (filepath.Base(q.frames[0].file) != "main.go" || q.frames[0].startLine == 0) {
			t.Errorf("%#x: %+v, want file and start line", q.addr, q.frames)
		}
	}
}
