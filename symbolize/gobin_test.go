package symbolize

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/object"
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
	table := gosymTable(t, original, open(t, original))
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

// goStart is what a pclntab of any version is made of here: function i begins
// at start[i], has one file and one line.
type goStart struct {
	version pclnVersion
	ptrSize int
	starts  []uint64 // one more than functions
	names   []string
}

// encode builds the table as the linker of that version would.
func (g goStart) encode() []byte {
	le := binary.LittleEndian
	magic := map[pclnVersion]uint32{pcln12: 0xfffffffb, pcln116: 0xfffffffa, pcln118: 0xfffffff0, pcln120: 0xfffffff1}[g.version]
	word := func(b []byte, v uint64) []byte {
		if g.ptrSize == 4 {
			return le.AppendUint32(b, uint32(v))
		}
		return le.AppendUint64(b, v)
	}
	entrySize := g.ptrSize
	if g.version >= pcln118 {
		entrySize = 4
	}
	entry := func(b []byte, v uint64) []byte {
		if entrySize == 4 {
			return le.AppendUint32(b, uint32(v))
		}
		return word(b, v)
	}
	n := len(g.names)
	header := le.AppendUint32(nil, magic)
	header = append(header, 0, 0, 1, byte(g.ptrSize))
	header = word(header, uint64(n))

	names, nameOff := []byte{}, []uint32{}
	for _, s := range g.names {
		nameOff = append(nameOff, uint32(len(names)))
		names = append(names, s+"\x00"...)
	}
	files := []byte("\x00main.go\x00")
	values := []byte{0, 2, 100, 0, 16, 100, 0} // at 1: file 0 for 100 bytes; at 4: line 7
	if g.version == pcln12 {
		values[1] = 4 // files count from 1
	}

	functab := func(base int) []byte {
		info := entrySize + 4*map[pclnVersion]int{pcln12: 7, pcln116: 8, pcln118: 8, pcln120: 9}[g.version] + 4
		at := base + (2*n+1)*entrySize
		if g.version == pcln12 {
			at += 4
		}
		var tab, funcs []byte
		for i := range n {
			tab = entry(entry(tab, g.starts[i]), uint64(at+i*info))
			funcs = entry(funcs, g.starts[i])
			name, file, line := nameOff[i], uint32(1), uint32(4)
			if g.version == pcln12 { // one blob, with names behind the functions, then values, then files
				name += uint32(at + n*info)
				file += uint32(at + n*info + len(names))
				line += uint32(at + n*info + len(names))
			}
			for _, v := range []uint32{name, 0, 0, 0, file, line, 0} {
				funcs = le.AppendUint32(funcs, v)
			}
			if g.version >= pcln116 {
				funcs = le.AppendUint32(funcs, 0) // unit
			}
			if g.version >= pcln120 {
				funcs = le.AppendUint32(funcs, uint32(5+i)) // start line
			}
			funcs = append(funcs, 0, 0, 0, 0)
		}
		tab = entry(tab, g.starts[n])
		if g.version == pcln12 {
			tab = le.AppendUint32(tab, uint32(at+n*info+len(names)+len(values)))
		}
		return append(tab, funcs...)
	}
	if g.version == pcln12 {
		b := append(header, functab(len(header))...)
		b = append(append(b, names...), values...)
		b = le.AppendUint32(b, 2) // files, counted from 1
		b = le.AppendUint32(b, uint32(len(b)+4))
		return append(b, files[1:]...)
	}
	units := le.AppendUint32(nil, 1)
	words := 6
	header = word(header, 1) // files
	if g.version >= pcln118 {
		header, words = word(header, 0), 7 // text
	}
	at := 8 + (words+1)*g.ptrSize
	var body []byte
	for _, part := range [][]byte{names, units, files, values, functab(0)} {
		header = word(header, uint64(at+len(body)))
		body = append(body, part...)
	}
	return append(append(header, make([]byte, at-len(header))...), body...)
}

