package symbolize

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
	"hotframe/internal/testutil"
)

// testProfile has one Location for each kind of address there is.
func testProfile() (*profile.Profile, func(*profile.Mapping) *object.File) {
	im := elfImage{class: elf.ELFCLASS64, text: 0x20000, size: 0x1000, names: names + "_ZN3foo3barEi\x00bad\nname\x00", symbols: append(slices.Clone(imageSymbols),
		elfSymbol(uint32(len(names)), elf.STB_GLOBAL, elf.STT_FUNC, 0x20600, 0x10),
		elfSymbol(uint32(len(names)+len("_ZN3foo3barEi")+1), elf.STB_GLOBAL, elf.STT_FUNC, 0x20610, 0x10))}
	lib := im.bytes()
	perf := "7f0000001000 40 JS:*hot /app.js:1\n"

	m := func(id, start, offset uint64, file string) *profile.Mapping {
		return &profile.Mapping{ID: id, Start: start, Limit: start + 0x100000, Offset: offset, File: file}
	}
	// The image's segment begins at address 0x10000, offset 0.
	libfoo := m(1, 0x7f1000000000, 0, "/usr/lib/libfoo.so")
	kernel := &profile.Mapping{ID: 2, Start: 1 << 63, Limit: ^uint64(0), File: "[kernel.kallsyms]"}
	jit := m(3, 0x7f0000000000, 0x7f0000000000, "/tmp/perf-7.map")
	nojit := m(4, 0x7f2000000000, 0x7f2000000000, "//anon")
	denied := m(5, 0x7f3000000000, 0, "/opt/app/secret")
	script := m(6, 0x7f4000000000, 0, "/usr/bin/script")
	closed := m(7, 0x7f5000000000, 0, "/usr/lib/closed.so (deleted)")
	again := m(8, 0x7f6000000000, 0x600, "/usr/lib/libfoo.so")
	vdso := m(9, 0x7f7000000000, 0, "[vdso]")
	named := m(10, 0x7f8000000000, 0, "/bin/named")
	named.HasFunctions, named.HasLineNumbers = true, true

	files := map[*profile.Mapping]*object.File{
		libfoo: object.NewFile(object.ELF, libfoo.File, bytes.NewReader(lib), int64(len(lib))),
		jit:    object.NewFile(object.PerfMap, jit.File, strings.NewReader(perf), int64(len(perf))),
		nojit:  {Kind: object.PerfMap, Path: "/tmp/perf-8.map"},
		denied: {Path: denied.File},
		script: object.NewFile(object.ELF, script.File, strings.NewReader("#!/bin/sh\n"), 10),
	}
	files[again] = files[libfoo]

	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}},
		Mapping:    []*profile.Mapping{libfoo, kernel, jit, nojit, denied, script, closed, again, vdso, named},
	}
	known := &profile.Function{ID: 17, Name: "known", SystemName: "known"}
	pseudo := &profile.Function{ID: 1, Name: "[unknown: max depth]"}
	p.Function = []*profile.Function{known, pseudo}
	add := func(m *profile.Mapping, addr uint64, lines ...profile.Line) {
		l := &profile.Location{ID: uint64(len(p.Location) + 1), Mapping: m, Address: addr, Line: lines}
		p.Location = append(p.Location, l)
	}
	add(libfoo, libfoo.Start+0x10600)
	add(kernel, 0xffffffff81000041)
	add(libfoo, libfoo.Start+0x10105)
	add(libfoo, libfoo.Start+0x10140)
	add(libfoo, libfoo.Start+0x10610)
	add(libfoo, libfoo.Limit-1)
	add(again, again.Start+0x10600-0x600)
	add(jit, jit.Start+0x1010)
	add(jit, jit.Start+0x2000)
	add(nojit, nojit.Start)
	add(denied, denied.Start+1)
	add(script, script.Start+2)
	add(closed, closed.Start+3)
	add(vdso, vdso.Start+4)
	add(named, named.Start, profile.Line{Function: known, Line: 3})
	add(nil, 0xdead)
	add(nil, 0, profile.Line{Function: pseudo})
	for i, l := range p.Location {
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{l}, Value: []int64{int64(i + 1)}})
	}
	return p, func(m *profile.Mapping) *object.File { return files[m] }
}

