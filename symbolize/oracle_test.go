package symbolize

import (
	"cmp"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/object"
	"hotframe/internal/testutil"
)

// open opens an ELF file of this machine.
func open(t testing.TB, path string) elfFile {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := object.ReadHeaders(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return elfFile{r: f, size: info.Size(), headers: h}
}

// libc is the path of the C library, or "".
func libc() string {
	for _, pattern := range []string{"/lib/*/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// goTool is the path of the go command.
func goTool(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildCXX compiles testdata/names.cc.
func buildCXX(t *testing.T, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	run(t, nil, testutil.NeedTool(t, "g++"), slices.Concat([]string{"-O1", "-o", out}, args, []string{"testdata/names.cc"})...)
	return out
}

// randomCode returns n addresses in the executable sections of a file, in
// order and without repetition.
func randomCode(h *object.Headers, n int) []query {
	rnd := rand.New(rand.NewPCG(1, 2))
	var addrs []elfAddr
	var total uint64
	for _, s := range h.Sections {
		if s.Flags&object.SectionExec != 0 {
			total += s.Size
		}
	}
	for range n {
		at := rnd.Uint64N(total)
		for _, s := range h.Sections {
			if s.Flags&object.SectionExec == 0 {
				continue
			}
			if at < s.Size {
				addrs = append(addrs, elfAddr(s.Addr+at))
				break
			}
			at -= s.Size
		}
	}
	return queries(addrs...)
}

func queries(addrs ...elfAddr) []query {
	slices.Sort(addrs)
	var q []query
	for _, a := range slices.Compact(addrs) {
		q = append(q, query{addr: a})
	}
	return q
}

func nameOf(q query) string {
	if len(q.frames) == 0 {
		return ""
	}
	return q.frames[0].name
}

// elfOracle names addresses by the symbols that debug/elf reads, one by one.
type elfOracle struct {
	sections []*elf.Section
	symbols  []elf.Symbol
}

func newELFOracle(t *testing.T, path string) *elfOracle {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := &elfOracle{sections: f.Sections}
	static, _ := f.Symbols()
	dynamic, _ := f.DynamicSymbols()
	for _, s := range append(static, dynamic...) {
		kind := elf.ST_TYPE(s.Info)
		function := kind == elf.STT_FUNC || kind == elf.STT_GNU_IFUNC || kind == elf.STT_NOTYPE && s.Size > 0
		if !function || s.Name == "" || s.Section == elf.SHN_UNDEF || s.Section >= elf.SHN_LORESERVE {
			continue
		}
		if sec := f.Sections[s.Section]; sec.Flags&elf.SHF_EXECINSTR == 0 || s.Value < sec.Addr || s.Value >= sec.Addr+sec.Size {
			continue
		}
		o.symbols = append(o.symbols, s)
	}
	slices.SortStableFunc(o.symbols, func(a, b elf.Symbol) int { return cmp.Compare(a.Value, b.Value) })
	return o
}

func (o *elfOracle) name(addr uint64) string {
	binding := func(s elf.Symbol) int {
		switch elf.ST_BIND(s.Info) {
		case elf.STB_LOCAL:
			return 0
		case elf.STB_WEAK:
			return 1
		}
		return 2
	}
	underscores := func(s elf.Symbol) int { return len(s.Name) - len(strings.TrimLeft(s.Name, "_")) }
	n, _ := slices.BinarySearchFunc(o.symbols, addr, func(s elf.Symbol, a uint64) int {
		if s.Value <= a {
			return -1
		}
		return 1
	})
	var holds []elf.Symbol
	nearest := uint64(0)
	if n > 0 {
		nearest = o.symbols[n-1].Value
	}
	nearestSized := slices.ContainsFunc(o.symbols[:n], func(s elf.Symbol) bool { return s.Value == nearest && s.Size > 0 })
	for _, s := range o.symbols[:n] {
		if s.Size > 0 && addr < s.Value+s.Size || s.Size == 0 && s.Value == nearest && !nearestSized {
			if sec := o.sections[s.Section]; addr < sec.Addr+sec.Size {
				holds = append(holds, s)
			}
		}
	}
	if len(holds) == 0 {
		return ""
	}
	return slices.MinFunc(holds, func(a, b elf.Symbol) int {
		return cmp.Or(-cmp.Compare(a.Value, b.Value), -cmp.Compare(min(a.Size, 1), min(b.Size, 1)),
			-cmp.Compare(binding(a), binding(b)), cmp.Compare(underscores(a), underscores(b)), -cmp.Compare(len(a.Name), len(b.Name)))
	}).Name
}

// TestSymbolsAgreeWithDebugELF compares every answer with the symbols that
// debug/elf reads and a search that is slow and plain.
func TestSymbolsAgreeWithDebugELF(t *testing.T) {
	files := map[string]func(t *testing.T) string{
		"libc": func(t *testing.T) string {
			if libc() == "" {
				t.Skip("no glibc here")
			}
			return libc()
		},
		"go":              func(t *testing.T) string { return goTool(t) },
		"C++":             func(t *testing.T) string { return buildCXX(t) },
		"C++ static":      func(t *testing.T) string { return buildCXX(t, "-static") },
		"C++ dynsym only": func(t *testing.T) string { return buildCXX(t, "-s", "-rdynamic") },
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			path := file(t)
			f := open(t, path)
			q := randomCode(f.headers, 2000)
			if err := (symbols{f}).resolve(q); err != nil {
				t.Fatal(err)
			}
			oracle := newELFOracle(t, path)
			named := 0
			for _, q := range q {
				if got, want := nameOf(q), oracle.name(uint64(q.addr)); got != want {
					t.Errorf("%#x: %q, want %q", q.addr, got, want)
				}
				if len(q.frames) > 0 {
					named++
				}
			}
			if named < len(q)/20 {
				t.Errorf("%d of %d addresses named: nothing was compared", named, len(q))
			}
			t.Logf("%d of %d addresses named", named, len(q))
		})
	}
}

// TestPclntabAgreesWithGosym compares with debug/gosym, which knows functions
// and lines but not inlined calls.
func TestPclntabAgreesWithGosym(t *testing.T) {
	path := goTool(t)
	q := randomCode(open(t, path).headers, 2000)
	compareWithGosym(t, path, path, q)
	named, lines := 0, 0
	for _, q := range q {
		if len(q.frames) > 0 {
			named++
			if q.frames[0].line != 0 { // else in an inlined call
				lines++
			}
		}
	}
	if named < len(q)*9/10 || lines < named/4 {
		t.Errorf("%d of %d addresses named, %d with lines: too few were compared", named, len(q), lines)
	}
	t.Logf("%d of %d addresses named, %d outside inlined calls with equal lines", named, len(q), lines)
}

// gosymTable reads the table of a program. Where its code begins is taken from
// its moduledata or its symbols.
func gosymTable(t *testing.T, path string) *gosym.Table {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := f.Section(".gopclntab")
	if s == nil {
		t.Skipf("%s: no .gopclntab", path)
	}
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	var text uint64
	if m := f.Section(".go.module"); m != nil { // behind a pointer, six slices, and three pointers
		b := make([]byte, 8)
		if _, err := m.ReadAt(b, 8*(1+6*3+3)); err != nil {
			t.Fatal(err)
		}
		text = binary.LittleEndian.Uint64(b)
	}
	if all, err := f.Symbols(); err == nil {
		for _, s := range all {
			if s.Name == "runtime.text" {
				text = s.Value
			}
		}
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// run runs a command that must succeed.
func run(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, b)
	}
}