func TestPclntabVersions(t *testing.T) {
	for version := pcln12; version <= pcln120; version++ {
		for _, ptrSize := range []int{4, 8} {
			g := goStart{version, ptrSize, []uint64{0x1000, 0x1040, 0x1050}, []string{"main.main", "main.(*T).f[...]"}}
			b := g.encode()
			tab, err := readPclntab(bytes.NewReader(b), 0, uint64(len(b)))
			if err != nil {
				t.Errorf("version %d, %d bits: %v", version, 8*ptrSize, err)
				continue
			}
			type answer struct {
				name, file      string
				startLine, line int64
			}
			var got []answer
			err = tab.each(func(f goFunc) bool {
				in, ok := tab.info(f)
				if !ok {
					t.Errorf("version %d, %d bits: no info of %#x", version, 8*ptrSize, f.entry)
				}
				file, line := tab.position(in, f.entry+2)
				got = append(got, answer{in.name, file, in.startLine, line})
				return true
			})
			if err != nil {
				t.Errorf("version %d, %d bits: %v", version, 8*ptrSize, err)
			}
			want := []answer{{"main.main", "main.go", 5, 7}, {"main.(*T).f[...]", "main.go", 6, 7}}
			for i := range want {
				if version < pcln120 {
					want[i].startLine = 0
				}
				if version < pcln116 {
					want[i].line = 0
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("version %d, %d bits: %+v, want %+v", version, 8*ptrSize, got, want)
			}
		}
	}
}

func TestReadPclntabErrors(t *testing.T) {
	good := goStart{pcln120, 8, []uint64{0, 0x40}, []string{"main.main"}}.encode()
	change := func(off int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[off:], v)
		return b
	}
	tests := []struct {
		name string
		in   []byte
	}{
		{"empty", nil},
		{"header cut", good[:20]},
		{"another magic number", change(0, 0xf2)},
		{"pointers of 16 bytes", change(7, 16)},
		{"4 billion functions", change(8, 0xff, 0xff, 0xff, 0xff)},
		{"no functions", change(8, 0)},
		{"more functions than bytes", change(8, 200)},
		{"names behind the end", change(8+3*8, 0xff, 0xff)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tab, err := readPclntab(bytes.NewReader(tt.in), 0, uint64(len(tt.in))); err == nil || tab != nil {
				t.Errorf("readPclntab = %v, %v", tab, err)
			}
		})
	}
}

func FuzzPclntab(f *testing.F) {
	for version := pcln12; version <= pcln120; version++ {
		f.Add(goStart{version, 8, []uint64{0x1000, 0x1040, 0x1050}, []string{"main.main", "main.f"}}.encode())
		f.Add(goStart{version, 4, []uint64{0x1000, 0x1040}, []string{"main.main"}}.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := readPclntab(bytes.NewReader(b), 0, uint64(len(b)))
		if (tab == nil) == (err == nil) {
			t.Fatalf("table %v with error %v", tab, err)
		}
		if err != nil {
			return
		}
		n := uint64(0)
		tab.each(func(fn goFunc) bool {
			if fn.end < fn.entry {
				t.Fatalf("function from %#x to %#x", fn.entry, fn.end)
			}
			if n++; n > tab.count {
				t.Fatalf("%d functions of %d", n, tab.count)
			}
			if in, ok := tab.info(fn); ok {
				file, line := tab.position(in, fn.entry)
				if in.name == "" || len(in.name) > windowSize || len(file) > windowSize || line < 0 {
					t.Fatalf("name of %d bytes, file of %d, line %d", len(in.name), len(file), line)
				}
			}
			return true
		})
	})
}

func TestSearchPclntabAcrossChunks(t *testing.T) {
	g := goStart{pcln120, 8, []uint64{0, 0x40}, []string{"main.main"}}.encode()
	for _, at := range []int{8, 1<<20 - 16, 1<<20 - 8, 1 << 20, 2<<20 - 24} {
		b := slices.Concat(make([]byte, at), g)
		f := elfFile{r: bytes.NewReader(b), size: int64(len(b)), headers: &object.Headers{Is64: true}}
		if _, err := f.searchPclntab(0, uint64(len(b))); err != nil {
			t.Errorf("table at %#x: %v", at, err)
		}
	}
}