func TestSymbolize(t *testing.T) {
	p, file := testProfile()
	s := New(Config{Kallsyms: kallsyms(someKallsyms)})
	if err := s.Symbolize(p, file); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(p.String())
	b.WriteString("Reasons\n")
	for _, r := range s.Reasons() {
		b.WriteString(strings.Join([]string{strings.Repeat("*", r.Locations), r.File, r.Text}, "\t") + "\n")
	}
	testutil.Golden(t, []byte(b.String()), "symbolize.golden")
	for _, l := range p.Location {
		if len(l.Line) == 0 {
			t.Errorf("location %d has no line", l.ID)
		}
	}
}

func TestSymbolizeIsDeterministic(t *testing.T) {
	var first []byte
	for i := range 20 {
		p, file := testProfile()
		if err := New(Config{Kallsyms: kallsyms(someKallsyms)}).Symbolize(p, file); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = b.Bytes()
		} else if !bytes.Equal(b.Bytes(), first) {
			t.Fatal("equal profiles got different bytes")
		}
	}
}

func TestSymbolizeTwiceChangesNothing(t *testing.T) {
	p, file := testProfile()
	s := New(Config{Kallsyms: kallsyms(someKallsyms)})
	if err := s.Symbolize(p, file); err != nil {
		t.Fatal(err)
	}
	before := p.String()
	if err := s.Symbolize(p, file); err != nil {
		t.Fatal(err)
	}
	if after := p.String(); after != before {
		t.Errorf("after:\n%s\nbefore:\n%s", after, before)
	}
	if len(s.Reasons()) != 0 {
		t.Errorf("reasons %v of a profile with all names", s.Reasons())
	}
}

func TestSymbolizeWithoutFiles(t *testing.T) {
	p, _ := testProfile()
	fail := func() (io.ReadCloser, error) { return nil, errors.New("no kallsyms here") }
	if err := New(Config{Kallsyms: fail}).Symbolize(p, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"[libfoo.so]", "[kernel.kallsyms]", "[libfoo.so]", "[libfoo.so]", "[libfoo.so]", "[libfoo.so]", "[libfoo.so]",
		"[unknown: no perf map]", "[unknown: no perf map]", "[unknown: no perf map]",
		"[secret]", "[script]", "[closed.so]", "[vdso]", "known", "[unknown: unmapped]", "[unknown: max depth]",
	}
	for i, l := range p.Location {
		if got := l.Line[0].Function.Name; got != want[i] {
			t.Errorf("location %d: %q, want %q", l.ID, got, want[i])
		}
	}
	for _, m := range p.Mapping {
		if m.HasFunctions != (m.File == "/bin/named") {
			t.Errorf("%s: HasFunctions is %v", m.File, m.HasFunctions)
		}
	}
}

func TestSymbolizeRefusesWhatIsNoProfile(t *testing.T) {
	p, file := testProfile()
	p.Sample[0].Value = nil
	if err := New(Config{Kallsyms: kallsyms("")}).Symbolize(p, file); err == nil {
		t.Error("no error for a sample without a value")
	}
}

// TestSymbolizeThisProgram names functions of the test itself, a Go program.
func TestSymbolizeThisProgram(t *testing.T) {
	path := goTool(t)
	f := open(t, path)
	q := randomCode(f.headers, 300)
	m := &profile.Mapping{ID: 1, Start: 0, Limit: 1 << 40, File: path}
	p := &profile.Profile{SampleType: []*profile.ValueType{{}}, Mapping: []*profile.Mapping{m}}
	for i, q := range q {
		off, ok := f.fileOffset(uint64(q.addr))
		if !ok {
			t.Fatalf("%#x is in no segment", q.addr)
		}
		p.Location = append(p.Location, &profile.Location{ID: uint64(i + 1), Mapping: m, Address: off})
	}
	file := object.NewFile(object.ELF, path, f.r, f.size)
	if err := New(Config{}).Symbolize(p, func(*profile.Mapping) *object.File { return file }); err != nil {
		t.Fatal(err)
	}
	table := gosymTable(t, path)
	for i, l := range p.Location {
		want := table.PCToFunc(uint64(q[i].addr))
		fn := l.Line[0].Function
		if want == nil || fn.Name != want.Name || fn.Filename == "" {
			t.Errorf("%#x: %q in %q, want %v", q[i].addr, fn.Name, fn.Filename, want)
		}
	}
	if !m.HasFunctions || !m.HasFilenames || m.HasInlineFrames {
		t.Errorf("flags: functions %v, files %v, lines %v, inlines %v", m.HasFunctions, m.HasFilenames, m.HasLineNumbers, m.HasInlineFrames)
	}
}
